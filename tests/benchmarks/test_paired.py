"""Statistics against values worked out by hand; incomplete pairings give none."""

import numpy as np
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
from detex_pack.benchmarks.paired import compare, hodges_lehmann, holm, wilcoxon_p
from detex_pack.benchmarks.references import reported_identities

CLAIM = Hypothesis("H", "more is better", "E", "detex", "custom_diffusion")


def test_five_gains_of_five_have_the_p_of_one_in_thirty_two():
    assert wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(1 / 32)


def test_the_smallest_difference_against_the_claim_doubles_the_p():
    """Rank sums of 14 or 15 of 15: two of the 32 sign patterns."""
    assert wilcoxon_p(np.array([-0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)


def test_no_difference_at_all_is_no_evidence():
    assert wilcoxon_p(np.zeros(6)) == 1
    found = compare([0.0] * 6)
    assert (found.estimate, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_hodges_lehmann_is_the_median_of_all_pair_means():
    """Of 1, 2, 9: the means 1, 1.5, 5, 2, 5.5, 9, in order 1, 1.5, 2, 5, 5.5, 9."""
    assert hodges_lehmann(np.array([1.0, 2.0, 9.0])) == pytest.approx(3.5)


def test_a_margin_forgives_a_small_loss_and_leaves_the_estimate():
    loss = [-0.01, -0.012, -0.008, -0.011, -0.009]
    assert compare(loss).p == 1
    assert compare(loss, margin=0.02).p == pytest.approx(1 / 32)
    assert compare(loss, margin=0.02).estimate == pytest.approx(-0.01)


def test_the_interval_repeats_itself_and_holds_the_estimate():
    first, second = compare([0.1, 0.3, 0.2, 0.5, 0.0]), compare([0.1, 0.3, 0.2, 0.5, 0.0])
    assert first == second
    assert 0 <= first.low < first.estimate < first.high <= 0.5


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03 of four: x 4, x 3, x 2, never below the one before."""
    found = holm({"a": 0.03, "b": 0.01, "c": 0.02}, family=4)
    assert found == pytest.approx({"b": 0.04, "c": 0.06, "a": 0.06})
    assert holm({"a": 0.9, "b": 0.8}, family=2) == {"b": 1.0, "a": 1.0}


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
