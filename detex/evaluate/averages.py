"""From one number a picture to a table: pairs, prompts, subjects, each step with equal weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from .paired import bootstrap_interval, mean

Key = TypeVar("Key", bound=Hashable)


class Estimate(NamedTuple):
    """A mean over n units (subjects, or the prompts of one) and its bootstrap interval of 95 %.
    Of a single unit there is no interval: low and high are NaN.
    """

    mean: float
    low: float
    high: float
    n: int


def group_means(values: Sequence[float], groups: Sequence[Key]) -> dict[Key, float]:
    """The mean of each group, in the order in which the groups come."""
    members: dict[Key, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(float(value))
    return {group: float(np.mean(own)) for group, own in members.items()}


def prompt_means(
    values: Sequence[float], subjects: Sequence[str], prompts: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Values, one a picture, averaged over the pictures of each prompt of each subject."""
    return group_means(values, list(zip(subjects, prompts, strict=True)))


def subject_means(
    values: Sequence[float], subjects: Sequence[str], prompts: Sequence[str]
) -> dict[str, float]:
    """Averaged over pictures, then over the prompts of each subject: a prompt with more pictures
    counts no more than another.
    """
    of_prompts = prompt_means(values, subjects, prompts)
    return group_means(list(of_prompts.values()), [subject for subject, _ in of_prompts])


def estimate(units: Mapping[Key, float] | Sequence[float]) -> Estimate:
    """The mean of these units, and how far it may move when others like them are drawn."""
    values = np.asarray(list(units.values() if isinstance(units, Mapping) else units))
    if len(values) < 2:
        return Estimate(float(values.mean()), float("nan"), float("nan"), len(values))
    return Estimate(float(values.mean()), *bootstrap_interval(values, mean), len(values))
