"""Charts for the canvas, drawn with Pillow: small multiples of dots and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .labelled_grid import wrapped
from .pictures import as_image
from .sheets import INK, cut_to

SCALE = 2  # drawn at twice the size, so that lines and letters come out smooth
PAPER, PANEL, GRID = (24, 25, 28), (34, 36, 40), (58, 61, 67)
FAINT = (150, 153, 160)
# Blue, orange, green, pink of Okabe and Ito, lightened: told apart by the colour-blind, on dark.
LINES = ((104, 182, 255), (255, 176, 64), (64, 208, 160), (240, 150, 200))
LABELS, WIDE, ROW = 210, 250, 40  # pixels: the labels, a panel, a row of it
HEAD, FOOT, EDGE = 34, 26, 12  # pixels: above a panel's rows, below them, around all
ACROSS = 3  # panels beside each other
ROOM = 0.08  # of the range, free on both sides of it


class Row(NamedTuple):
    """What one line of a panel shows: dots, their mean, and an interval where there is one."""

    label: str
    dots: Sequence[float]
    mean: float
    low: float = math.nan
    high: float = math.nan


class Panel(NamedTuple):
    """One score: a row for each prompt or concept, the same rows in all panels."""

    title: str
    rows: Sequence[Row]


def dot_chart(panels: Sequence[Panel], title: str, notes: Sequence[str] = ()) -> Tensor:
    """Panels side by side, each with its own scale; the notes stand below -> [1, H, W, 3]."""
    lines = [panels[i : i + ACROSS] for i in range(0, len(panels), ACROSS)]
    tall = HEAD + ROW * len(panels[0].rows) + FOOT
    width = 2 * EDGE + LABELS + WIDE * max(len(line) for line in lines)
    height = 44 + (tall + EDGE) * len(lines) + 20 * len(notes) + EDGE
    page = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    pen = ImageDraw.Draw(page)
    write(pen, (EDGE, 12), cut(title, width - 2 * EDGE, 17), INK, 17)
    top = 44
    for line in lines:
        _labels(pen, top + HEAD, line[0].rows)
        for number, panel in enumerate(line):
            _panel(pen, (EDGE + LABELS + WIDE * number, top), panel)
        top += tall + EDGE
    for number, note in enumerate(notes):
        write(pen, (EDGE, top + 20 * number), cut(note, width - 2 * EDGE, 12), FAINT, 12)
    return as_image(page.resize((width, height), Image.Resampling.BOX))[None]


def _labels(pen: ImageDraw.ImageDraw, top: float, rows: Sequence[Row]) -> None:
    font, big = ImageFont.load_default(12), ImageFont.load_default(12 * SCALE)
    for number, row in enumerate(rows):
        text = wrapped(row.label, font, LABELS - 14, lines=2)
        middle = top + ROW * (number + 0.5)
        at = (EDGE * SCALE, middle * SCALE)
        pen.multiline_text(at, text, INK, font=big, anchor="lm", spacing=4)


def _panel(pen: ImageDraw.ImageDraw, at: tuple[float, float], panel: Panel) -> None:
    left, top = at
    inner = (left + 4, left + WIDE - 12)
    bottom = top + HEAD + ROW * len(panel.rows)
    write(pen, (left + 4, top + 10), cut(panel.title, WIDE - 16, 14), INK, 14)
    box(pen, (inner[0], top + HEAD, inner[1], bottom), PANEL)
    low, high = scale_of(panel.rows)
    place = _placer(low, high, inner)
    for tick in ticks(low, high):
        line(pen, [(place(tick), top + HEAD), (place(tick), bottom)], GRID, 1)
        write(pen, (place(tick), bottom + 5), f"{tick:.6g}", FAINT, 11, anchor="ma")
    for number, row in enumerate(panel.rows):
        middle = top + HEAD + ROW * (number + 0.5)
        for dot in row.dots:
            if math.isfinite(dot):
                disc(pen, (place(dot), middle), 2.5, LINES[0])
        if math.isfinite(row.low):
            line(pen, [(place(row.low), middle), (place(row.high), middle)], LINES[1], 2)
        if math.isfinite(row.mean):
            x = place(row.mean)
            line(pen, [(x, middle - 9), (x, middle + 9)], LINES[1], 3)


def _placer(low: float, high: float, inner: tuple[float, float]):
    left, right = inner[0] + 8, inner[1] - 8
    return lambda value: left + (value - low) / (high - low) * (right - left)


def scale_of(rows: Sequence[Row]) -> tuple[float, float]:
    """The range that holds all dots, means and intervals, with some room; never empty."""
    values = [v for row in rows for v in (*row.dots, row.mean, row.low, row.high)]
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    room = ROOM * (high - low) or 0.05
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers in the range: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 3
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def step_chart(
    points: Sequence[tuple[int, float, float]], chosen: int, names: tuple[str, str], title: str
) -> Tensor:
    """Two scores along the steps, each on its own scale, and one against the other with the chosen
    point ringed -> [1, H, W, 3]. points: step, first score, second score.
    """
    side, top = 380, 74
    width, height = 2 * EDGE + 2 * side + 40, top + 260 + 40
    page = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    pen = ImageDraw.Draw(page)
    write(pen, (EDGE, 12), cut(title, width - 2 * EDGE, 17), INK, 17)
    steps, first, second = ([float(point[i]) for point in points] for i in range(3))
    area = (EDGE, top, EDGE + side, top + 260)
    box(pen, area, PANEL)
    for values, name, colour, left in zip(
        (first, second), names, LINES[:2], (EDGE, EDGE + side / 2), strict=True
    ):
        write(pen, (left, 48), cut(name, side / 2 - 8, 14), colour, 14)
        _curve(pen, _spots(steps, values, area), colour)
    _marks(pen, steps, area)
    x = _spots(steps, first, area)[chosen][0]
    line(pen, [(x, top), (x, top + 260)], INK, 1)
    area = (EDGE + side + 40, top, EDGE + 2 * side + 40, top + 260)
    box(pen, area, PANEL)
    write(pen, (area[0], 48), cut(f"{names[0]} up, {names[1]} right", side, 14), INK, 14)
    spots = _spots(second, first, area)
    _curve(pen, spots, GRID)
    for place, (spot, step) in enumerate(zip(spots, steps, strict=True)):
        if place == chosen:
            disc(pen, spot, 8, INK)
            disc(pen, spot, 6, PANEL)
        disc(pen, spot, 4, LINES[2])
        write(pen, (spot[0], spot[1] - 10), f"{step:g}", FAINT, 11, anchor="mb")
    return as_image(page.resize((width, height), Image.Resampling.BOX))[None]


def _spots(xs: Sequence[float], ys: Sequence[float], area) -> list[tuple[float, float]]:
    """Where these values lie in an area of the page, each axis on its own scale."""
    left, top, right, bottom = area
    across = _placer(*scale_of([Row("", xs, xs[0])]), (left + 16, right - 16))
    up = _placer(*scale_of([Row("", ys, ys[0])]), (bottom - 16, top + 24))
    return [(across(x), up(y)) for x, y in zip(xs, ys, strict=True)]


def _curve(pen: ImageDraw.ImageDraw, spots: Sequence[tuple[float, float]], colour) -> None:
    line(pen, spots, colour, 2)
    for spot in spots:
        disc(pen, spot, 3, colour)


def _marks(pen: ImageDraw.ImageDraw, steps: Sequence[float], area) -> None:
    """The steps below the area, as far apart as they can be read."""
    every = max(1, round(len(steps) / 7))
    for place, (x, _) in enumerate(_spots(steps, steps, area)):
        if place % every == 0:
            write(pen, (x, area[3] + 6), f"{steps[place]:g}", FAINT, 11, anchor="ma")


# ---- in pixels of the page, which is drawn larger ------------------------------------------------


def write(pen: ImageDraw.ImageDraw, at, text: str, ink, size: int, anchor: str = "la") -> None:
    font = ImageFont.load_default(size * SCALE)
    pen.text((at[0] * SCALE, at[1] * SCALE), text, ink, font=font, anchor=anchor)


def line(pen: ImageDraw.ImageDraw, points, ink, width: float) -> None:
    pen.line([(x * SCALE, y * SCALE) for x, y in points], ink, round(width * SCALE), joint="curve")


def box(pen: ImageDraw.ImageDraw, edges, ink) -> None:
    pen.rectangle([edge * SCALE for edge in edges], ink)


def disc(pen: ImageDraw.ImageDraw, at, radius: float, ink) -> None:
    x, y = at
    edges = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse([edge * SCALE for edge in edges], ink)


def cut(text: str, width: float, size: int) -> str:
    """The text, cut short where it is wider than so many pixels at this size."""
    return cut_to(text, ImageFont.load_default(size), width)
