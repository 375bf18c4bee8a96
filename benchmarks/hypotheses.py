"""The hypotheses, declared before the first run, and the studies whose cells they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from detex_pack.detex.toys.scene import Identity

from . import arms
from .cells import Cell
from .paired import Comparison, compare
from .references import reported_identities, tuning_identities

Table = Mapping[Cell, Mapping[str, float]]  # what is there; missing cells are absent


@dataclass(frozen=True)
class Hypothesis:
    """arm's measure is greater than other's (smaller, where sign is -1), less the margin."""

    name: str
    claim: str
    measure: str
    arm: str
    other: str
    sign: int = 1
    margin: float = 0.0


PREDECLARED = (
    Hypothesis("H1", "edits are obeyed more often", "E", "detex", "custom_diffusion"),
    Hypothesis("H2", "the background leaks less", "L_b", "detex", "custom_diffusion", -1),
    Hypothesis(
        "H3", "fidelity is not worse by 0.02", "S", "detex", "custom_diffusion", margin=0.02
    ),
    Hypothesis("H4", "purity needs the attention loss", "D", "detex", "no_attention"),
    Hypothesis("H5", "fidelity needs joint training", "S", "detex", "no_joint"),
    Hypothesis("H6", "pose and purity need mappers", "R_P+D", "detex", "no_mapper"),
)
_CD, _COPIES, _TI = "custom_diffusion", "custom_diffusion_copies", "textual_inversion"
_EDITS = (
    ("E_b", "new backgrounds are obeyed more often"),
    ("E_p", "new positions are obeyed more often"),
)
SECONDARY = (
    Hypothesis("Q", "whole pictures are less like the photos", "Q", "detex", _CD, -1),
    Hypothesis("L_b'", "the photos' background overrides edits less", "L_b'", "detex", _CD, -1),
    Hypothesis("L_p", "the position leaks less", "L_p", "detex", _CD, -1),
    Hypothesis("E, joint", "joint training costs edits", "E", "no_joint", "detex"),
    Hypothesis("S, masked", "a masked diffusion loss costs fidelity", "S", "detex", "masked_loss"),
    Hypothesis("plain", "gamma 1 draws plain backgrounds", "plain", "gamma_1", "detex"),
    Hypothesis("E, improved", "improved mode obeys edits more", "E", "improved", "detex"),
    Hypothesis("S, improved", "improved mode keeps the subject better", "S", "improved", "detex"),
    Hypothesis("D, improved", "improved mode is purer", "D", "improved", "detex"),
    Hypothesis("H1, improved", "improved mode obeys edits more", "E", "improved", _CD),
    Hypothesis("H2, improved", "improved mode leaks less background", "L_b", "improved", _CD, -1),
    Hypothesis("H3, improved", "improved mode keeps the subject better", "S", "improved", _CD),
    # asked when the results of all above were known
    Hypothesis("S, margin", "its fidelity is not worse by 0.02", "S", "improved", _CD, margin=0.02),
    Hypothesis("E, held", "holding [V] to the subject brings edits", "E", "held", "detex"),
    Hypothesis("S, held", "and the look", "S", "held", "detex"),
    *(
        Hypothesis(f"{measure}, {one} {other}", claim, measure, one, other)
        for one, other in (("detex", _CD), ("improved", _CD), ("improved", "detex"))
        for measure, claim in _EDITS
    ),
    Hypothesis("pale, detex", "a pale ground takes the photos' place", "pale", "detex", _CD),
    Hypothesis("pale, improved", "in improved mode less", "pale", "improved", "detex", -1),
    Hypothesis("S, inversion", "without the K, V deltas the look falls", "S", _TI, _CD, -1),
    Hypothesis("E, inversion", "and edits are obeyed more often", "E", _TI, _CD),
    Hypothesis(
        "S, improved inversion", "improved mode keeps the subject better", "S", "improved", _TI
    ),
    Hypothesis("E, improved inversion", "and obeys edits more", "E", "improved", _TI),
    Hypothesis("L_b, improved inversion", "and leaks less background", "L_b", "improved", _TI, -1),
    Hypothesis("E, copies", "its own augmentation brings edits", "E", _COPIES, _CD),
    Hypothesis("S, copies", "and costs the look", "S", _COPIES, _CD, -1),
    Hypothesis("E, improved copies", "improved mode obeys edits more", "E", "improved", _COPIES),
    Hypothesis("E, masked", "a masked loss obeys edits more", "E", "masked_loss", "detex"),
    Hypothesis("pale, masked", "and brings fewer pale grounds", "pale", "masked_loss", "detex", -1),
)


@dataclass(frozen=True)
class Grid:
    """Every combination of its settings."""

    identities: tuple[Identity, ...]
    seeds: int
    arms: tuple[str, ...]
    rhos: tuple[float, ...] = (0.75,)
    photos: tuple[int, ...] = (4,)
    steps: tuple[int, ...] = (600,)

    def cells(self) -> list[Cell]:
        """Seed by seed, so that a grid that is cut short holds whole seeds; bases included."""
        listed: dict[Cell, None] = {}
        for seed in range(self.seeds):
            for identity in self.identities:
                for cell in self.of(identity, seed):
                    listed[cell.base] = None
                    listed[cell] = None
        return list(listed)

    def of(self, identity: Identity, seed: int) -> Iterator[Cell]:
        """The cells of one subject and seed."""
        for rho in self.rhos:
            for photos in self.photos:
                for steps in self.steps:
                    for name in self.arms:
                        cell = Cell(name, identity, seed, rho, photos, steps)
                        yield cell.base if name == "base" else cell


_BOTH = ("custom_diffusion", "detex")
SUBJECTS = 8  # reported; the main grid has two seeds of each, every other study one
SWEPT_SUBJECTS = 4  # the first of these in the sweeps; as many others in the register


def study(name: str, subjects: int | None = None, seeds: int | None = None) -> Grid:
    """A named grid; its own number of subjects and seeds where none is given."""
    if name == "places":
        return Grid(
            tuning_identities(subjects or SWEPT_SUBJECTS), seeds or 1, ("improved", *arms.PLACES)
        )
    if name == "register":
        arm_names = ("detex", *arms.REGISTER, *arms.VARIANTS)
        return Grid(tuning_identities(subjects or SWEPT_SUBJECTS), seeds or 1, arm_names)
    grid = {
        "main": Grid((), 2, arms.COMPARED),
        "arms": Grid((), 1, arms.MAIN),
        "quick": Grid((), 1, _BOTH),
        "rho": Grid((), 1, (*_BOTH, "improved"), rhos=(0.0, 0.75, 1.0)),
        "photos": Grid((), 1, ("improved",), photos=(1, 2, 3, 4, 8)),
        "steps": Grid((), 1, ("improved",), steps=(75, 150, 300, 600)),
    }[name]
    count = subjects or {"quick": 2, "main": SUBJECTS, "arms": SUBJECTS}.get(name, SWEPT_SUBJECTS)
    return replace(grid, identities=reported_identities(count), seeds=seeds or grid.seeds)


STUDIES = ("main", "arms", "rho", "photos", "steps", "register", "places")


def subject_means(table: Table, grid: Grid, arm: str, measure: str) -> dict[Identity, float]:
    """The measure of each subject whose every seed is there, averaged over seeds."""
    means = {}
    for identity in grid.identities:
        cells = [_cell(grid, arm, identity, seed) for seed in range(grid.seeds)]
        if all(measure in table.get(cell, {}) for cell in cells):
            means[identity] = float(np.mean([table[cell][measure] for cell in cells]))
    return means


def missing_cells(table: Table, grid: Grid, *names: str) -> list[Cell]:
    """Cells of these arms that a comparison would need and that are not there."""
    return [
        cell
        for name in names
        for identity in grid.identities
        for seed in range(grid.seeds)
        if (cell := _cell(grid, name, identity, seed)) not in table
    ]


def fullest(table: Table, grid: Grid, *names: str) -> Grid:
    """The grid with as many seeds as these arms have cells of for every subject; at least one."""
    for seeds in range(grid.seeds, 1, -1):
        whole = replace(grid, seeds=seeds)
        if not missing_cells(table, whole, *names):
            return whole
    return replace(grid, seeds=1)


def judge_hypothesis(
    hypothesis: Hypothesis, table: Table, grid: Grid
) -> tuple[Comparison | None, list[Cell]]:
    """The comparison, or None with the cells that it lacks. The estimate is arm minus other."""
    missing = missing_cells(table, grid, hypothesis.arm, hypothesis.other)
    if missing:
        return None, missing
    one, other = (
        subject_means(table, grid, name, hypothesis.measure)
        for name in (hypothesis.arm, hypothesis.other)
    )
    plain = np.array([one[identity] - other[identity] for identity in grid.identities])
    return _signed(plain, hypothesis), []


def _signed(differences: np.ndarray, hypothesis: Hypothesis) -> Comparison:
    """Tested in the hypothesis' direction, told in the measure's own."""
    found = compare(hypothesis.sign * differences, hypothesis.margin)
    if hypothesis.sign > 0:
        return found
    return replace(found, estimate=-found.estimate, low=-found.high, high=-found.low)


def _cell(grid: Grid, arm: str, identity: Identity, seed: int) -> Cell:
    """The grid's cell at its one rho, number of photos and steps."""
    one = replace(
        grid, arms=(arm,), rhos=grid.rhos[:1], photos=grid.photos[:1], steps=grid.steps[:1]
    )
    return next(one.of(identity, seed))
