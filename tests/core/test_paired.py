"""Paired statistics against values worked out by hand."""

import numpy as np
import pytest

from detex_pack.detex.evaluate.paired import compare, hodges_lehmann, holm, wilcoxon_p


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
