"""The picture that a node shows while it trains: progress, loss curves, samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..canvas.charts import FAINT, GRID, LINES, PANEL, PAPER, SCALE
from ..canvas.pictures import as_picture
from ..canvas.sheets import GAP, INK, cut_to
from ..canvas.units import duration, in_seconds

WIDTH, CHART = 512, 170  # pixels
HEADER, LEGEND, CAPTION = 34, 28, 28
BARS, VERDICT = 44, 26  # pixels: two bars under their names, a sentence
BETWEEN = 18  # pixels, of the legend's entries


class Bar(NamedTuple):
    """A score, as long as its share of the highest so far; of no highest, its name alone."""

    name: str
    value: float = 0.0
    highest: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    seconds_per_step: float
    memory: str  # "5.1 of 24 GB"
    losses: Mapping[str, Sequence[float]]  # each term at each step
    steady: Mapping[int, float] = field(default_factory=dict)  # the steady loss after so many steps
    samples: Sequence[tuple[str, Tensor]] = field(default=())  # caption, [H, W, 3] in [0, 1]
    note: str = ""
    bars: Sequence[Bar] = ()
    verdict: str = ""


def live_picture(progress: Progress) -> Image.Image:
    """Dark, 512 pixels wide: readable at the width of a node."""
    count = len(progress.samples)
    columns = 2 if count in (1, 2, 4) else 3
    side = (WIDTH - (columns + 1) * GAP) // columns
    below = -(-count // columns) * (side + CAPTION + GAP)
    judged = (BARS if progress.bars else 0) + (VERDICT if progress.verdict else 0)
    under = HEADER + LEGEND + CHART + GAP
    height = under + judged + below
    page = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    pen = ImageDraw.Draw(page)
    _header(pen, progress)
    _legend(pen, progress)
    _chart(pen, progress)
    _bars(pen, progress.bars, under)
    if progress.verdict:
        _text(pen, (GAP + 2, under + judged - VERDICT + 2), progress.verdict, INK, 15)
    for place, (caption, image) in enumerate(progress.samples):
        row, column = divmod(place, columns)
        left = GAP + column * (side + GAP)
        top = under + judged + row * (side + CAPTION + GAP)
        letters = _fitting([caption], 15, side)
        text = cut_to(caption, ImageFont.load_default(letters), side)
        _text(pen, (left + 2, top + 5), text, INK, letters)
        size = (side * SCALE, side * SCALE)
        picture = as_picture(image).resize(size, Image.Resampling.BICUBIC)
        page.paste(picture, (left * SCALE, (top + CAPTION) * SCALE))
    return page.resize((WIDTH, height), Image.Resampling.BOX)


def status(progress: Progress) -> str:
    """ "step 120 of 600   0.42 s/step   3 min left   5.1 of 24 GB" """
    left = (progress.steps - progress.step) * progress.seconds_per_step
    parts = [f"step {progress.step} of {progress.steps}"]
    if progress.seconds_per_step:
        parts += [f"{in_seconds(progress.seconds_per_step)}/step", f"{duration(left)} left"]
    return "   ".join([*parts, progress.memory, progress.note]).strip()


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean over the last `window` values at each place: single steps are mostly noise. What is
    no number, of a step without the term, repeats the value before.
    """
    known, means = [], []
    total, last = 0.0, next((value for value in values if not math.isnan(value)), 0.0)
    for i, value in enumerate(values):
        last = last if math.isnan(value) else value
        known.append(last)
        total += last - (known[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def _text(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, ink, size: int) -> None:
    font = ImageFont.load_default(size * SCALE)
    pen.text((at[0] * SCALE, at[1] * SCALE), text, ink, font=font)


def _header(pen: ImageDraw.ImageDraw, progress: Progress) -> None:
    text = status(progress)
    _text(pen, (GAP + 2, 8), text, INK, _fitting([text], 18))


def _legend(pen: ImageDraw.ImageDraw, progress: Progress) -> None:
    """The latest smoothed value of each term, in its line's colour, and the steady loss."""
    entries = [
        (f"{name} {smooth(values, _window(values))[-1]:.3f}", colour)
        for (name, values), colour in zip(progress.losses.items(), LINES, strict=False)
    ]
    if progress.steady:
        entries.append((f"steady {progress.steady[max(progress.steady)]:.3f}", INK))
    left, size = float(GAP + 2), _fitting([text for text, _ in entries], 15)
    for text, colour in entries:
        _text(pen, (left, HEADER + 3), text, colour, size)
        left += ImageFont.load_default(size).getlength(text) + BETWEEN


def _fitting(texts: Sequence[str], size: int, room: int = WIDTH - 2 * GAP) -> int:
    """The size of letters, of this at most and 11 at least, at which they fit in one line."""

    def width() -> float:
        font = ImageFont.load_default(size)
        return sum(font.getlength(text) for text in texts) + BETWEEN * (len(texts) - 1)

    while size > 11 and width() > room:
        size -= 1
    return size


def _chart(pen: ImageDraw.ImageDraw, progress: Progress) -> None:
    """Each term and the steady loss, from 0 to its highest value, along all the steps to come."""
    top, bottom = HEADER + LEGEND, HEADER + LEGEND + CHART
    box = (GAP * SCALE, top * SCALE, (WIDTH - GAP) * SCALE, bottom * SCALE)
    pen.rounded_rectangle(box, 6 * SCALE, PANEL)
    for part in (0.25, 0.5, 0.75):
        x = (GAP + part * (WIDTH - 2 * GAP)) * SCALE
        pen.line([(x, (top + 4) * SCALE), (x, (bottom - 4) * SCALE)], GRID, SCALE)
    for values, colour in zip(progress.losses.values(), LINES, strict=False):
        line = smooth(values, _window(values))
        stride = max(1, len(line) // WIDTH)
        shown = sorted({*range(0, len(line), stride), len(line) - 1})
        _curve(pen, {i + 1: line[i] for i in shown}, max(line), progress.steps, colour)
    if progress.steady:
        _curve(pen, progress.steady, max(progress.steady.values()), progress.steps, INK)


def _bars(pen: ImageDraw.ImageDraw, bars: Sequence[Bar], top: int) -> None:
    """Side by side, two at most, each under its name and number."""
    room = (WIDTH - 3 * GAP) // 2
    for column, (name, value, highest) in enumerate(bars):
        left = GAP + column * (room + GAP)
        text = f"{name} {value:.2f}" if highest else name
        _text(pen, (left + 2, top + 3), text, INK if highest else FAINT, _fitting([text], 15, room))
        if highest:
            for length, ink in ((room, GRID), (room * max(value, 0.0) / highest, LINES[column])):
                edges = (left, top + 26, left + length, top + 36)
                pen.rectangle([edge * SCALE for edge in edges], ink)


def _curve(
    pen: ImageDraw.ImageDraw,
    line: Mapping[int, float],
    high: float,
    steps: int,
    colour: tuple[int, int, int],
) -> None:
    """line: step -> value, from 0 to `high` on the panel."""
    top, bottom = HEADER + LEGEND + 10, HEADER + LEGEND + CHART - 10
    points = [
        (
            (GAP + 6 + step / max(steps, 1) * (WIDTH - 2 * GAP - 12)) * SCALE,
            (bottom - value / max(high, 1e-12) * (bottom - top)) * SCALE,
        )
        for step, value in sorted(line.items())
    ]
    if len(points) > 1:
        pen.line(points, colour, 2 * SCALE, joint="curve")
    x, y = points[-1]
    radius = 3 * SCALE
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _window(values: Sequence[float]) -> int:
    return max(1, min(50, len(values) // 6))
