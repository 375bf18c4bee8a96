"""Which of several evaluations is better: what is sure, and what may be noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .evaluation import Evaluation, Score, check_same_scores
from .measures import headline, measure_of
from .paired import bootstrap_interval, holm, mean, wilcoxon_p

LEVEL = 0.05
FEWEST = 6  # of so many pairs at least, all on one side, two-sided Wilcoxon falls below LEVEL


class Difference(NamedTuple):
    """One score of two evaluations, unit by unit: the first less the second."""

    first: str
    second: str
    score: Score
    estimate: float
    low: float  # bootstrap, 95 %
    high: float
    p: float  # two-sided Wilcoxon signed-rank, Holm over all that are compared
    n: int

    @property
    def is_sure(self) -> bool:
        return self.p <= LEVEL and not self.low <= 0 <= self.high

    @property
    def better(self) -> str:
        """The name of the better one."""
        first_is = self.estimate * measure_of(self.score).better > 0
        return self.first if first_is else self.second

    @property
    def worse(self) -> str:
        return self.second if self.better == self.first else self.first


def differences(evaluations: Sequence[Evaluation]) -> list[Difference]:
    """Of each two evaluations, every headline score, paired over prompts or subjects.

    Raises ValueError for fewer than two, two of one name, scores of different encoders, and others
    than the same prompts.
    """
    check_comparable(evaluations)
    found = []
    for one, other in combinations(evaluations, 2):
        for score in headline(one):
            values = np.array(list(one.units(score).values()))
            theirs = other.units(score)
            values = values - np.array([theirs[unit] for unit in one.units(score)])
            found.append(_difference(one.name, other.name, score, values))
    raw = {str(i): difference.p for i, difference in enumerate(found)}
    adjusted = holm(raw, family=len(raw))
    return [difference._replace(p=adjusted[str(i)]) for i, difference in enumerate(found)]


def _difference(first: str, second: str, score: Score, values: np.ndarray) -> Difference:
    p = min(1.0, 2 * min(wilcoxon_p(values), wilcoxon_p(-values)))
    low, high = bootstrap_interval(values, mean)
    return Difference(first, second, score, float(values.mean()), low, high, p, len(values))


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise ValueError as `differences` does."""
    if len(evaluations) < 2:
        raise ValueError("Only one evaluation is wired. Wire two or more to compare.")
    names = [one.name for one in evaluations]
    twin = next((name for name in names if names.count(name) > 1), None)
    if twin is not None:
        raise ValueError(
            f'Two evaluations have the name "{twin}". Give each its own in Evaluate Concept.'
        )
    check_same_scores(evaluations)
    first, *others = evaluations
    for other in others:
        if _asked(first) != _asked(other):
            lone = sorted(_asked(first) ^ _asked(other))[0]
            raise ValueError(
                f'"{first.name}" and "{other.name}" were not evaluated on the same prompts of the '
                f'same subjects: "{lone[1]}" of {lone[0]} is of one only. Draw both with one list '
                "of prompts."
            )


def _asked(evaluation: Evaluation) -> set[tuple[str, str]]:
    return set(zip(evaluation.subjects, evaluation.prompts, strict=True))


def sentence(found: Sequence[Difference], unit: str) -> str:
    """What is sure and what may be noise, in plain words."""
    sure = [difference for difference in found if difference.is_sure]
    noise = [difference for difference in found if not difference.is_sure]
    few = found[0].n < FEWEST
    many = f"{found[0].n} {unit} are" if found[0].n > 1 else f"One {unit.removesuffix('s')} is"
    more = f" {many} too few to be sure of anything: take {FEWEST} or more."
    if not sure:
        names = ", ".join(dict.fromkeys(difference.score.name for difference in noise))
        return f"Nothing is sure: every difference ({names}) may be noise.{more if few else ''}"
    told = f"Sure is that {'; '.join(_claim(difference) for difference in sure)}."
    if noise:
        told += f" The rest may be noise: {', '.join(map(_short, noise))}."
    return told


def _claim(found: Difference) -> str:
    claim = measure_of(found.score).claim
    low, high = sorted((abs(found.low), abs(found.high)))
    gap = f"{found.score.name} by {abs(found.estimate):.3f}, {low:.3f} to {high:.3f}"
    return f"{found.better} {claim} than {found.worse} ({gap})"


def _short(found: Difference) -> str:
    return f"{found.score.name} of {found.first} and {found.second}"


def comparison_text(evaluations: Sequence[Evaluation], found: Sequence[Difference]) -> str:
    """The sentence, then every difference with its interval, for the node."""
    unit = evaluations[0].unit
    lines = [sentence(found, unit), ""]
    for d in found:
        interval = f"{d.estimate:+.3f}, {d.low:+.3f} to {d.high:+.3f} over {d.n} {unit}"
        mark = "sure" if d.is_sure else "may be noise"
        lines.append(f"{d.first} - {d.second}, {d.score.name}: {interval} ({mark}, p {d.p:.3f})")
    encoders = dict.fromkeys(d.score.encoder for d in found)
    lines += ["", f"by {'; '.join(encoders)}"]
    if unit == "prompts":
        lines.append(
            "This holds for these prompts, this subject and these trainings; another seed of the "
            "training may differ by more."
        )
    return "\n".join(lines)
