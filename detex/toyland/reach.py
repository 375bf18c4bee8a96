"""How far a toy reaches from its body's centre, so that nothing of it is cut or covered."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import torch

from ..toys.scene import SHAPES
from .silhouette import FEET_KINDS, HAT_KINDS, silhouette

_DIRECTIONS = 72
_FINE = 96  # points along a side of the grid that is searched
_WIDE = 2.4  # radii from the centre to the grid's edge


def reach(
    shape: torch.Tensor, hat: torch.Tensor, feet: torch.Tensor, angle: torch.Tensor
) -> torch.Tensor:
    """The box [...,4] around such toys [...]: left, top, right, bottom, in radii from the centre.

    It is never too small: the grid's spacing is added.
    """
    kind = (shape * HAT_KINDS + hat) * FEET_KINDS + feet
    sides = []
    for towards in (math.pi, -math.pi / 2, 0.0, math.pi / 2):
        turn = (towards - angle) / (2 * math.pi) * _DIRECTIONS
        low = torch.floor(turn).long()
        table = _table()
        beside = (table[kind, low % _DIRECTIONS], table[kind, (low + 1) % _DIRECTIONS])
        sides.append(torch.maximum(*beside))
    left, top, right, bottom = sides
    return torch.stack((-left, -top, right, bottom), -1)


@lru_cache
def _table() -> torch.Tensor:
    """How far each outline reaches in each direction, [kinds, _DIRECTIONS]."""
    line = (torch.arange(_FINE) + 0.5) / _FINE * 2 * _WIDE - _WIDE
    v, u = torch.meshgrid(line, line, indexing="ij")
    kinds = torch.tensor([*product(range(len(SHAPES)), range(HAT_KINDS), range(FEET_KINDS))])
    shape, hat, feet = kinds.unbind(1)
    flat = u.expand(len(kinds), -1, -1), v.expand(len(kinds), -1, -1)
    inside = (silhouette(shape, hat, feet, *flat) < 0).flatten(1)
    turn = torch.arange(_DIRECTIONS) * (2 * math.pi / _DIRECTIONS)
    along = u.flatten() * turn.cos()[:, None] + v.flatten() * turn.sin()[:, None]
    rows = [along[:, each].amax(1) for each in inside]
    return torch.stack(rows) + 2 * _WIDE / _FINE + 0.02
