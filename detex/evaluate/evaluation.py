"""The value `Evaluation`: scores of pictures, one a picture, with who made them and of what."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .averages import Estimate, estimate, prompt_means, subject_means

FORMAT = "detex-evaluation-1"


class Score(NamedTuple):
    """What was measured and by which encoder: the scores of two encoders are two scores."""

    name: str  # "CLIP-I", "DINO-I fg_ref", "CLIP drift"
    encoder: str  # its name and the hash of its weights


@dataclass(frozen=True)
class Evaluation:
    """G pictures with their scores. A score that some pictures lack is NaN there."""

    name: str  # of what is evaluated: a concept, a method
    subjects: tuple[str, ...]  # [G]
    prompts: tuple[str, ...]  # [G]
    scores: Mapping[Score, tuple[float, ...]]  # [G] each

    def __post_init__(self) -> None:
        counts = {len(self.subjects), len(self.prompts), *map(len, self.scores.values())}
        if len(counts) != 1:
            raise ValueError(
                f"The evaluation {self.name!r} has {len(self.subjects)} subjects, "
                f"{len(self.prompts)} prompts and scores of other numbers of pictures: {counts}."
            )

    @property
    def unit(self) -> str:
        """What is drawn again and again for the intervals."""
        return "subjects" if len(set(self.subjects)) > 1 else "prompts"

    def units(self, score: Score) -> dict[tuple[str, str], float]:
        """The score of each subject, (subject, ""), or of each prompt of the only one."""
        there = [i for i, value in enumerate(self.scores[score]) if not math.isnan(value)]
        values = [self.scores[score][i] for i in there]
        subjects = [self.subjects[i] for i in there]
        prompts = [self.prompts[i] for i in there]
        if self.unit == "prompts":
            return prompt_means(values, subjects, prompts)
        means = subject_means(values, subjects, prompts)
        return {(subject, ""): value for subject, value in means.items()}

    def estimate(self, score: Score) -> Estimate:
        """Its mean over units of equal weight, with the bootstrap interval over them."""
        return estimate(self.units(score))

    def to_json(self) -> str:
        rows = [
            {
                "score": score.name,
                "encoder": score.encoder,
                "values": [None if math.isnan(value) else value for value in values],
            }
            for score, values in self.scores.items()
        ]
        whole = {
            "format": FORMAT,
            "name": self.name,
            "subjects": self.subjects,
            "prompts": self.prompts,
            "scores": rows,
        }
        return json.dumps(whole, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Back from `to_json`. Raises ValueError for other texts."""
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"This is no JSON of Evaluate Concept: {error}.") from error
        if not isinstance(whole, dict) or whole.get("format") != FORMAT:
            raise ValueError(
                f"This JSON is none of Evaluate Concept in format {FORMAT}. Wire its output json, "
                "or the text of a file that it was saved to."
            )
        scores = {
            Score(row["score"], row["encoder"]): tuple(
                math.nan if value is None else value for value in row["values"]
            )
            for row in whole["scores"]
        }
        return cls(whole["name"], tuple(whole["subjects"]), tuple(whole["prompts"]), scores)


def joined(name: str, evaluations: Sequence[Evaluation]) -> Evaluation:
    """All pictures of several evaluations, such as one a subject, in one.

    Raises ValueError where they do not have the same scores of the same encoders.
    """
    check_same_scores(evaluations)
    return Evaluation(
        name,
        tuple(subject for one in evaluations for subject in one.subjects),
        tuple(prompt for one in evaluations for prompt in one.prompts),
        {
            score: tuple(value for one in evaluations for value in one.scores[score])
            for score in evaluations[0].scores
        },
    )


def check_same_scores(evaluations: Sequence[Evaluation]) -> None:
    """Raise ValueError where a score is of another encoder, or there in some only: neither can be
    averaged or compared.
    """
    first, *others = evaluations
    own = encoders_of(first)
    for other in others:
        theirs = encoders_of(other)
        for name in own.keys() & theirs.keys():
            if own[name] != theirs[name]:
                raise ValueError(
                    f"{name} of {first.name!r} was made by {' and '.join(own[name])}, that of "
                    f"{other.name!r} by {' and '.join(theirs[name])}. Scores of different encoders "
                    "cannot be compared or averaged: evaluate both with one encoder."
                )
        if own.keys() != theirs.keys():
            lone = sorted(own.keys() ^ theirs.keys())
            raise ValueError(
                f"{first.name!r} and {other.name!r} do not have the same scores: "
                f"{', '.join(lone)} of one only. Evaluate both with the same inputs."
            )


def encoders_of(evaluation: Evaluation) -> dict[str, list[str]]:
    """The encoders of each score's name, in order."""
    found: dict[str, list[str]] = {}
    for name, encoder in sorted(evaluation.scores):
        found.setdefault(name, []).append(encoder)
    return found
