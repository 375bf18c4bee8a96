"""The sections of docs/science.md that show what is there, without testing anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np

from detex_pack.detex.toys.scene import Identity

from . import figures
from .arms import ARMS, REGISTER, VARIANTS
from .calibration import REPORT as JUDGE_REPORT
from .calibration import agreement
from .cells import load_sound, sha256_of
from .hypotheses import Grid, fullest, missing_cells, study, subject_means
from .machine import ROOT
from .measures import Measured, measured
from .paired import compare

FOLDER = ROOT / "docs" / "science"
_SUBJECT = ("S", "E", "E_b", "E_p", "L_b", "pale", "L_b'", "L_p", "Q")
_WORDS = ("S_P", "R_P", "R_B", "R_PB", "D")
_SWEPT = ("S", "E_b", "E_p", "L_b", "D")
SWEEPS = {  # what is swept, and a remark
    "rho": (
        "rho, share of confounded photos",
        "Of the four photos 1, 3 and 4 show the home background and position: at 0 none is shared.",
    ),
    "photos": (
        "photos",
        "Of them 1, 1, 2, 3 and 6 show the home background and position: with 2, none is shared.",
    ),
    "steps": ("steps", ""),
}


def arms_section(grid: Grid, table: Measured) -> str:
    """Every arm's means, in a table and a figure."""
    figures.arms_figure(table, grid, FOLDER / "arms.png")
    with_words = [name for name in grid.arms if ARMS[name].words]
    return "\n".join(
        [
            "## All arms",
            "",
            "Means over subjects and seeds, in prompts without [P] and [B]. S: the subject is",
            "right (1 is best). E: edits of background and position are obeyed; E_b, E_p: each",
            "alone. L_b: backgrounds of the photos in neutral prompts, beyond what the base model",
            "does. pale: neutral pictures that the judge takes for sand or snow, the grounds",
            "nearest to the blank white of training. L_b': a photo's background appears though",
            "the prompt names another. L_p: how far the positions in neutral prompts are from the",
            "base model's (by chance alone about 0.2). Q: likeness of neutral pictures to whole",
            "photos, background included. Colours are identity here, so there are no colour",
            "edits. The exact formulae: benchmarks/measures.py.",
            "",
            *_arm_rows(grid, table, grid.arms, _SUBJECT),
            "",
            "Arms of one seed compare with the last row. With the words, S_P: the subject is",
            "right with [P_i]. R_P, R_B, R_PB: [P_i], [B_j] and both bring back what photo i and",
            "j show, whatever [V] brings of it. D: they bring nothing else.",
            "",
            *_arm_rows(grid, table, with_words, _WORDS),
            "",
            "![Mean and interval of every arm and measure](science/arms.png)",
        ]
    )


def _arm_rows(
    grid: Grid, table: Measured, names: Sequence[str], measures: Sequence[str]
) -> Iterator[str]:
    """A table of the arms' means, each over as many seeds as it has."""
    yield f"| arm | subjects | seeds | {' | '.join(measures)} |"
    yield "|---" * (3 + len(measures)) + "|"
    rows = [(ARMS[name].title, name, fullest(table, grid, name)) for name in names]
    if any(own.seeds < grid.seeds for _, _, own in rows):
        rows.append(("DETEX, first seed alone", "detex", replace(grid, seeds=1)))
    for title, name, own in rows:
        columns = [subject_means(table, own, name, m) for m in measures]
        yield f"| {title} | {_whole(columns[0], grid)} | {own.seeds} | {_means(columns)} |"


def _means(columns: Iterable[Mapping[Identity, float]]) -> str:
    """Each measure's mean over subjects, as cells of a table's row."""
    return " | ".join(f"{np.mean(list(c.values())):.3f}" if c else "-" for c in columns)


def _whole(means: Sized, grid: Grid) -> str:
    """How many subjects there are, and whether that is all."""
    count = len(means)
    return str(count) if count == len(grid.identities) else f"**{count}, incomplete**"


def pictures_section(grid: Grid) -> str:
    """A page of pictures chosen by rule: first subject, first seed."""
    identity = grid.identities[0]
    every = [cell for name in grid.arms for cell in replace(grid, arms=(name,)).of(identity, 0)]
    cells = [cell for cell in every if load_sound(cell)]
    path = FOLDER / "pictures.jpg"
    drawn = figures.pictures_page(cells, path)
    if not drawn and not path.is_file():
        return ""
    shape, main, second, pattern = identity
    return "\n".join(
        [
            "## Pictures",
            "",
            f"The first subject, a {main} and {second} {pattern} {shape}, seed 0, the first four",
            "pictures of each kind: neutral; another background; another position and background;",
            "then [P_i] alone and [B_j] alone, photos 1 to 4, where the arm has them.",
            "" if drawn else "(This page is of an earlier run: its strips are not on this disk.)",
            "![The first pictures of each arm](science/pictures.jpg)",
        ]
    )


