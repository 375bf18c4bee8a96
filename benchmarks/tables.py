"""The tables of docs/science.md that show what is there, without testing anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detex_pack.detex.evaluate.paired import compare
from detex_pack.detex.toys.scene import Identity

from . import figures
from .arms import ARMS, FIRST_PLACES, REGISTER, VARIANTS
from .cells import load_sound
from .hypotheses import Grid, fullest, missing_cells, study, subject_means
from .markdown import table
from .measures import Measured, measured

SWEPT = ("S", "E_b", "E_p", "L_b", "D")
CHANGED = ("S", "E_b", "E_p", "L_b", "pale", "R_P", "R_B", "D")
SWEEPS = {"rho": "rhos", "photos": "photos", "steps": "steps"}  # study -> what its grid varies
CONTRASTED = ("places", "custom_diffusion", "textual_inversion")
TOLD = {  # in README -> measure
    "a new place in the prompt is obeyed": "E_b",
    "a new position in the picture is obeyed": "E_p",
    "the toy keeps its look": "S",
    "a photo's background comes unasked, beyond what the model does by itself": "L_b",
    "`[P_i]` brings the position of photo i": "R_P",
    "`[B_j]` brings the background of photo j": "R_B",
}
Column = Mapping[Identity, float]  # a measure of each subject


def arm_table(grid: Grid, seen: Measured, names: Sequence[str], measures: Sequence[str]) -> str:
    """The arms' means, each over as many seeds as it has."""
    grids = [(ARMS[name].title, name, fullest(seen, grid, name)) for name in names]
    if any(own.seeds < grid.seeds for _, _, own in grids):
        grids.append(("DETEX, first seed alone", "detex", replace(grid, seeds=1)))
    rows = []
    for title, name, own in grids:
        columns = [subject_means(seen, own, name, measure) for measure in measures]
        rows.append([title, count(columns[0], grid), own.seeds, *means(columns)])
    return table(("arm", "subjects", "seeds", *measures), rows)


def means(columns: Iterable[Column]) -> list[str]:
    """Each measure's mean over subjects."""
    return [f"{np.mean(list(c.values())):.3f}" if c else "-" for c in columns]


def count(column: Column, grid: Grid) -> str:
    """How many subjects there are, and whether that is all."""
    whole = len(column) == len(grid.identities)
    return str(len(column)) if whole else f"**{len(column)}, incomplete**"


def sweep(name: str, folder: Path) -> str:
    """One swept setting: its figure and its table."""
    grid = study(name)
    values = getattr(grid, SWEEPS[name])
    grids = {value: replace(grid, **{SWEEPS[name]: (value,)}) for value in values}
    seen = measured(grid.cells())
    if len({getattr(cell, name) for cell in seen if cell.arm != "base"}) < 2:
        return not_run(name)  # the cells of the default are there for other reasons
    figures.sweep_figure(seen, grids, name, SWEPT, folder / f"{name}.png")
    rows = []
    for value, one in grids.items():
        for arm in one.arms:
            columns = [subject_means(seen, one, arm, measure) for measure in SWEPT]
            subjects = len(columns[0])
            told = [f"{value:g}", ARMS[arm].title, subjects, *means(columns)]
            rows.append([*told, train_seconds(one, arm)])
    missing = sum(len(missing_cells(seen, one, *one.arms)) for one in grids.values())
    state = f"**{missing} cells are missing.**\n\n" if missing else ""
    return state + table((name, "arm", "subjects", *SWEPT, "seconds"), rows)


def not_run(name: str) -> str:
    return f"Not run yet on this base model: `python -m benchmarks.disentangle --study {name}`."


def train_seconds(grid: Grid, arm: str) -> str:
    found = [load_sound(cell) for cell in replace(grid, arms=(arm,)).cells() if cell.arm == arm]
    spent = [result["seconds"]["train"] for result in found if result]
    return f"{np.median(spent):.0f}" if spent else "-"


def open_questions() -> dict[str, str]:
    """What each open question of the paper changes, and each change of improved mode, on subjects
    that nothing else reports.
    """
    grid = study("register")
    seen = measured(grid.cells())
    if not subject_means(seen, grid, "detex", "S"):
        return {"register": not_run("register"), "variants": not_run("register")}
    return {
        "register": deviations(grid, seen, "detex", REGISTER),
        "variants": deviations(grid, seen, "improved", VARIANTS),
    }


def readme_table() -> str:
    """README's table: means over subjects and seeds, in percent."""
    grid = study("on_places")
    seen = measured(grid.cells())
    rows = []
    for claim, measure in TOLD.items():
        shares = (subject_means(seen, grid, arm, measure) for arm in CONTRASTED)
        rows.append(
            [claim, *(f"{100 * np.mean(list(s.values())):.0f} %" if s else "-" for s in shares)]
        )
    title = f"means over {len(grid.identities)} toys, two trainings of each"
    return table((title, "DETEX", "Custom Diffusion", "Textual Inversion"), rows)


def places_tried() -> str:
    """What composites on places change, and each of their settings, on subjects of no report."""
    grid = study("places")
    seen = measured(grid.cells())
    if not subject_means(seen, grid, "places_first", "S"):
        return not_run("places")
    return deviations(grid, seen, "places_first", ("improved", *FIRST_PLACES))


def deviations(grid: Grid, seen: Measured, plain: str, names: Sequence[str]) -> str:
    """The means of the arm `plain`, and what each other arm changes."""
    base = [subject_means(seen, grid, plain, measure) for measure in CHANGED]
    rows = [["none: the values themselves", count(base[0], grid), *means(base)]]
    for name in names:
        columns = [subject_means(seen, grid, name, measure) for measure in CHANGED]
        changes = [change(*pair, grid) for pair in zip(columns, base, strict=True)]
        rows.append([ARMS[name].title, count(columns[0], grid), *changes])
    return table((f"deviation from {ARMS[plain].title}", "subjects", *CHANGED), rows)


def change(one: Column, plain: Column, grid: Grid) -> str:
    """One arm minus another over all subjects; a dash where one lacks either."""
    if not one.keys() == plain.keys() == set(grid.identities):
        return "-"
    found = compare([one[identity] - plain[identity] for identity in grid.identities])
    return f"{found.estimate:+.3f} ({found.low:+.2f} to {found.high:+.2f})"
