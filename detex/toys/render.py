"""Draws scenes exactly: signed distances give the edges, so every picture is anti-aliased.

All functions are vectorised over the batch; nothing here is random.
"""

from __future__ import annotations

import math

import torch

from .backdrops import backdrop, cover, mix, ramp
from .scene import IMAGE_SIDE, PALETTE, SHAPES, Scenes

_OUTLINE = 1.7  # pixels
_LIGHT = (-0.45, -0.6)


def render(scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B,64,64,3] in 0..1 and soft subject masks [B,64,64]."""
    x, y = _pixel_centres()
    u, v = _local(scenes, x, y)
    distance = _subject_distance(scenes, u, v)
    colour = _subject_colour(scenes, u, v, distance)
    mask = cover(distance)
    shadow = 0.75 + 0.25 * ramp(_shadow_distance(scenes, x, y), 3.0)
    image = backdrop(scenes, x, y) * shadow.unsqueeze(-1)
    image = image + (colour - image) * mask.unsqueeze(-1)
    return image.clamp(0, 1), mask


def colour_shares(scenes: Scenes) -> torch.Tensor:
    """How much of each pixel is the subject's main and second colour, [B,2,64,64]."""
    u, v = _local(scenes, *_pixel_centres())
    distance = _subject_distance(scenes, u, v)
    mask, second = cover(distance), _pattern(scenes, u, v, distance)
    return torch.stack((mask * (1 - second), mask * second), 1)


def _pixel_centres() -> tuple[torch.Tensor, torch.Tensor]:
    """x and y of every pixel centre, each [1,64,64]."""
    line = torch.arange(IMAGE_SIDE) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


# ---- the subject ---------------------------------------------------------------------------------


def _local(
    scenes: Scenes, x: torch.Tensor, y: torch.Tensor, shift: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates in the subject's own frame, in radii, each [B,64,64]."""
    column = (-1, 1, 1)
    dx = x - scenes.centre[:, 0].view(column) - shift
    dy = y - scenes.centre[:, 1].view(column) - shift
    cos, sin = scenes.angle.cos().view(column), scenes.angle.sin().view(column)
    radius = scenes.radius.view(column)
    return (dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius


def _subject_distance(scenes: Scenes, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Signed distance to the subject's edge in pixels (negative inside), [B,64,64]."""
    distance = torch.empty_like(u)
    for index, name in enumerate(SHAPES):
        chosen = (scenes.shape == index).nonzero().flatten()
        if len(chosen):
            distance[chosen] = _DISTANCES[name](u[chosen], v[chosen])
    return distance * scenes.radius.view(-1, 1, 1)


def _shadow_distance(scenes: Scenes, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _subject_distance(scenes, *_local(scenes, x, y, shift=2.0))


def _subject_colour(
    scenes: Scenes, u: torch.Tensor, v: torch.Tensor, distance: torch.Tensor
) -> torch.Tensor:
    """The subject's surface and outline, [B,64,64,3]."""
    palette = torch.tensor(PALETTE)
    main = palette[scenes.main][:, None, None]
    second = palette[scenes.second][:, None, None]
    share = _pattern(scenes, u, v, distance)
    surface = mix(share, main, second)
    light = u * _LIGHT[0] + v * _LIGHT[1]
    surface = surface * (0.97 + 0.13 * light).clamp(0.8, 1.08).unsqueeze(-1)
    shine = (1 - ((u + 0.35) ** 2 + (v + 0.4) ** 2) / 0.05).clamp(0, 1)
    surface = surface + (1 - surface) * (0.3 * shine).unsqueeze(-1)
    dark_subject = (main.amax(-1, keepdim=True) < 0.2).float()
    outline = main * 0.3 * (1 - dark_subject) + 0.5 * dark_subject
    inside = (0.5 - (distance + _OUTLINE)).clamp(0, 1)
    return mix(inside, outline.expand_as(surface), surface)


def _pattern(
    scenes: Scenes, u: torch.Tensor, v: torch.Tensor, distance: torch.Tensor
) -> torch.Tensor:
    """Share of the second colour in each pixel, [B,64,64]."""
    radius = scenes.radius.view(-1, 1, 1)
    stripes = cover((torch.minimum((v + 0.4).abs(), (v - 0.4).abs()) - 0.19) * radius)
    pitch = 0.62
    row = torch.round(v / pitch)
    shifted = u / pitch + 0.5 * row
    dot = torch.hypot((shifted - torch.round(shifted)) * pitch, v - row * pitch) - 0.19
    dots = cover(dot * radius)
    halves = cover(-u * radius)
    frame = cover(-distance - 0.3 * radius)
    choices = torch.stack((stripes, dots, halves, frame))
    return choices[scenes.pattern, torch.arange(len(scenes))]


def _ball(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.hypot(u, v) - 0.95


def _box(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    du, dv = u.abs() - 0.61, v.abs() - 0.61
    outside = torch.hypot(du.clamp_min(0), dv.clamp_min(0))
    return outside + torch.maximum(du, dv).clamp_max(0) - 0.12


def _star(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Five rounded points, one up: the distance to the edge line of the folded sector."""
    sector = math.pi / 5
    turn = torch.atan2(u, -v)
    fold = (turn - 2 * sector * torch.round(turn / (2 * sector))).abs()
    length = torch.hypot(u, v)
    a, b = length * fold.cos(), length * fold.sin()
    tip, notch = (0.98, 0.0), (0.54 * math.cos(sector), 0.54 * math.sin(sector))
    return _segment(a, b, tip, notch) - 0.06


def _segment(
    a: torch.Tensor, b: torch.Tensor, start: tuple[float, float], end: tuple[float, float]
) -> torch.Tensor:
    """Signed distance to a segment; positive on the side away from the origin."""
    ea, eb = end[0] - start[0], end[1] - start[1]
    wa, wb = a - start[0], b - start[1]
    t = ((wa * ea + wb * eb) / (ea * ea + eb * eb)).clamp(0, 1)
    distance = torch.hypot(wa - ea * t, wb - eb * t)
    origin_side = ea * -start[1] - eb * -start[0]
    side = ea * wb - eb * wa
    return torch.where(side * origin_side > 0, -distance, distance)


def _heart(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Two round lobes over a square corner (the exact distance of a heart of two arcs)."""
    scale = 1.72
    a, b = u.abs() / scale, (0.93 - v) / scale
    lobe = torch.hypot(a - 0.25, b - 0.75) - math.sqrt(2) / 4
    corner = torch.hypot(a, b - 1)
    middle = 0.5 * (a + b).clamp_min(0)
    edge = torch.hypot(a - middle, b - middle)
    lower = torch.minimum(corner, edge) * torch.sign(a - b)
    return torch.where(a + b > 1, lobe, lower) * scale


def _cone(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A rounded triangle standing on its base."""
    half, top, base = 0.7, -0.86, 0.58
    side = torch.where(
        v > base,
        torch.hypot((u.abs() - half).clamp_min(0), v - base),
        _segment(u.abs(), v, (half, base), (0.0, top)),
    )
    inside_base = v - base
    return torch.where(side < 0, torch.maximum(side, inside_base), side) - 0.11


def _moon(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A crescent: a disc without a second disc to its right."""
    disc = torch.hypot(u - 0.2, v) - 0.93
    bite = 0.66 - torch.hypot(u - 0.82, v)
    return torch.maximum(disc, bite)


_DISTANCES = {
    "ball": _ball,
    "box": _box,
    "star": _star,
    "heart": _heart,
    "cone": _cone,
    "moon": _moon,
}
