"""A toy's outline: its body with its hat and its feet."""

from __future__ import annotations

import torch

from .bodies import Field, body_distance, by_kind, seats
from .parts import antennae, bow, party_cone, top_hat, two_feet, wheels

_HATS = (party_cone, top_hat, bow, antennae)
_FEET = (two_feet, wheels)
HAT_KINDS, FEET_KINDS = 1 + len(_HATS), 1 + len(_FEET)


def silhouette(
    shape: torch.Tensor, hat: torch.Tensor, feet: torch.Tensor, u: Field, v: Field
) -> Field:
    """Signed distance in radii to the edges of toys of these kinds [N], at u, v [N,h,w]."""
    body = body_distance(shape, u, v)
    return torch.minimum(
        torch.minimum(body, hat_distance(shape, hat, u, v)), feet_distance(shape, feet, u, v)
    )


def seated(seat: torch.Tensor, u: Field, v: Field) -> tuple[Field, Field, torch.Tensor]:
    """Points in a part's own frame, and how many radii one unit of it has, [N,1,1]."""
    at_u, at_v, scale, angle = (column.view(-1, 1, 1) for column in seat.unbind(-1))
    du, dv = (u - at_u) / scale, (v - at_v) / scale
    return du * angle.cos() + dv * angle.sin(), dv * angle.cos() - du * angle.sin(), scale


def hat_distance(shape: torch.Tensor, hat: torch.Tensor, u: Field, v: Field) -> Field:
    """To the hats' edges; far from everything where there is none."""
    a, b, scale = seated(seats("hat", shape), u, v)
    return by_kind(hat, (_nothing, *_HATS), a, b) * scale


def feet_distance(shape: torch.Tensor, feet: torch.Tensor, u: Field, v: Field) -> Field:
    """To the feet's edges; far from everything where there are none."""
    a, b, half = feet_frame(shape, u, v)
    return by_kind(feet, (_nothing, *_FEET), a, b, half)


def feet_frame(shape: torch.Tensor, u: Field, v: Field) -> tuple[Field, Field, Field]:
    """Points from the middle between the feet, and half the distance of the feet, [N,1,1]."""
    at_u, at_v, half, _ = (column.view(-1, 1, 1) for column in seats("feet", shape).unbind(-1))
    return u - at_u, v - at_v, half


def _nothing(u: Field, *_: Field) -> Field:
    return torch.full_like(u, 1e3)
