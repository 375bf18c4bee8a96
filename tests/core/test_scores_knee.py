"""The best step of a training, by hand."""

import pytest

from detex_pack.detex.evaluate.knee import Point, knee, unit_range


def test_knee_is_nearest_to_the_best_of_both():
    """Scaled: (0, 1), (0.8, 0.7), (1, 0). Distances to (1, 1): 1, 0.36, 1."""
    points = [Point(100, 0.5, 0.3), Point(200, 0.58, 0.27), Point(300, 0.6, 0.2)]
    assert knee(points) == 1


def test_of_equal_steps_the_first_is_taken():
    assert knee([Point(100, 0.5, 0.3), Point(200, 0.5, 0.3)]) == 0


def test_a_score_that_does_not_change_does_not_decide():
    assert knee([Point(100, 0.5, 0.3), Point(200, 0.7, 0.3), Point(300, 0.6, 0.3)]) == 1


def test_range_is_scaled_to_one():
    assert unit_range([2.0, 4.0, 3.0]).tolist() == pytest.approx([0, 1, 0.5])
    assert unit_range([2.0, 2.0]).tolist() == [1, 1]
