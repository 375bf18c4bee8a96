"""The hypotheses, declared before the first run, and the studies whose cells they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from detex_pack.detex.evaluate.paired import Comparison, compare
from detex_pack.detex.toys.scene import Identity

from . import arms
from .cells import Cell
from .references import reported_identities, tuning_identities

Table = Mapping[Cell, Mapping[str, float]]  # what is there; missing cells are absent


@dataclass(frozen=True)
class Hypothesis:
    """arm's measure is greater than other's (smaller, where sign is -1), less the margin; than
    `level` where there is no other.
    """

    name: str
    claim: str
    measure: str
    arm: str
    other: str
    sign: int = 1
    margin: float = 0.0
    level: float = 0.0
    eye: str = "judge"  # or "reader"

    @property
    def arms(self) -> tuple[str, ...]:
        return (self.arm, self.other) if self.other else (self.arm,)


def _ask(
    claim: str, measure: str, arm: str, other: str, sign: int = 1, margin: float = 0.0
) -> Hypothesis:
    """One that was not declared before, and has no name."""
    return Hypothesis("", claim, measure, arm, other, sign, margin)


MORE, LESS = 1, -1
_CD, _COPIES, _TI = "custom_diffusion", "custom_diffusion_copies", "textual_inversion"
_PF = "places_first"
PREDECLARED = (
    Hypothesis("H1", "edits are obeyed more often", "E", "detex", _CD),
    Hypothesis("H2", "the background leaks less", "L_b", "detex", _CD, LESS),
    Hypothesis("H3", "fidelity is not worse by 0.02", "S", "detex", _CD, margin=0.02),
    Hypothesis("H4", "purity needs the attention loss", "D", "detex", "no_attention"),
    Hypothesis("H5", "fidelity needs joint training", "S", "detex", "no_joint"),
    Hypothesis("H6", "pose and purity need mappers", "R_P+D", "detex", "no_mapper"),
)
# Declared before the first run of _PF on a reported subject: composites on places.
PLACES_FIRST = (
    Hypothesis("P1", "edits are obeyed more often than before", "E", _PF, "improved"),
    Hypothesis("P2", "and as often as by a word alone, less 0.02", "E", _PF, _TI, margin=0.02),
    Hypothesis("P3", "the look is not worse by 0.02", "S", _PF, _CD, margin=0.02),
    Hypothesis("P3r", "nor for the reader", "S", _PF, _CD, margin=0.02, eye="reader"),
    Hypothesis("P4", "the background leaks less", "L_b", _PF, _CD, LESS),
    Hypothesis("P5", "[P_i] brings the pose in 0.9", "R_P", _PF, "", level=0.9),
    Hypothesis("P6", "[B_j] brings as much, less 0.02", "R_B", _PF, "improved", margin=0.02),
    Hypothesis("P7", "purity is greater", "D", _PF, "improved"),
)
# Declared before the second recipe's first run on a reported subject, and again before the third's,
# which is "places" now: the same, and whether it is better than the first.
PLACES_AGAIN = (
    *(replace(one, arm="places") for one in PLACES_FIRST),
    Hypothesis("P8", "[P_i] brings the pose more often than at first", "R_P", "places", _PF),
    Hypothesis("P9", "[B_j] brings its background more often", "R_B", "places", _PF),
    Hypothesis("P10", "positions are obeyed more often", "E_p", "places", _PF),
    Hypothesis("P11", "the look is not worse by 0.02", "S", "places", _PF, margin=0.02),
)
SECONDARY = (
    _ask("whole pictures are less like the photos", "Q", "detex", _CD, LESS),
    _ask("the photos' background overrides edits less", "L_b'", "detex", _CD, LESS),
    _ask("the position leaks less", "L_p", "detex", _CD, LESS),
    _ask("joint training costs edits", "E", "no_joint", "detex"),
    _ask("a masked diffusion loss costs fidelity", "S", "detex", "masked_loss"),
    _ask("gamma 1 draws plain backgrounds", "plain", "gamma_1", "detex"),
    _ask("improved mode obeys edits more", "E", "improved", "detex"),
    _ask("improved mode keeps the subject better", "S", "improved", "detex"),
    _ask("improved mode is purer", "D", "improved", "detex"),
    _ask("improved mode obeys edits more", "E", "improved", _CD),
    _ask("improved mode leaks less background", "L_b", "improved", _CD, LESS),
    _ask("improved mode keeps the subject better", "S", "improved", _CD),
    # asked when the results of all above were known
    _ask("its fidelity is not worse by 0.02", "S", "improved", _CD, MORE, 0.02),
    _ask("holding [V] to the subject brings edits", "E", "held", "detex"),
    _ask("and the look", "S", "held", "detex"),
    _ask("new backgrounds are obeyed more often", "E_b", "detex", _CD),
    _ask("new positions are obeyed more often", "E_p", "detex", _CD),
    _ask("new backgrounds are obeyed more often", "E_b", "improved", _CD),
    _ask("new positions are obeyed more often", "E_p", "improved", _CD),
    _ask("new backgrounds are obeyed more often", "E_b", "improved", "detex"),
    _ask("new positions are obeyed more often", "E_p", "improved", "detex"),
    _ask("a pale ground takes the photos' place", "pale", "detex", _CD),
    _ask("in improved mode less", "pale", "improved", "detex", LESS),
    _ask("without the K, V deltas the look falls", "S", _TI, _CD, LESS),
    _ask("and edits are obeyed more often", "E", _TI, _CD),
    _ask("improved mode keeps the subject better", "S", "improved", _TI),
    _ask("and obeys edits more", "E", "improved", _TI),
    _ask("and leaks less background", "L_b", "improved", _TI, LESS),
    _ask("its own augmentation brings edits", "E", _COPIES, _CD),
    _ask("and costs the look", "S", _COPIES, _CD, LESS),
    _ask("improved mode obeys edits more", "E", "improved", _COPIES),
    _ask("a masked loss obeys edits more", "E", "masked_loss", "detex"),
    _ask("and brings fewer pale grounds", "pale", "masked_loss", "detex", LESS),
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
        own = (
            cell
            for seed in range(self.seeds)
            for identity in self.identities
            for cell in self.of(identity, seed)
        )
        return list(dict.fromkeys(both for cell in own for both in (cell.base, cell)))

    def of(self, identity: Identity, seed: int) -> Iterator[Cell]:
        """The cells of one subject and seed."""
        for rho, photos, steps, name in product(self.rhos, self.photos, self.steps, self.arms):
            cell = Cell(name, identity, seed, rho, photos, steps)
            yield cell.base if name == "base" else cell

    def seeds_of(self, arm: str, identity: Identity) -> list[Cell]:
        """The arm's cell of each seed, at the first rho, number of photos and steps."""
        settings = self.rhos[0], self.photos[0], self.steps[0]
        cells = [Cell(arm, identity, seed, *settings) for seed in range(self.seeds)]
        return [cell.base for cell in cells] if arm == "base" else cells


