"""Reads the parts of a toy that have no word, from its pixels alone: draw, compare, keep the best.

No network and no training: a second opinion on the judge. Shape, colours and surface are given,
and about where the body is. Its place, size and tilt are searched first, by what of the body no
face covers; then hat, feet, eyes and mouth, each of which is drawn in every kind and colour.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from detex_pack.detex.toyland.render import face_area, paint_toys
from detex_pack.detex.toyland.scene import EYES, FEET, HATS, LOOKS, MOUTHS, Toys
from detex_pack.detex.toys.scene import COLOURS

_COARSE = (2.0, 1.75, 0.24)  # steps of place and radius in pixels, of angle in radians
# Squared distance of two colours below which a drawn pixel speaks for what is drawn: wide for a
# body that hats and feet still hide, narrow for parts. From three times as much on a pixel is
# simply another colour, and what hides a part costs no more.
_BODY, _PART = 0.15, 0.05
_ROWS = 400  # drawings at once

_WORN = [(0, 0), *product(range(1, len(HATS)), range(len(COLOURS)))]
_SHOD = [(0, 0), *product(range(1, len(FEET)), range(len(COLOURS)))]
_GAZES = [*product(range(len(EYES)), range(len(LOOKS)))]


@torch.no_grad()
def read_parts(images: Tensor, named: dict[str, Tensor], near: Tensor) -> Toys:
    """The likeliest toys on pictures [N,64,64,3].

    named: shape, main, second and pattern [N]; near [N,2]: the body's middle within 5 pixels.
    """
    count = len(images)
    none = torch.zeros(count, dtype=torch.long)
    blank = {n: none for n in ("eyes", "mouth", "hat", "hat_colour", "feet", "feet_colour")}
    radius, upright = torch.full((count,), 13.25), torch.zeros(count)
    toys = Toys(
        **named, **blank, look=none + 1, position=none, centre=near, radius=radius, angle=upright
    )
    toys = _placed(images, toys)
    for _ in range(2):  # the second time with the first's hat and feet in place
        toys = _best(images, toys, ("hat", "hat_colour"), _WORN)
        toys = _best(images, toys, ("feet", "feet_colour"), _SHOD)
        toys = _moved(images, toys)
    toys = _best(images, toys, ("eyes", "look"), _GAZES, on_face=True)
    return _best(images, toys, ("mouth",), [(k,) for k in range(len(MOUTHS))], on_face=True)


def _placed(images: Tensor, toys: Toys) -> Toys:
    """The same bodies where they fit best, from a coarse grid to fine steps."""
    line = (0.0, -1.0, 1.0, -2.0, 2.0)  # of equals the first is taken
    ways = torch.tensor([*product(line, repeat=4)])
    return _moved(images, _shifted(images, toys, _COARSE, ways))


def _moved(images: Tensor, toys: Toys) -> Toys:
    """Moved, sized and turned by ever smaller steps, one factor at a time."""
    ways = torch.cat((torch.zeros(1, 4), torch.eye(4), -torch.eye(4)))
    for halving in (2, 4, 8):
        for _ in range(3):
            toys = _shifted(images, toys, tuple(step / halving for step in _COARSE), ways)
    return toys


def _shifted(images: Tensor, toys: Toys, steps: tuple[float, ...], ways: Tensor) -> Toys:
    """The best of the toys' neighbours; ways [K,4] in steps of x, y, radius and angle."""
    place, size, turn = steps
    many = _repeated(toys, len(ways))
    centre = many.centre + ways[:, :2] * place
    radius = (many.radius + ways[:, 2] * size).clamp(8.5, 18)
    angle = (many.angle + ways[:, 3] * turn).clamp(-0.6, 0.6)
    tried = many.with_factors(centre=centre, radius=radius, angle=angle)
    return _chosen(images, tried, _BODY, on_face=False)


def _best(
    images: Tensor,
    toys: Toys,
    names: tuple[str, ...],
    kinds: list[tuple[int, ...]],
    *,
    on_face: bool = False,
) -> Toys:
    """The toys with these factors as they fit best, of all `kinds`."""
    many = _repeated(toys, len(kinds))
    columns = torch.tensor(kinds).T[:, None].expand(-1, len(images), -1)
    tried = many.with_factors(**dict(zip(names, columns, strict=True)))
    return _chosen(images, tried, _PART, on_face=on_face)


def _repeated(toys: Toys, times: int) -> Toys:
    """[N] -> [N,K]."""
    return toys.rows((slice(None), None)).rows((slice(None), [0] * times))


def _chosen(images: Tensor, tried: Toys, alike: float, *, on_face: bool) -> Toys:
    """Of each picture's toys [N,K] the one whose drawing costs least, [N]."""
    count, kinds = tried.shape.shape
    index = torch.arange(count * kinds)
    costs = []
    for some in index.split(_ROWS):
        toys, seen = tried.rows((some // kinds, some % kinds)), images[some // kinds]
        paint, face = paint_toys(toys), face_area(toys)
        where = face if on_face else paint.cover * (1 - face)
        colour = paint.colour + seen * (1 - paint.cover).unsqueeze(-1)
        error = (colour - seen).square().sum(-1)
        costs.append((where * (error.clamp_max(3 * alike) - alike)).sum((1, 2)))
    best = torch.cat(costs).view(count, kinds).argmin(1)
    return tried.rows((torch.arange(count), best))
