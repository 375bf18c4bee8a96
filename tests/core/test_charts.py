"""Charts: scales, ticks, and that what is said is drawn."""

import math

import numpy as np
import pytest
import torch

from detex_pack.detex.canvas.charts import (
    LINES,
    WIDE,
    Panel,
    Row,
    dot_chart,
    scale_of,
    step_chart,
    ticks,
)


def columns_of(page: torch.Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """The columns that have a pixel of exactly this colour."""
    pixels = (page[0] * 255).round().int().numpy()
    return np.unique(np.argwhere((pixels == colour).all(-1))[:, 1])


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.21, 0.34, [0.25, 0.3]),
        (-0.1, 0.1, [-0.1, 0.0, 0.1]),
        (120, 700, [200, 400, 600]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, wanted: list[float]):
    assert ticks(low, high) == pytest.approx(wanted)


def test_scale_holds_everything_and_is_never_empty():
    rows = [Row("a", (0.2, math.nan), 0.4, 0.1, 0.6)]
    low, high = scale_of(rows)
    assert low == pytest.approx(0.1 - 0.08 * 0.5) and high == pytest.approx(0.6 + 0.08 * 0.5)
    low, high = scale_of([Row("a", (), math.nan)])
    assert low < high
    low, high = scale_of([Row("a", (0.5,), 0.5)])
    assert low < 0.5 < high


def test_a_higher_mean_stands_further_right():
    low = dot_chart([Panel("CLIP-I", [Row("a", (0.0, 1.0), 0.2)])], "title")
    high = dot_chart([Panel("CLIP-I", [Row("a", (0.0, 1.0), 0.8)])], "title")
    moved = columns_of(high, LINES[1]).mean() - columns_of(low, LINES[1]).mean()
    inner = WIDE - 16 - 16  # of the panel, between its ends
    assert moved == pytest.approx(0.6 / 1.16 * inner, abs=2)


def test_more_panels_than_fit_go_on_below():
    row = [
        Row("a prompt that is far too long to be written in full beside a panel " * 2, (0.5,), 0.5)
    ]
    one = dot_chart([Panel("CLIP-I", row)], "title", ["by an encoder"])
    three = dot_chart([Panel("CLIP-I", row)] * 3, "title")
    four = dot_chart([Panel("CLIP-I", row)] * 4, "title")
    assert three.shape[2] == one.shape[2] + 2 * WIDE == four.shape[2]
    assert four.shape[1] > three.shape[1]
    assert one.shape[0] == 1 and one.shape[3] == 3


def test_the_chosen_step_is_marked_where_it_stands():
    points = [(100, 0.5, 0.3), (200, 0.6, 0.2), (300, 0.7, 0.1)]
    first, last = (step_chart(points, i, ("CLIP-I", "CLIP-T"), "toy") for i in (0, 2))
    assert first.shape == last.shape
    lines = []
    for page in (first, last):
        column = (page[0, 80:330, :400] > 0.85).all(-1).float().mean(dim=0)  # INK, most of the way
        lines.append(int(column.argmax()))
    assert lines[1] - lines[0] > 200