def sweep_section(name: str) -> str:
    """One swept setting: its figure and its table."""
    label, remark = SWEEPS[name]
    grid = study(name)
    field = {"rho": "rhos"}.get(name, name)
    grids = {value: replace(grid, **{field: (value,)}) for value in getattr(grid, field)}
    table = measured(grid.cells())
    missing = sum(len(missing_cells(table, one, *one.arms)) for one in grids.values())
    learned = {getattr(cell, name) for cell in table if cell.arm != "base"}
    if len(learned) < 2:  # the cells of the default are there for other reasons
        return (
            f"## Sweep: {label}\n\nNot run yet: `python -m benchmarks.disentangle --study {name}`."
        )
    figures.sweep_figure(table, grids, label, _SWEPT, FOLDER / f"{name}.png")
    body = [
        f"| {label.split(',')[0]} | arm | subjects | {' | '.join(_SWEPT)} | seconds |",
        "|---" * (4 + len(_SWEPT)) + "|",
    ]
    for value, one in grids.items():
        for arm in one.arms:
            columns = [subject_means(table, one, arm, m) for m in _SWEPT]
            body.append(
                f"| {value:g} | {ARMS[arm].title} | {len(columns[0])} | {_means(columns)} | "
                f"{_train_seconds(one, arm)} |"
            )
    state = f"**{missing} cells are missing.** " if missing else ""
    return "\n".join(
        [
            f"## Sweep: {label}",
            "",
            f"{state}{grid.seeds} seed a subject. seconds: median training time of a run.",
            *filter(None, [remark]),
            "",
            f"![Measures by {label}](science/{name}.png)",
            "",
            *body,
        ]
    )


def _train_seconds(grid: Grid, arm: str) -> str:
    found = [load_sound(cell) for cell in replace(grid, arms=(arm,)).cells() if cell.arm == arm]
    spent = [result["seconds"]["train"] for result in found if result]
    return f"{np.median(spent):.0f}" if spent else "-"


def register_section() -> str:
    """What each open question of the paper changes, and each change of improved mode, on subjects
    that nothing else reports.
    """
    grid = study("register")
    table = measured(grid.cells())
    if not table:
        return ""
    if not subject_means(table, grid, "detex", "S"):
        again = (
            "Not run yet on this base model: `python -m benchmarks.disentangle --study register`."
        )
        return f"## The open questions of the paper\n\n{again}"
    return "\n".join(
        [
            "## The open questions of the paper",
            "",
            f"Each row but that of improved mode changes one setting, on {len(grid.identities)} "
            "subjects that no test",
            "above uses, one seed: the Hodges-Lehmann estimate of the change, with its 95 %",
            "interval. Few subjects and many rows: a hint, and no test.",
            "",
            *_deviations(grid, table, "detex", REGISTER),
            "",
            "And with improved mode, the nodes' defaults:",
            "",
            *_deviations(grid, table, "improved", VARIANTS),
        ]
    )


def _deviations(grid: Grid, table: Measured, plain: str, names: Sequence[str]) -> Iterator[str]:
    """A table of the means of the arm `plain`, and of what each other arm changes."""
    measures = ("S", "E_b", "E_p", "L_b", "pale", "R_P", "R_B", "D")
    yield f"| deviation from {ARMS[plain].title} | subjects | {' | '.join(measures)} |"
    yield "|---" * (2 + len(measures)) + "|"
    base = [subject_means(table, grid, plain, m) for m in measures]
    yield f"| none: the values themselves | {_whole(base[0], grid)} | {_means(base)} |"
    for name in names:
        columns = [subject_means(table, grid, name, m) for m in measures]
        row = [_change(*pair, grid) for pair in zip(columns, base, strict=True)]
        yield f"| {ARMS[name].title} | {_whole(columns[0], grid)} | {' | '.join(row)} |"


def _change(one: Mapping[Identity, float], plain: Mapping[Identity, float], grid: Grid) -> str:
    """One arm minus another over all subjects; a dash where one lacks either."""
    if not one.keys() == plain.keys() == set(grid.identities):
        return "-"
    found = compare([one[identity] - plain[identity] for identity in grid.identities])
    return f"{found.estimate:+.3f} ({found.low:+.2f} to {found.high:+.2f})"


