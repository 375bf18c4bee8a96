"""Writes docs/science.md and its figures from the cells that are there."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import torch

from . import figures, tables
from .arms import ARMS, tuned_values
from .cells import Cell, load_sound
from .hypotheses import PREDECLARED, SECONDARY, Grid, Hypothesis, fullest, judge_hypothesis, study
from .machine import ROOT, commit
from .measures import Measured, measured
from .paired import Comparison, holm
from .tables import FOLDER

PAGE = ROOT / "docs" / "science.md"
NOTES = FOLDER / "notes.md"  # written by hand: what was looked into, and why
ALPHA = 0.05


def write_report(subjects: int | None = None, seeds: int | None = None) -> Path:
    """Writes everything; -> the page. subjects and seeds size the main grid."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    grid = study("main", subjects, seeds)
    arms = study("arms", subjects, grid.seeds)  # its cells hold the main grid's
    table, read = measured(arms.cells()), measured(arms.cells(), "reader")
    sections = [
        _head(grid, table),
        _hypotheses(grid, table, read),
        tables.arms_section(arms, table),
        _further(arms, table, read),
        tables.pictures_section(arms),
        *(tables.sweep_section(name) for name in tables.SWEEPS),
        tables.register_section(),
        tables.inside_section(),
        tables.judge_section(grid),
        NOTES.read_text(encoding="utf-8").strip() if NOTES.is_file() else "",
        _how(grid),
    ]
    PAGE.write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")
    return PAGE


def _head(grid: Grid, table: Measured) -> str:
    cells = grid.cells()
    state = f"All {len(cells)} cells of the main grid are there."
    if missing := len([cell for cell in cells if cell not in table]):
        state = (
            f"**Incomplete: {missing} of {len(cells)} cells of the main grid are missing.** A "
            "comparison that lacks a cell shows no estimate and no p."
        )
    return f"""# Do the words disentangle?

Written by `python -m benchmarks.disentangle --report`. Do not edit it by hand.

In the pack's little world every factor of a picture is known: shape, two colours, pattern,
background, position. So it can be measured what [V], [P_i] and [B_i] really carry.
{len(grid.identities)} subjects, {grid.seeds} seeds each, 4 photos of which 3 share one background
and one position (rho 0.75).

{state}"""


