"""Fills docs/science.md, and draws its figures, from the cells that are there."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detex_pack.detex.evaluate.paired import Comparison, holm
from detex_pack.pretraining.judge import WEIGHTS
from devtools.machine import ROOT, commit

from . import figures, tables
from .arms import ARMS, tuned_values
from .calibration import REPORT as JUDGE_REPORT
from .calibration import agreement
from .cells import Cell, load_sound, sha256_of
from .hypotheses import (
    PLACES_AGAIN,
    PLACES_FIRST,
    PREDECLARED,
    SECONDARY,
    Grid,
    Hypothesis,
    fullest,
    judge_hypothesis,
    study,
)
from .markdown import fill, table
from .measures import Measured, measured

PAGE = ROOT / "docs" / "science.md"
FOLDER = ROOT / "docs" / "science"
INSIDE = FOLDER / "inside.json"
TEMPLATE = Path(__file__).with_name("disentangle.md")
NOTES = "notes.md"  # in FOLDER, written by hand: what was looked into, and why
ALPHA = 0.05
SUBJECT = ("S", "E", "E_b", "E_p", "L_b", "pale", "L_b'", "L_p", "Q")
PLACED = ("S", "E", "E_b", "E_bs", "E_bw", "E_p", "L_b", "pale", "L_p", "R_P", "R_B", "D")
WORDS = ("S_P", "R_P", "R_B", "R_PB", "D")


def write_report(subjects: int | None = None, seeds: int | None = None) -> Path:
    """Writes everything; -> the page. subjects and seeds size the main grid."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    main = study("main", subjects, seeds)
    arms = study("arms", subjects, main.seeds)  # its cells hold the main grid's
    seen, read = measured(arms.cells()), measured(arms.cells(), "reader")
    figures.hypothesis_figure(seen, main, FOLDER / "hypotheses.png")
    figures.arms_figure(seen, arms, FOLDER / "arms.png")
    notes = FOLDER / NOTES
    parts = {
        **head(main, seen),
        **hypotheses(PREDECLARED, main, seen, read),
        **places(main),
        "arms": tables.arm_table(arms, seen, arms.arms, SUBJECT),
        "words": tables.arm_table(arms, seen, [n for n in arms.arms if ARMS[n].words], WORDS),
        "further": further(arms, seen, read),
        **pictures(arms),
        **{name: tables.sweep(name, FOLDER) for name in tables.SWEEPS},
        **tables.open_questions(),
        **inside(),
        **judge(main),
        "notes": notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        **how(main),
    }
    PAGE.write_text(fill(TEMPLATE, parts), encoding="utf-8")
    return PAGE


def head(grid: Grid, seen: Measured) -> dict[str, Any]:
    cells = grid.cells()
    state = f"All {len(cells)} cells of the main grid are there."
    if missing := len([cell for cell in cells if cell not in seen]):
        state = (
            f"**Incomplete: {missing} of {len(cells)} cells of the main grid are missing.** A "
            "comparison that lacks a cell shows no estimate and no p."
        )
    return {"subjects": len(grid.identities), "seeds": grid.seeds, "state": state}


def hypotheses(
    family: Sequence[Hypothesis], grid: Grid, seen: Measured, read: Measured
) -> dict[str, str]:
    """The tests of one family, adjusted for their number."""
    tables = {"judge": seen, "reader": read}
    tested = {h: judge_hypothesis(h, tables[h.eye], grid) for h in family}
    found = {h.name: comparison.p for h, (comparison, _) in tested.items() if comparison}
    adjusted = holm(found, len(family))
    rows, failed = [], []
    for h, (comparison, missing) in tested.items():
        p = adjusted.get(h.name, 1.0)
        holds = "yes" if p < ALPHA else "**no**"
        result = [*outcome(comparison, missing, p), holds if comparison else "-"]
        rows.append([h.name, h.claim, measured_as(h), *result, by_reader(h, read, grid)])
        failed += not_shown(h, comparison, missing, p)
    columns = ("", "claim", "measured", "estimate", "95 %", "adjusted p", "holds")
    text = table((*columns, "by the exact reader"), rows)
    return {"hypotheses": text, "not_shown": "\n".join(failed)}


def places(main: Grid) -> dict[str, str]:
    """Composites on places: their own tests, on the main grid's subjects and seeds."""
    grid = study("on_places", len(main.identities), main.seeds)
    seen, read = (measured(grid.cells(), eye) for eye in ("judge", "reader"))
    again, first = (hypotheses(f, grid, seen, read) for f in (PLACES_AGAIN, PLACES_FIRST))
    return {
        "places_hypotheses": again["hypotheses"],
        "places_not_shown": again["not_shown"],
        "places_at_first": first["hypotheses"],
        "places_arms": tables.arm_table(grid, seen, grid.arms, PLACED),
        "places_tried": tables.places_tried(),
    }


def not_shown(
    hypothesis: Hypothesis, found: Comparison | None, missing: Sequence[Cell], adjusted: float
) -> Iterator[str]:
    """What did not come out as predicted, in words."""
    name = f"- **{hypothesis.name}** ({hypothesis.claim})"
    if found is None:
        yield f"{name}: not tested, missing cells: {len(missing)}; the first: {missing[0]}."
    elif adjusted >= ALPHA:
        ahead = hypothesis.sign * found.estimate + hypothesis.margin > 0
        way = "points the predicted way, not surely" if ahead else "points the other way"
        yield f"{name}: not shown. The estimate {way} (adjusted p {shown_p(adjusted)})."


