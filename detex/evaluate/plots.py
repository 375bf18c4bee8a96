"""Charts of evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..canvas.charts import Panel, Row, dot_chart
from .evaluation import Evaluation, Score
from .measures import headline

MOST_ROWS = 30  # prompts that a chart shows one by one


def evaluation_chart(evaluation: Evaluation) -> Tensor:
    """A panel for each score: all prompts with the interval, then each prompt's pictures and their
    mean -> [1, H, W, 3].
    """
    prompts = list(dict.fromkeys(evaluation.prompts))
    panels = [
        Panel(score.name, _rows(evaluation, score, prompts[:MOST_ROWS]))
        for score in evaluation.scores
    ]
    notes = [f"orange: the mean, and its 95 % interval over {evaluation.unit}"]
    if len(prompts) > MOST_ROWS:
        notes.append(f"the first {MOST_ROWS} of {len(prompts)} prompts; the json has all")
    return dot_chart(panels, f"{evaluation.name}", [*notes, *_encoders([evaluation])])


def _rows(evaluation: Evaluation, score: Score, prompts: Sequence[str]) -> list[Row]:
    values = np.array(evaluation.scores[score])
    asked = np.array(evaluation.prompts)
    rows = [_whole(evaluation, score, f"all {evaluation.unit}")]
    for prompt in prompts:
        own = values[(asked == prompt) & ~np.isnan(values)].tolist()
        rows.append(Row(prompt, own, float(np.mean(own)) if own else float("nan")))
    return rows


def _whole(evaluation: Evaluation, score: Score, label: str) -> Row:
    """A dot a unit, the mean and its interval."""
    found = evaluation.estimate(score)
    dots = list(evaluation.units(score).values())
    return Row(label, dots, found.mean, found.low, found.high)


def comparison_chart(evaluations: Sequence[Evaluation]) -> Tensor:
    """A panel for each compared score, a row for each evaluation -> [1, H, W, 3]."""
    unit = evaluations[0].unit
    panels = [
        Panel(score.name, [_whole(one, score, one.name) for one in evaluations])
        for score in headline(evaluations[0])
    ]
    notes = [f"a dot for each of the {unit}; orange: the mean and its 95 % interval"]
    title = " and ".join(one.name for one in evaluations)
    return dot_chart(panels, title, [*notes, *_encoders(evaluations[:1])])


def _encoders(evaluations: Sequence[Evaluation]) -> list[str]:
    return list(dict.fromkeys(score.encoder for one in evaluations for score in one.scores))
