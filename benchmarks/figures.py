"""The figures of docs/science.md: small multiples, intervals drawn, colours that all eyes tell."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw, ImageFont

from detex_pack.detex.evaluate.paired import bootstrap_interval, mean

from .arms import ARMS
from .cells import STRIPS, Cell
from .hypotheses import (
    PREDECLARED,
    Grid,
    Hypothesis,
    Table,
    fullest,
    judge_hypothesis,
    missing_cells,
    subject_means,
)
from .measures import TITLES

mpl.use("Agg")
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": "#999999",
        "grid.color": "#e6e6e6",
        "legend.frameon": False,
        "svg.fonttype": "path",
    }
)
# Okabe and Ito's palette, told apart by colour-blind eyes; markers differ too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#555555")
_MARKERS = ("o", "s", "D", "o")
_STYLE = {"detex": 0, "custom_diffusion": 1, "improved": 2}
_OTHERS = 3
_DPI = 130


def hypothesis_figure(table: Table, grid: Grid, path: Path) -> None:
    """One panel a predeclared hypothesis: every subject in both arms, and the mean of each."""
    figure, panels = plt.subplots(2, 3, figsize=(9.2, 6.2), layout="constrained")
    for axes, hypothesis in zip(panels.flat, PREDECLARED, strict=True):
        _pairs_panel(axes, hypothesis, table, grid)
    save(figure, path)


def _pairs_panel(axes: Axes, hypothesis: Hypothesis, table: Table, grid: Grid) -> None:
    names = (hypothesis.other, hypothesis.arm)
    axes.set_title(f"{hypothesis.name}  {hypothesis.claim}", fontsize=8.5)
    axes.set_ylabel(TITLES[hypothesis.measure])
    axes.set_xticks([0, 1], [ARMS[name].title.replace(" without ", "\nwithout ") for name in names])
    axes.set_xlim(-0.35, 1.35)
    found, missing = judge_hypothesis(hypothesis, table, grid)
    if found is None:
        note = f"{len(missing)} cells\nare missing"
        axes.text(
            0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", color="#777777"
        )
        return
    means = [subject_means(table, grid, name, hypothesis.measure) for name in names]
    for identity in grid.identities:
        pair = [m[identity] for m in means]
        axes.plot([0, 1], pair, color="#bbbbbb", linewidth=0.9, zorder=1)
    for x, (values, colour) in enumerate(zip(means, (COLOURS[1], COLOURS[0]), strict=True)):
        dots = list(values.values())
        axes.scatter([x] * len(dots), dots, s=16, color=colour, alpha=0.55, linewidths=0, zorder=2)
        outside = x + (0.14 if x else -0.14)
        _interval(axes, outside, dots, colour, _MARKERS[1 - x])
    told = f"difference {found.estimate:+.3f}\n95 % {found.low:+.3f} to {found.high:+.3f}"
    axes.text(0.5, 1.0, told, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.22 * (high - low))


def arms_figure(table: Table, grid: Grid, path: Path) -> None:
    """All whole arms in rows, one panel a measure: mean and 95 % interval over subjects."""
    measures = ("S", "E_b", "E_p", "L_b", "pale", "L_b'", "R_P", "R_B", "R_PB", "D")
    learned = [name for name in grid.arms if name != "base"]
    names = [n for n in learned if not missing_cells(table, replace(grid, seeds=1), n)]
    grids = {name: fullest(table, grid, name) for name in names}
    labels = [
        ARMS[name].title + ("" if own.seeds == grid.seeds else f", {own.seeds} seed")
        for name, own in grids.items()
    ]
    figure, panels = plt.subplots(2, 5, figsize=(10.4, 5.4), sharey=True, layout="constrained")
    for axes, measure in zip(panels.flat, measures, strict=True):
        axes.set_title(f"{measure}\n{TITLES[measure].removesuffix(measure)}", fontsize=8)
        axes.grid(axis="x")
        for row, (name, own) in enumerate(grids.items()):
            values = list(subject_means(table, own, name, measure).values())
            if values:
                style = _STYLE.get(name, _OTHERS)
                _interval(axes, row, values, COLOURS[style], _MARKERS[style], across=True)
        axes.set_yticks(range(len(names)), labels, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
    save(figure, path)


def sweep_figure(
    table: Table, grids: Mapping[float, Grid], label: str, measures: Sequence[str], path: Path
) -> None:
    """One panel a measure against the swept setting, one line an arm, with 95 % intervals."""
    figure, panels = plt.subplots(1, len(measures), figsize=(9.6, 2.7), layout="constrained")
    arm_names = next(iter(grids.values())).arms
    at = np.arange(len(grids))
    for axes, measure in zip(panels, measures, strict=True):
        axes.set_title(TITLES[measure], fontsize=8)
        axes.set_xticks(at, [f"{setting:g}" for setting in grids])
        axes.set_xlabel(label)
        axes.grid(axis="y")
        for number, name in enumerate(arm_names):
            style = _STYLE.get(name, _OTHERS)
            points = [
                (x + 0.07 * (number - (len(arm_names) - 1) / 2), list(values.values()))
                for x, grid in zip(at, grids.values(), strict=True)
                if (values := subject_means(table, grid, name, measure))
            ]
            line = ([x for x, _ in points], [np.mean(v) for _, v in points])
            axes.plot(*line, color=COLOURS[style], linewidth=1.3)
            for x, values in points:
                _interval(axes, x, values, COLOURS[style], _MARKERS[style])
    handles = [
        Line2D([], [], color=COLOURS[s], marker=_MARKERS[s], label=ARMS[name].title)
        for number, name in enumerate(arm_names)
        for s in [_STYLE.get(name, _OTHERS)]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    save(figure, path)


def pictures_page(cells: Sequence[Cell], folder: Path) -> bool:
    """The kept strip of each cell, one a row under its arm's name; False where one is gone."""
    files = [STRIPS / f"{cell.key}.png" for cell in cells]
    if not all(file.is_file() for file in files):
        return False
    strips = [Image.open(file).convert("RGB") for file in files]
    font, head = ImageFont.load_default(13), 20
    wide, high = max(s.width for s in strips), strips[0].height
    page = Image.new("RGB", (wide, len(strips) * (high + head)), "white")
    pen = ImageDraw.Draw(page)
    for row, (cell, strip) in enumerate(zip(cells, strips, strict=True)):
        top = row * (high + head)
        pen.text((2, top + 3), f"{ARMS[cell.arm].title}, seed {cell.seed}", fill="black", font=font)
        page.paste(strip, (0, top + head))
    page.save(folder / "pictures.jpg", quality=72, optimize=True)
    return True


def _interval(
    axes: Axes,
    at: float,
    values: Sequence[float],
    colour: str,
    marker: str,
    *,
    across: bool = False,
) -> None:
    """Mean and bootstrap interval; `across` draws along x."""
    centre = float(np.mean(values))
    low, high = bootstrap_interval(np.asarray(values), mean)
    reach = [[max(0.0, centre - low)], [max(0.0, high - centre)]]
    style = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2.5, "linewidth": 1.4}
    if across:
        axes.errorbar([centre], [at], xerr=reach, **style)
    else:
        axes.errorbar([at], [centre], yerr=reach, **style)


def save(figure: Figure, path: Path) -> None:
    """As a small PNG."""
    whole = io.BytesIO()
    figure.savefig(whole, dpi=_DPI)
    plt.close(figure)
    Image.open(whole).convert("RGB").quantize(128).save(path, optimize=True)