_BOTH = ("custom_diffusion", "detex")
SUBJECTS = 8  # reported; the main grid has two seeds of each, every other study one
SWEPT_SUBJECTS = 4  # the first of these in the sweeps; as many others in the register
_TUNING = ("register", "places")  # on the subjects that settings are chosen on
_STUDIES = {  # by default with so many subjects
    "main": (SUBJECTS, Grid((), 2, arms.COMPARED)),
    "arms": (SUBJECTS, Grid((), 1, arms.MAIN)),
    "quick": (2, Grid((), 1, _BOTH)),
    "rho": (SWEPT_SUBJECTS, Grid((), 1, (*_BOTH, "improved"), rhos=(0.0, 0.75, 1.0))),
    "photos": (SWEPT_SUBJECTS, Grid((), 1, ("improved",), photos=(1, 2, 3, 4, 8))),
    "steps": (SWEPT_SUBJECTS, Grid((), 1, ("improved",), steps=(75, 150, 300, 600))),
    "register": (SWEPT_SUBJECTS, Grid((), 1, ("detex", *arms.REGISTER, *arms.VARIANTS))),
    "places": (SWEPT_SUBJECTS, Grid((), 1, ("improved", *arms.PLACES))),
    "on_places": (SUBJECTS, Grid((), 2, ("base", _CD, _TI, "improved", _PF, "places"))),
}
STUDIES = tuple(name for name in _STUDIES if name != "quick")


def study(name: str, subjects: int | None = None, seeds: int | None = None) -> Grid:
    """A named grid; its own number of subjects and seeds where none is given."""
    count, grid = _STUDIES[name]
    chosen = tuning_identities if name in _TUNING else reported_identities
    return replace(grid, identities=chosen(subjects or count), seeds=seeds or grid.seeds)


def subject_means(table: Table, grid: Grid, arm: str, measure: str) -> dict[Identity, float]:
    """The measure of each subject whose every seed is there, averaged over seeds."""
    means = {}
    for identity in grid.identities:
        cells = grid.seeds_of(arm, identity)
        if all(measure in table.get(cell, {}) for cell in cells):
            means[identity] = float(np.mean([table[cell][measure] for cell in cells]))
    return means


def missing_cells(table: Table, grid: Grid, *names: str) -> list[Cell]:
    """Cells of these arms that a comparison would need and that are not there."""
    needed = (grid.seeds_of(name, identity) for name in names for identity in grid.identities)
    return [cell for seeds in needed for cell in seeds if cell not in table]


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
    """The comparison, or None with the cells that it lacks. The estimate is arm minus other: it is
    tested in the hypothesis' direction, and told in the measure's own.
    """
    missing = missing_cells(table, grid, *hypothesis.arms)
    if missing:
        return None, missing
    one, *others = (
        subject_means(table, grid, name, hypothesis.measure) for name in hypothesis.arms
    )
    other = others[0] if others else dict.fromkeys(grid.identities, hypothesis.level)
    plain = np.array([one[identity] - other[identity] for identity in grid.identities])
    found = compare(hypothesis.sign * plain, hypothesis.margin)
    if hypothesis.sign < 0:
        found = replace(found, estimate=-found.estimate, low=-found.high, high=-found.low)
    return found, []
