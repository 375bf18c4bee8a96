"""Scores of a training's live samples, of one picture each: a hint, and no measurement.

Whether [V] looks like the photos is CLIP-I against them, against the subject alone where there are
masks; whether [V] in a new place obeys the prompt is CLIP-T, where the CLIP can tell.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from ..methods.base import NEW_PLACE
from ..photos.photos import Looks
from .knee import Point, knee
from .scores import caption_similarity, photo_similarity

Scores = Mapping[int, Mapping[str, float]]  # after so many steps, by the names below

LOOK, OBEY = "looks like it", "obeys the prompt"
UNTOLD = f"{OBEY}: this CLIP cannot tell"
ALONE, ELSEWHERE = "[V]", f"[V] in {NEW_PLACE}"  # captions of the samples


class Judge(NamedTuple):
    """Scores samples. caption [1, F]: features of what the one in a new place should show."""

    looks: Looks
    caption: Tensor | None = None

    def scores(self, shown: Mapping[str, Tensor]) -> dict[str, float]:
        """Of samples [H, W, 3] by their captions; none where the encoder has no room, or answers
        with NaN or zeros: a training does not end for that.
        """
        asked = [ALONE] if self.caption is None else [ALONE, ELSEWHERE]
        if not shown.keys() >= {*asked}:
            return {}
        seen = self.looks.see(torch.stack([shown[caption] for caption in asked]))
        if seen is None:
            return {}
        found = {}
        with suppress(ValueError):
            found[LOOK] = photo_similarity(seen[:1], self.looks.photos).item()
        if LOOK in found and self.caption is not None:
            with suppress(ValueError):
                found[OBEY] = caption_similarity(seen[1:], self.caption).item()
        return found


def best_step(scores: Scores) -> int:
    """The step that comes nearest to having the best of both, as in Best Step."""
    steps = sorted(scores)
    points = [Point(step, scores[step][LOOK], scores[step].get(OBEY, 0.0)) for step in steps]
    return steps[knee(points)]


def best_so_far(scores: Scores) -> str:
    """ "Best so far: step 300."; "" while there are not enough to choose from: of two samples with
    both scores each may be the better one in something.
    """
    by_both = bool(scores) and OBEY in scores[max(scores)]
    if len(scores) < 2 + by_both:
        return ""
    return f"Best so far: step {best_step(scores)}{'' if by_both else ', by its look alone'}."


def best_of_all(scores: Scores, steps: int) -> str:
    """The same when a training of so many steps is over, and how to have that step."""
    if not best_so_far(scores):
        return ""
    best = best_step(scores)
    how = f" To have that step, set steps to {best}." if best != steps else ""
    return f"Of the live samples, one picture each, step {best} was the best.{how}"
