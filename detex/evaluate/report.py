"""An evaluation in words, and its pictures from best to worst."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np

from .averages import Estimate
from .evaluation import Evaluation, Score
from .measures import agreement, likeness, measure_of

BETTER = {1: "; more is better", -1: "; less is better", 0: ""}
BOTH, LIKE_FIRST, TEXT_FIRST = "both", "likeness", "prompt"
ORDERS = (BOTH, LIKE_FIRST, TEXT_FIRST)


def table_text(evaluation: Evaluation, notes: Sequence[str] = ()) -> str:
    """Every score's mean and interval under its encoder's name and hash, for the node."""
    counts = f"{len(evaluation.prompts)} pictures of {len(set(evaluation.prompts))} prompts"
    lines = [f"{evaluation.name}: {counts}"]
    encoder = None
    for score in evaluation.scores:
        if score.encoder != encoder:
            encoder = score.encoder
            lines += ["", encoder]
        measure = measure_of(score)
        told = estimate_text(evaluation.estimate(score), evaluation.unit)
        lines.append(f"{score.name} {told} ({measure.says}{BETTER[measure.better]})")
    return "\n".join([*lines, *(f"\n{note}" for note in notes if note)])


def estimate_text(found: Estimate, unit: str) -> str:
    """ "0.812, 0.790 to 0.834 over 6 prompts"."""
    if math.isnan(found.low):
        return f"{found.mean:.3f} of one {unit.removesuffix('s')}"
    return f"{found.mean:.3f}, {found.low:.3f} to {found.high:.3f} over {found.n} {unit}"


def table_json(evaluation: Evaluation) -> str:
    """All values, and the means with their intervals: what `Evaluation.from_json` reads, and a
    spreadsheet or a script.
    """
    whole = json.loads(evaluation.to_json())
    whole["interval"] = f"bootstrap over {evaluation.unit}, 95 %"
    for row, score in zip(whole["scores"], evaluation.scores, strict=True):
        found = evaluation.estimate(score)
        sound = None if math.isnan(found.low) else [found.low, found.high]
        row |= {"mean": found.mean, "interval": sound, "n": found.n}
    return json.dumps(whole, indent=1, ensure_ascii=False)


def ranking(evaluation: Evaluation, order: str) -> list[int]:
    """The pictures that show the subject, best first: by likeness, by agreement with the prompt, or
    by the mean of the two ranks. Without a text encoder, by likeness whatever is asked.
    """
    like, text = likeness(evaluation), agreement(evaluation)
    chosen = {BOTH: [like, text], LIKE_FIRST: [like], TEXT_FIRST: [text]}[order]
    scores = [score for score in chosen if score is not None] or [like]
    shown = [i for i, value in enumerate(evaluation.scores[like]) if not math.isnan(value)]
    rows = np.array([[evaluation.scores[score][i] for i in shown] for score in scores])
    ranks = rows.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable").mean(axis=0)
    return [shown[i] for i in np.argsort(-ranks, kind="stable")]


def picture_labels(evaluation: Evaluation, order: Sequence[int]) -> list[str]:
    """ "1.  CLIP-I 0.812  CLIP-T 0.274: the prompt", for the sheet of the sorted pictures."""
    chosen = dict.fromkeys([likeness(evaluation), agreement(evaluation)])
    scores = [score for score in chosen if score is not None]
    return [
        f"{place}.  {'  '.join(score_text(evaluation, s, i) for s in scores)}: "
        f"{evaluation.prompts[i]}"
        for place, i in enumerate(order, start=1)
    ]


def score_text(evaluation: Evaluation, score: Score, picture: int) -> str:
    return f"{score.name} {evaluation.scores[score][picture]:.3f}"