def _hypotheses(grid: Grid, table: Measured, read: Measured) -> str:
    figures.hypothesis_figure(table, grid, FOLDER / "hypotheses.png")
    rows = _tested(PREDECLARED, table, grid, family=len(PREDECLARED))
    body = [
        "| | claim | measured | estimate | 95 % | adjusted p | holds | by the exact reader |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for hypothesis, found, adjusted, missing in rows:
        again, _ = judge_hypothesis(hypothesis, read, grid)
        body.append(
            f"| {hypothesis.name} | {hypothesis.claim} | {_measured_as(hypothesis)} | "
            f"{_figures(found, adjusted, missing)} | {_interval(again, ', ') if again else '-'} |"
        )
    return "\n".join(
        [
            "## The hypotheses",
            "",
            "Declared before the first run of all; this is their second test, on a new base model",
            "(the notes below). Seeds and prompts are averaged for each subject; subjects are",
            "compared in pairs. Estimate: Hodges-Lehmann. 95 %: bootstrap over subjects. p:",
            "one-sided Wilcoxon signed-rank test, by Holm's method for all six.",
            "",
            *body,
            "",
            "![Every subject in both arms of each hypothesis](science/hypotheses.png)",
            "",
            *_failed(rows),
        ]
    )


def _further(grid: Grid, table: Measured, read: Measured) -> str:
    """What was not predeclared; over as many seeds as both arms have."""
    body = [
        "| claim | measured | seeds | estimate | 95 % | p | by the exact reader |",
        "|---|---|---|---|---|---|---|",
    ]
    for hypothesis in SECONDARY:
        whole = fullest(table, grid, hypothesis.arm, hypothesis.other)
        found, missing = judge_hypothesis(hypothesis, table, whole)
        told = _lacking(missing, 4)
        if found:
            again, _ = judge_hypothesis(hypothesis, read, whole)
            told = (
                f"{_interval(found)} | {_p(found.p)} | {_interval(again, ', ') if again else '-'}"
            )
        body.append(f"| {hypothesis.claim} | {_measured_as(hypothesis)} | {whole.seeds} | {told} |")
    return "\n".join(
        [
            "Further questions, not predeclared, each tested alone: p is not adjusted for how many",
            "there are. Those from fidelity not worse by 0.02 on were asked when the answers above",
            "were known.",
            "",
            *body,
        ]
    )


Tested = tuple[Hypothesis, Comparison | None, float | None, list[Cell]]


def _tested(
    hypotheses: Sequence[Hypothesis], table: Measured, grid: Grid, family: int
) -> list[Tested]:
    found = {h.name: judge_hypothesis(h, table, grid) for h in hypotheses}
    adjusted = holm({name: c.p for name, (c, _) in found.items() if c}, family)
    return [(h, found[h.name][0], adjusted.get(h.name), found[h.name][1]) for h in hypotheses]


def _failed(rows: Sequence[Tested]) -> Iterator[str]:
    """What did not come out as predicted, in words."""
    for hypothesis, found, adjusted, missing in rows:
        head = f"- **{hypothesis.name}** ({hypothesis.claim})"
        if found is None or adjusted is None:
            yield f"{head}: not tested, {_count(missing)}; the first: {missing[0]}."
        elif adjusted >= ALPHA:
            ahead = hypothesis.sign * found.estimate + hypothesis.margin > 0
            way = "points the predicted way, not surely" if ahead else "points the other way"
            yield f"{head}: not shown. The estimate {way} (adjusted p {_p(adjusted)})."


def _measured_as(hypothesis: Hypothesis) -> str:
    one, other = ARMS[hypothesis.arm].title, ARMS[hypothesis.other].title
    return f"{hypothesis.measure}, {one} minus {other}"


def _figures(found: Comparison | None, adjusted: float | None, missing: Sequence[Cell]) -> str:
    if found is None or adjusted is None:
        return _lacking(missing, 4)
    return f"{_interval(found)} | {_p(adjusted)} | {'yes' if adjusted < ALPHA else '**no**'}"


def _interval(found: Comparison, between: str = " | ") -> str:
    return f"{found.estimate:+.3f}{between}{found.low:+.3f} to {found.high:+.3f}"


def _lacking(missing: Sequence[Cell], columns: int) -> str:
    return " | ".join([_count(missing), *["-"] * (columns - 1)])


def _count(missing: Sequence[Cell]) -> str:
    return f"missing cells: {len(missing)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _how(grid: Grid) -> str:
    results = [r for cell in grid.cells() if (r := load_sound(cell))]
    devices = sorted({r["device"] for r in results})
    commits = sorted({r["commit"] for r in results})
    dates = sorted({r["date"] for r in results})
    spent = sum(sum(r["seconds"].values()) for r in results) / 3600
    settings = ", ".join(f"{name} {value:g}" for name, value in tuned_values().items())
    model = grid.cells()[0].recipe()["base_model"] if results else "-"
    return f"""## How this was made

- Commands: `python -m benchmarks.disentangle`; with `--study arms`, `rho`, `photos`, `steps`,
  `register`; `python -m benchmarks.inside`; `python -m benchmarks.calibration`;
  `python -m benchmarks.disentangle --report`.
- Settings of the little world: {settings}; no scaled copies where none are named.
  All others are the paper's.
- Seeds 0 to {grid.seeds - 1}, of photos, training and pictures. Bootstrap: 10,000 draws, one seed.
- Runs of the main grid: on {", ".join(devices) or "-"}; {spent:.1f} hours of one process in all;
  {" to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])) or "-"};
  commits {", ".join(commits) or "-"}.
- Report: {date.today().isoformat()}, commit {commit() or "-"}, {platform.machine()},
  torch {torch.__version__}.
- Base model {model[:12]}, sha256. Every run's judged factors are in docs/science/cells.jsonl."""