def further(grid: Grid, seen: Measured, read: Measured) -> str:
    """What was not predeclared; over as many seeds as both arms have."""
    rows = []
    for h in SECONDARY:
        whole = fullest(seen, grid, *h.arms)
        found, missing = judge_hypothesis(h, seen, whole)
        result = outcome(found, missing, found.p if found else 1.0)
        again = by_reader(h, read, whole) if found else "-"
        rows.append([h.claim, measured_as(h), whole.seeds, *result, again])
    columns = ("claim", "measured", "seeds", "estimate", "95 %", "p", "by the exact reader")
    return table(columns, rows)


def measured_as(hypothesis: Hypothesis) -> str:
    other = ARMS[hypothesis.other].title if hypothesis.other else f"{hypothesis.level:g}"
    return f"{hypothesis.measure}, {ARMS[hypothesis.arm].title} minus {other}"


def outcome(found: Comparison | None, missing: Sequence[Cell], p: float) -> list[str]:
    """Estimate, interval and p."""
    if found is None:
        return [f"missing cells: {len(missing)}", "-", "-"]
    return [f"{found.estimate:+.3f}", interval(found), shown_p(p)]


def by_reader(hypothesis: Hypothesis, read: Measured, grid: Grid) -> str:
    again, _ = judge_hypothesis(hypothesis, read, grid)
    return f"{again.estimate:+.3f}, {interval(again)}" if again else "-"


def interval(found: Comparison) -> str:
    return f"{found.low:+.3f} to {found.high:+.3f}"


def shown_p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def pictures(grid: Grid) -> dict[str, str]:
    """A page of pictures chosen by rule: first subject, first seed."""
    identity = grid.identities[0]
    every = [cell for name in grid.arms for cell in replace(grid, arms=(name,)).of(identity, 0)]
    drawn = figures.pictures_page([cell for cell in every if load_sound(cell)], FOLDER)
    shape, main, second, pattern = identity
    earlier = "(This page is of an earlier run: its strips are not on this disk.)"
    first = f"a {main} and {second} {pattern} {shape}"
    return {"first_subject": first, "pictures": "" if drawn else earlier}


def inside() -> dict[str, Any]:
    """What benchmarks.inside measured: words, maps and gradients during training."""
    report = json.loads(INSIDE.read_text(encoding="utf-8"))
    words, gradients = [], []
    for arm, subjects in report["arms"].items():
        runs = list(subjects.values())
        steps = list(runs[0])
        for step in steps:
            looks = [run[step] for run in runs]
            norms = [mean(looks, "norms", w) for w in ("V", "P", "B", "P apart", "B apart")]
            maps = [mean(looks, "concentration", word) for word in ("V", "P", "B")]
            words.append([ARMS[arm].title, step, *norms, *maps])
        for learned in runs[0][steps[0]]["gradients"]:
            columns = [
                mean([run[step] for run in runs], "gradients", learned, term, scale=1000)
                for term in ("diffusion", "prior", "attention")
                for step in (steps[0], steps[-1])
            ]
            gradients.append([ARMS[arm].title, learned, *columns])
    of_words = ("norm of V", "of P", "of B", "P apart", "B apart", "map of V", "of P", "of B")
    of_gradients = ("diffusion", "last", "prior", "last", "attention", "last")
    return {
        "inside_subjects": len(next(iter(report["arms"].values()))),
        "inside_machine": "{device}, {machine}, commit {commit}".format(**report),
        "inside_words": table(("arm", "step", *of_words), words),
        "inside_gradients": table(("arm", "of", *of_gradients), gradients),
    }


def mean(looks: Sequence[Any], *keys: str, scale: float = 1) -> str:
    """The mean over looks of what lies at these keys; a dash where they lack it."""
    for key in keys:
        looks = [look.get(key, {}) for look in looks]
    return f"{scale * np.mean(looks):.2f}" if all(isinstance(v, float) for v in looks) else "-"


def judge(grid: Grid) -> dict[str, Any]:
    """Whether the judge can be trusted: calibration and the exact reader."""
    told = json.loads(JUDGE_REPORT.read_text(encoding="utf-8"))
    found = [result for cell in grid.cells() if (result := load_sound(cell))]
    agreed = agreement(found) if found else {}
    columns = [
        (picture, kind)
        for picture in ("clean", "blurred, noisy, colours shifted")
        for kind in ("judge right", "calibration error", "reader right", "both agree")
    ]
    rows = []
    for factor in told["clean"]:
        values = [told[picture][factor].get(kind) for picture, kind in columns]
        values.append(agreed.get(factor))
        rows.append([factor, *("-" if v is None else f"{v:.3f}" for v in values)])
    names = [f"{kind}, {picture.split(',')[0]}" for picture, kind in columns]
    state = "**These figures are of another judge: run benchmarks.calibration.**\n\n"
    return {
        "judge_state": "" if told["judge"] == sha256_of(WEIGHTS) else state,
        "renders": told["renders"],
        "judge_seed": told["seed"],
        "judge": table(("factor", *names, "agree, generated"), rows),
    }


def how(grid: Grid) -> dict[str, Any]:
    """When and where the main grid was run."""
    results = [r for cell in grid.cells() if (r := load_sound(cell))]
    dates = sorted({r["date"] for r in results})
    spent = sum(sum(r["seconds"].values()) for r in results) / 3600
    return {
        "settings": ", ".join(f"{name} {value:g}" for name, value in tuned_values().items()),
        "last_seed": grid.seeds - 1,
        "devices": ", ".join(sorted({r["device"] for r in results})) or "-",
        "hours": f"{spent:.1f}",
        "dates": " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])) or "-",
        "commits": ", ".join(sorted({r["commit"] for r in results})) or "-",
        "made": f"{date.today().isoformat()}, commit {commit() or '-'}, {platform.machine()}",
        "torch": torch.__version__,
        "base_model": grid.cells()[0].recipe()["base_model"][:12] if results else "-",
    }
