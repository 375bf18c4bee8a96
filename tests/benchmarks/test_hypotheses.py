"""Hypotheses judged by hand; incomplete pairings give no number."""

import pytest

from detex_pack.benchmarks.cells import Cell
from detex_pack.benchmarks.hypotheses import (
    PREDECLARED,
    Grid,
    Hypothesis,
    fullest,
    judge_hypothesis,
    study,
)
from detex_pack.benchmarks.references import reported_identities

CLAIM = Hypothesis("H", "more is better", "E", "detex", "custom_diffusion")


def grid(subjects: int = 5, seeds: int = 2) -> Grid:
    return Grid(reported_identities(subjects), seeds, ("custom_diffusion", "detex"))


def table(of: Grid, gain: float) -> dict[Cell, dict[str, float]]:
    """detex better by `gain` on the mean of its seeds, one seed far better than the other."""
    values = {}
    for number, identity in enumerate(of.identities):
        for seed in range(of.seeds):
            values[Cell("custom_diffusion", identity, seed)] = {"E": 0.1 * number}
            tilt = 0.3 if seed else -0.3
            values[Cell("detex", identity, seed)] = {"E": 0.1 * number + gain + tilt}
    return values


def test_seeds_are_averaged_before_subjects_are_compared():
    of = grid()
    found, missing = judge_hypothesis(CLAIM, table(of, 0.05), of)
    assert not missing
    assert found.n == 5
    assert found.estimate == pytest.approx(0.05)
    assert found.p == pytest.approx(1 / 32)


def test_a_smaller_is_better_claim_is_told_in_the_measures_own_direction():
    of = grid()
    lower = Hypothesis("H", "less", "E", "detex", "custom_diffusion", sign=-1)
    found, _ = judge_hypothesis(lower, table(of, -0.05), of)
    assert found.estimate == pytest.approx(-0.05)
    assert found.low <= found.estimate <= found.high
    assert found.p == pytest.approx(1 / 32)


def test_an_incomplete_pairing_gives_the_missing_cells_and_no_number():
    of = grid()
    there = table(of, 0.05)
    gone = Cell("detex", of.identities[3], 1)
    del there[gone]
    found, missing = judge_hypothesis(CLAIM, there, of)
    assert found is None
    assert missing == [gone]


def test_an_arm_is_averaged_over_the_seeds_that_every_subject_has():
    of = grid()
    there = table(of, 0.05)
    assert fullest(there, of, "custom_diffusion", "detex").seeds == 2
    del there[Cell("detex", of.identities[3], 1)]
    assert fullest(there, of, "detex").seeds == 1
    assert fullest(there, of, "custom_diffusion").seeds == 2


def test_every_predeclared_hypothesis_is_in_the_main_grid():
    assert [h.name for h in PREDECLARED] == ["H1", "H2", "H3", "H4", "H5", "H6"]
    arms = set(study("main").arms)
    assert {h.arm for h in PREDECLARED} | {h.other for h in PREDECLARED} <= arms


def test_a_grid_holds_each_cell_once_with_its_base_and_whole_seeds_first():
    cells = study("steps", subjects=2, seeds=2).cells()
    assert len(cells) == len(set(cells)) == 2 * 2 * (4 + 1)
    assert all(cell.base in cells for cell in cells)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