def inside_section() -> str:
    """What benchmarks.inside measured: words, maps and gradients during training."""
    file = FOLDER / "inside.json"
    if not file.is_file():
        return "## Inside a training\n\nNot measured yet: `python -m benchmarks.inside`."
    report = json.loads(file.read_text(encoding="utf-8"))
    words, gradients = [], []
    for arm, subjects in report["arms"].items():
        runs = list(subjects.values())
        steps = list(runs[0])
        for step in steps:
            at = [run[step] for run in runs]
            columns = [
                *(_mean(at, "norms", word) for word in ("V", "P", "B", "P apart", "B apart")),
                *(_mean(at, "concentration", word) for word in ("V", "P", "B")),
            ]
            words.append(f"| {ARMS[arm].title} | {step} | {' | '.join(columns)} |")
        for learned in runs[0][steps[0]]["gradients"]:
            columns = [
                _mean([run[step] for run in runs], "gradients", learned, term, scale=1000)
                for term in ("diffusion", "prior", "attention")
                for step in (steps[0], steps[-1])
            ]
            gradients.append(f"| {ARMS[arm].title} | {learned} | {' | '.join(columns)} |")
    count = len(next(iter(report["arms"].values())))
    return "\n".join(
        [
            "## Inside a training",
            "",
            f"`python -m benchmarks.inside`: means over {count} of the subjects that settings",
            f"are chosen on; {report['device']}, {report['machine']}, commit {report['commit']}.",
            "Norm: of a word, in norms of the token table's typical row; apart: distance of the",
            "words of two photos, in the same unit. Map: a word's attention inside the subject",
            "over its mean; 1 means that it looks at the subject no more than elsewhere.",
            "",
            "| arm | step | norm of V | of P | of B | P apart | B apart | map of V | of P | of B |",
            "|---" * 10 + "|",
            *words,
            "",
            "The norm of each weighted loss term's gradient, times 1000, over 32 batches: before",
            "the first step, and after the last.",
            "",
            "| arm | of | diffusion | last | prior | last | attention | last |",
            "|---" * 8 + "|",
            *gradients,
            "",
            "![Maps of the words in two photos, after the last step](science/inside.png)",
        ]
    )


def _mean(looks: Sequence[Any], *keys: str, scale: float = 1) -> str:
    """The mean over looks of what lies at these keys; a dash where they lack it."""
    values = []
    for look in looks:
        for key in keys:
            look = look.get(key, {})
        values.append(look)
    return f"{scale * np.mean(values):.2f}" if all(isinstance(v, float) for v in values) else "-"


def judge_section(grid: Grid) -> str:
    """Whether the judge can be trusted: calibration and the exact reader."""
    lines = [
        "## The judge and the exact reader",
        "",
        "The judge is a network of its own architecture and seed, trained on renders with blur,",
        "noise and shifted colours. The exact reader has no network: it draws 9,000 layouts and",
        "takes the likeliest (benchmarks/reader.py).",
        "",
    ]
    if JUDGE_REPORT.is_file():
        told = json.loads(JUDGE_REPORT.read_text(encoding="utf-8"))
        if told["judge"] != sha256_of(ROOT / "devtools" / "judge.safetensors"):
            lines += ["**These figures are of another judge: run benchmarks.calibration.**", ""]
        found = {cell: result for cell in grid.cells() if (result := load_sound(cell))}
        lines += _judge_rows(told, agreement(found) if found else {})
    else:
        lines.append("Not examined yet: `python -m benchmarks.calibration`.")
    return "\n".join(lines)


def _judge_rows(told: Mapping[str, Any], agreed: Mapping[str, float]) -> list[str]:
    kinds = ("judge right", "calibration error", "reader right", "both agree")
    pictures = ("clean", "blurred, noisy, colours shifted")
    names = [f"{kind}, {picture.split(',')[0]}" for picture in pictures for kind in kinds]
    rows = [
        f"{told['renders']} new renders, seed {told['seed']}; last column: agreement on all",
        "generated pictures of the main grid.",
        "",
        f"| factor | {' | '.join(names)} | agree, generated |",
        "|---" * (len(names) + 2) + "|",
    ]
    for factor in told["clean"]:
        values = [told[picture][factor].get(kind) for picture in pictures for kind in kinds]
        cells = ["-" if v is None else f"{v:.3f}" for v in values]
        last = f"{agreed[factor]:.3f}" if factor in agreed else "-"
        rows.append(f"| {factor} | {' | '.join(cells)} | {last} |")
    return rows
