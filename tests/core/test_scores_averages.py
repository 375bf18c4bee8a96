"""Averages: pictures, prompts, subjects; and what a bootstrap makes of them."""

import math

import numpy as np
import pytest

from detex_pack.detex.evaluate.averages import (
    estimate,
    group_means,
    prompt_means,
    subject_means,
)

# the boot has a prompt with three pictures and one with a single one; the dog one of two
VALUES = (0.1, 0.2, 0.3, 0.8, 0.4, 0.6)
SUBJECTS = ("boot",) * 4 + ("dog",) * 2
PROMPTS = ("beach", "beach", "beach", "snow", "beach", "beach")


def test_group_means_keep_the_order_in_which_groups_come():
    found = group_means([1, 2, 4], ["b", "a", "b"])
    assert list(found.items()) == [("b", 2.5), ("a", 2.0)]


def test_one_prompt_of_two_subjects_is_two_prompts():
    found = prompt_means(VALUES, SUBJECTS, PROMPTS)
    wanted = {("boot", "beach"): 0.2, ("boot", "snow"): 0.8, ("dog", "beach"): 0.5}
    assert found == pytest.approx(wanted)


def test_prompts_weigh_the_same_whatever_their_number_of_pictures():
    """Boot: (0.2 + 0.8) / 2, where the mean of its four pictures would be 0.35."""
    assert subject_means(VALUES, SUBJECTS, PROMPTS) == pytest.approx({"boot": 0.5, "dog": 0.5})


def test_the_mean_of_two_units_lies_anywhere_between_them():
    """Each is drawn twice in a quarter of the resamplings, more than 2.5 %."""
    assert estimate([0.2, 0.6]) == pytest.approx((0.4, 0.2, 0.6, 2))


def test_units_that_agree_leave_no_doubt():
    assert estimate({"a": 0.5, "b": 0.5, "c": 0.5}) == pytest.approx((0.5, 0.5, 0.5, 3))


def test_bootstrap_is_as_wide_as_the_normal_approximation_of_many_units():
    """100 units, half 0 and half 1: standard error 0.5 / 10, so 0.5 +- 1.96 x 0.05."""
    found = estimate([0.0, 1.0] * 50)
    assert found.low == pytest.approx(0.402, abs=0.01)
    assert found.high == pytest.approx(0.598, abs=0.01)


def test_a_single_unit_has_no_interval():
    found = estimate([0.3])
    assert found.mean == 0.3 and found.n == 1
    assert math.isnan(found.low) and math.isnan(found.high)


def test_values_without_their_prompt_are_an_error():
    with pytest.raises(ValueError):
        prompt_means(np.zeros(3).tolist(), ["boot"] * 3, ["beach"] * 2)
