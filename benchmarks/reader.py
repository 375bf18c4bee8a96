"""Reads a picture's factors from its pixels alone, by drawing what could be there and comparing.

No network and no training: a second opinion on the judge. Every shape, surface, place, size and
tilt of a grid is a template of three regions (main colour, second colour, background). Under each
template the likeliest colours and background follow from the colour histograms of exact renders;
the template with the greatest likelihood is the answer (maximum likelihood, analysis by synthesis).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from detex_pack.detex.toys.render import colour_shares, render
from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIDE,
    NOISE_WIDTH,
    PATTERNS,
    POSITIONS,
    SHAPES,
    Scenes,
    sample_scenes,
)

FACTORS = ("shape", "main", "second", "pattern", "background", "position")
PLAIN_BELOW = 0.035  # no background of the world varies so little over the picture's frame

_GRID = 32  # pixels of a side, for the comparison
_BINS = 16  # of each colour channel
_FLOOR = 1e-4  # probability of a colour that no render has
_CENTRES = ((19.0, 32.0), (45.0, 32.0), (32.0, 19.0), (32.0, 45.0), (32.0, 32.0))  # POSITIONS
_JITTERS = ((0.0, 0.0), (-1.4, -1.4), (-1.4, 1.4), (1.4, -1.4), (1.4, 1.4))
_RADII = (12.0, 14.5, 17.0)
_ANGLES = (-0.5, -0.25, 0.0, 0.25, 0.5)
_HISTOGRAM_SCENES = 1200
_CHUNK = 16  # pictures at once


@dataclass(frozen=True)
class Templates:
    """T layouts: factors [T] and the shares of the main and second colour, each [T,32*32]."""

    scenes: Scenes
    main: Tensor
    second: Tensor


@torch.no_grad()
def read(images: Tensor) -> dict[str, Tensor]:
    """Pictures [N,64,64,3] in 0..1 -> the index [N] of each of FACTORS."""
    parts = [_read(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
    return {name: torch.cat([part[name] for part in parts]) for name in FACTORS}


def plain_background(images: Tensor) -> Tensor:
    """Whether the outermost pixels of a picture are nearly one colour, [N] bool."""
    inside = torch.ones(IMAGE_SIDE, IMAGE_SIDE, dtype=torch.bool)
    inside[2:-2, 2:-2] = False
    frame = images[:, inside]  # [N, pixels, 3]
    return frame.std(dim=1).amax(dim=1) < PLAIN_BELOW


@torch.no_grad()
def subject_masks(images: Tensor) -> Tensor:
    """Where the toy is in pictures [N,64,64,3] in 0..1: the likeliest template, [N,64,64], 1 on
    the toy, fractions at its edge.
    """
    parts = [_best(images[i : i + _CHUNK])[0] for i in range(0, len(images), _CHUNK)]
    return colour_shares(_templates().scenes.rows(torch.cat(parts))).sum(1)


def _read(images: Tensor) -> dict[str, Tensor]:
    best, colours_at, background_at = _best(images)
    scenes, kinds, rows = _templates().scenes, len(COLOURS), torch.arange(len(images))
    pair = colours_at[best, rows]
    layout = {name: getattr(scenes, name)[best] for name in ("shape", "pattern")}
    return layout | {
        "main": pair // kinds,
        "second": pair % kinds,
        "background": background_at[best, rows],
        "position": scenes.position[best],
    }


def _best(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest template [N]; under each template the likeliest colours and background of each
    picture, [T, N].
    """
    count, templates = len(images), _templates()
    likely = _log_likelihoods(images)  # [N, 16, cells]
    flat = likely.flatten(0, 1).T
    main = (templates.main @ flat).unflatten(1, (count, -1))  # [T, N, 16]
    second = (templates.second @ flat).unflatten(1, (count, -1))
    kinds = len(COLOURS)
    behind = likely[..., kinds:, :].sum(-1) - main[..., kinds:] - second[..., kinds:]
    background, background_at = behind.max(-1)
    pairs = main[..., :kinds, None] + second[..., None, :kinds]
    pairs = pairs - torch.eye(kinds) * 1e9  # two different colours
    colours, colours_at = pairs.flatten(-2).max(-1)
    return (colours + background).argmax(0), colours_at, background_at


@cache
def _templates() -> Templates:
    grid = product(
        range(len(SHAPES)), range(len(PATTERNS)), range(len(POSITIONS)), _JITTERS, _RADII, _ANGLES
    )
    shape, pattern, position, jitter, radius, angle = (
        torch.tensor(column) for column in zip(*grid, strict=True)
    )
    still = torch.zeros(len(shape), dtype=torch.long)
    centre = torch.tensor(_CENTRES)[position] + jitter
    margin = (radius + 0.5)[:, None]
    centre = torch.minimum(torch.maximum(centre, margin), IMAGE_SIDE - margin)
    scenes = Scenes(
        shape=shape,
        main=still,
        second=still + 1,
        pattern=pattern,
        background=still,
        position=position,
        centre=centre,
        radius=radius,
        angle=angle,
        noise=torch.zeros(len(shape), NOISE_WIDTH),
    )
    parts = [
        F.avg_pool2d(colour_shares(scenes.rows(slice(i, i + 300))), IMAGE_SIDE // _GRID)
        for i in range(0, len(scenes), 300)
    ]
    shares = torch.cat(parts).flatten(2)
    return Templates(scenes, shares[:, 0].contiguous(), shares[:, 1].contiguous())


@cache
def _histograms() -> Tensor:
    """Log probability of a colour, [16, bins^3]: 8 subject colours, then 8 backgrounds."""
    scenes = sample_scenes(_HISTOGRAM_SCENES, torch.Generator().manual_seed(71))
    counts = torch.zeros(len(COLOURS) + len(BACKGROUNDS), _BINS**3)
    for start in range(0, len(scenes), 100):
        part = scenes.rows(slice(start, start + 100))
        shares = colour_shares(part)
        behind = 1 - shares.sum(1)
        bins = _bins(render(part)[0]).flatten(1)  # [N, pixels]
        owners = (part.main, part.second, part.background + len(COLOURS))
        for owner, share in zip(owners, (shares[:, 0], shares[:, 1], behind), strict=True):
            weight = (share > 0.9).float().flatten(1)
            counts.index_put_((owner[:, None].expand_as(bins), bins), weight, accumulate=True)
    cube = counts.view(-1, 1, _BINS, _BINS, _BINS)
    for _ in range(2):  # a decoder that is not perfect shifts colours a little
        cube = F.avg_pool3d(F.pad(cube, (1,) * 6, mode="replicate"), 3, stride=1)
    density = cube.flatten(1)
    density = density / density.sum(1, keepdim=True)
    return (density + _FLOOR).log()


def _log_likelihoods(images: Tensor) -> Tensor:
    """Log probability of each cell's colours under each kind, [N, 16, 32*32]."""
    table = _histograms()[:, _bins(images)]  # [16, N, 64, 64]
    return F.avg_pool2d(table.movedim(0, 1), IMAGE_SIDE // _GRID).flatten(2)


def _bins(images: Tensor) -> Tensor:
    """The colour bin of each pixel, [N,64,64]."""
    r, g, b = (images.clamp(0, 1) * _BINS).long().clamp(max=_BINS - 1).unbind(-1)
    return (r * _BINS + g) * _BINS + b
