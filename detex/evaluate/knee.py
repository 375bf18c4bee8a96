"""Which step of a training is best: likeness against editability over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Point(NamedTuple):
    """A state of a training and its two scores; more is better in both."""

    step: int
    likeness: float
    editability: float


def knee(points: Sequence[Point]) -> int:
    """The place of the point that comes nearest to having the best of both.

    Each score is scaled to the range that it has over the steps; the distance to the corner where
    both are at their best decides, of equal ones the fewest steps. A training gains likeness and
    loses editability: before the knee much likeness is still to be had for little, after it little.
    """
    likeness = unit_range([point.likeness for point in points])
    editability = unit_range([point.editability for point in points])
    return int(np.argmin(np.round(np.hypot(1 - likeness, 1 - editability), 9)))


def unit_range(values: Sequence[float]) -> np.ndarray:
    """Scaled so that the least is 0 and the most 1; all 1 where they do not differ."""
    found = np.asarray(values, dtype=np.float64)
    span = found.max() - found.min()
    return (found - found.min()) / span if span else np.ones_like(found)
