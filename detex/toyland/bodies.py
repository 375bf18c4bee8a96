"""The toys' bodies: the distance to each shape's edge, and where its face, hat and feet go.

A toy's own frame has u to the right and v down, in radii from the body's centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ..toys.scene import SHAPES

Field = torch.Tensor  # one number a pixel, [N,h,w]


class Seat(NamedTuple):
    """Where a part sits on a body, in radii, and how large it is there."""

    u: float
    v: float
    scale: float
    angle: float = 0.0


class Body(NamedTuple):
    """A shape: its signed distance in radii, negative inside, and the seats of its parts.

    The feet's `scale` is half the distance between them.
    """

    distance: Callable[[Field, Field], Field]
    face: Seat
    hat: Seat
    feet: Seat


def by_kind(kind: torch.Tensor, makers: Sequence[Callable[..., Field]], *given: Field) -> Field:
    """Every row from the maker of its kind [N], which is given just its rows of `given`."""
    made = torch.empty_like(given[0])
    for index, maker in enumerate(makers):
        chosen = (kind == index).nonzero().flatten()
        if len(chosen):
            made[chosen] = maker(*(field[chosen] for field in given))
    return made


def body_distance(shape: torch.Tensor, u: Field, v: Field) -> Field:
    """Signed distance in radii to the edges of bodies of these shapes [N]."""
    return by_kind(shape, [body.distance for body in BODIES.values()], u, v)


def seats(part: str, shape: torch.Tensor) -> torch.Tensor:
    """The seat [N,4] of the face, the hat or the feet on bodies of these shapes [N]."""
    return torch.tensor([getattr(body, part) for body in BODIES.values()])[shape]


def box(u: Field, v: Field, half_u: float, half_v: float, rounding: float) -> Field:
    """Signed distance to a rounded box about the origin; the half sides include the rounding."""
    du, dv = u.abs() - half_u + rounding, v.abs() - half_v + rounding
    outside = torch.hypot(du.clamp_min(0), dv.clamp_min(0))
    return outside + torch.maximum(du, dv).clamp_max(0) - rounding


def triangle(u: Field, v: Field, half: float, height: float, rounding: float) -> Field:
    """Signed distance to a rounded triangle on a base at v = 0 with its tip at v = -height."""
    side = _segment(u.abs(), v, (half, 0.0), (0.0, -height))
    below = torch.hypot((u.abs() - half).clamp_min(0), v)
    distance = torch.where(v > 0, below, torch.where(side < 0, torch.maximum(side, v), side))
    return distance - rounding


def stroke(u: Field, v: Field, start: tuple[float, float], end: tuple[float, float]) -> Field:
    """Distance to a line from `start` to `end`."""
    eu, ev = end[0] - start[0], end[1] - start[1]
    wu, wv = u - start[0], v - start[1]
    t = ((wu * eu + wv * ev) / (eu * eu + ev * ev)).clamp(0, 1)
    return torch.hypot(wu - eu * t, wv - ev * t)


def _segment(a: Field, b: Field, start: tuple[float, float], end: tuple[float, float]) -> Field:
    """Distance to a line, negative on the side of the origin's left."""
    side = (end[0] - start[0]) * (b - start[1]) - (end[1] - start[1]) * (a - start[0])
    distance = stroke(a, b, start, end)
    return torch.where(side < 0, -distance, distance)


def _ball(u: Field, v: Field) -> Field:
    return torch.hypot(u, v) - 0.93


def _box(u: Field, v: Field) -> Field:
    return box(u, v, 0.82, 0.82, 0.22)


def _star(u: Field, v: Field) -> Field:
    """Five round points, one up: the distance to the edge line of the folded sector."""
    sector = math.pi / 5
    turn = torch.atan2(u, -v)
    fold = (turn - 2 * sector * torch.round(turn / (2 * sector))).abs()
    length = torch.hypot(u, v)
    a, b = length * fold.cos(), length * fold.sin()
    notch = (0.55 * math.cos(sector), 0.55 * math.sin(sector))
    return -_segment(a, b, (0.88, 0.0), notch) - 0.15


def _heart(u: Field, v: Field) -> Field:
    """Two round lobes over a square corner (the exact distance of a heart of two arcs)."""
    scale, rounding = 1.45, 0.14
    a, b = u.abs() / scale, (0.8 - v) / scale
    lobe = torch.hypot(a - 0.25, b - 0.75) - math.sqrt(2) / 4
    corner = torch.hypot(a, b - 1)
    middle = 0.5 * (a + b).clamp_min(0)
    edge = torch.hypot(a - middle, b - middle)
    lower = torch.minimum(corner, edge) * torch.sign(a - b)
    return torch.where(a + b > 1, lobe, lower) * scale - rounding


def _cone(u: Field, v: Field) -> Field:
    return triangle(u, v - 0.58, 0.6, 1.15, 0.28)


def _moon(u: Field, v: Field) -> Field:
    """A fat crescent, open to the upper right: a disc without a second disc."""
    disc = torch.hypot(u, v) - 0.97
    bite = 0.55 - torch.hypot(u - 0.68, v + 0.5)
    blend = (0.5 + 0.5 * (bite - disc) / 0.14).clamp(0, 1)  # horns with round tips
    return disc + (bite - disc) * blend + 0.07 * blend * (1 - blend)


BODIES = dict(
    zip(
        SHAPES,
        (
            Body(_ball, Seat(0, 0.02, 1.0), Seat(0, -0.78, 1.0), Seat(0, 0.86, 0.42)),
            Body(_box, Seat(0, 0.02, 1.0), Seat(0, -0.76, 1.0), Seat(0, 0.84, 0.46)),
            Body(_star, Seat(0, 0.04, 0.82), Seat(0, -0.68, 0.72), Seat(0, 0.78, 0.5)),
            Body(_heart, Seat(0, -0.1, 0.95), Seat(0, -0.56, 0.9), Seat(0, 0.84, 0.3)),
            Body(_cone, Seat(0, 0.26, 0.84), Seat(0, -0.6, 0.72), Seat(0, 0.86, 0.46)),
            Body(_moon, Seat(-0.26, 0.24, 0.86), Seat(-0.36, -0.8, 0.8, -0.3), Seat(0, 0.88, 0.4)),
        ),
        strict=True,
    )
)
