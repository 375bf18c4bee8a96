"""Paired statistics over subjects. A pairing that lacks a cell gives no number, only the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
_SEED = 2312

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A paired difference over n subjects: its estimate, 95 % interval and one-sided p."""

    estimate: float
    low: float
    high: float
    p: float
    n: int


def compare(differences: Sequence[float] | Values, margin: float = 0.0) -> Comparison:
    """Hodges-Lehmann estimate, bootstrap interval, and p for "differences > -margin".

    differences: one a subject, seeds and prompts averaged before. margin > 0 asks only that the
    difference is not worse than that (non-inferiority).
    """
    values = np.asarray(differences, dtype=np.float64)
    low, high = bootstrap_interval(values)
    return Comparison(
        float(hodges_lehmann(values)), low, high, wilcoxon_p(values + margin), len(values)
    )


def wilcoxon_p(values: Values) -> float:
    """One-sided Wilcoxon signed-rank test of "greater than 0"; 1 where nothing differs."""
    from scipy.stats import wilcoxon  # noqa: PLC0415  (takes a second, at each start of ComfyUI)

    if not np.any(values):
        return 1.0
    result: Any = wilcoxon(values, alternative="greater")
    return float(result.pvalue)


def hodges_lehmann(values: Values) -> Values:
    """The median of the means of all pairs, each value with itself too; over the last axis."""
    first, second = np.triu_indices(values.shape[-1])
    return np.median((values[..., first] + values[..., second]) / 2, axis=-1)


def mean(values: Values) -> Values:
    """The mean over the last axis."""
    return values.mean(axis=-1)


def bootstrap_interval(
    values: Values, estimate: Callable[[Values], Values] = hodges_lehmann
) -> tuple[float, float]:
    """The middle 95 % of the estimate over DRAWS resamplings of the subjects, seed fixed."""
    chosen = np.random.default_rng(_SEED).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(estimate(values[chosen]), (0.025, 0.975))
    return float(low), float(high)


def holm(values: Mapping[str, float], family: int) -> dict[str, float]:
    """Holm's adjusted p in a family of so many tests; absent ones count as not rejected."""
    adjusted, worst = {}, 0.0
    for rank, name in enumerate(sorted(values, key=lambda name: values[name])):
        worst = max(worst, min(1.0, (family - rank) * values[name]))
        adjusted[name] = worst
    return adjusted
