"""Draws scenes exactly: signed distances give the edges, so every picture is anti-aliased.

All functions are vectorised over the batch; nothing here is random.
"""

from __future__ import annotations

import torch

from ..toys.backdrops import backdrop, cover, mix, ramp
from ..toys.scene import IMAGE_SIDE, PALETTE
from .bodies import Field, body_distance, seats
from .parts import (
    Paint,
    edge,
    paint_antennae,
    paint_bow,
    paint_eyes,
    paint_feet,
    paint_mouth,
    paint_party_cone,
    paint_top_hat,
    paint_wheels,
)
from .scene import Scenes, Toys
from .silhouette import feet_frame, seated, silhouette

_OUTLINE = 1.3  # pixels
_LIGHT = (-0.45, -0.6)
_HATS = (paint_party_cone, paint_top_hat, paint_bow, paint_antennae)


def render(scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B,64,64,3] in 0..1 and the soft masks [B,2,64,64] of their two toys.

    A toy that is not in the picture has an empty mask.
    """
    x, y = _pixel_centres()
    present = scenes.present
    shown = scenes.toys.rows(present)
    paint = paint_toys(shown)
    shade = _scattered(1 - ramp(_edge(shown, *_local(shown, x, y, shift=2.0)), 3.5), present)
    colour, masks = _scattered(paint.colour, present), _scattered(paint.cover, present)
    image = backdrop(scenes, x, y) * (1 - 0.28 * shade.amax(1)).unsqueeze(-1)
    for toy in range(2):
        image = image * (1 - masks[:, toy]).unsqueeze(-1) + colour[:, toy]
    return image.clamp(0, 1), masks


def paint_toys(toys: Toys) -> Paint:
    """N toys, each alone, from the back to the front: feet, body, wheels, face, hat."""
    u, v = _local(toys, *_pixel_centres())
    paint = Paint(u.new_zeros(*u.shape, 3), torch.zeros_like(u))
    _paint_some(paint, toys, u, v, toys.feet == 1, _feet)
    distance = body_distance(toys.shape, u, v) * _pixels(toys)
    main = torch.tensor(PALETTE)[toys.main]
    paint.over(distance, edge(main))
    paint.over(distance + _OUTLINE, _surface(toys, u, v, distance))
    _paint_some(paint, toys, u, v, toys.feet == 2, _wheels)
    _face(paint, toys, u, v)
    for kind in range(len(_HATS)):
        _paint_some(paint, toys, u, v, toys.hat == kind + 1, _hat)
    return paint


def colour_shares(scenes: Scenes) -> torch.Tensor:
    """How much of each pixel the bodies' colours cover: [B,2,2,64,64], toy by main and second.

    What hats and feet hide counts as the body's: they have no words.
    """
    present = scenes.present
    toys = scenes.toys.rows(present)
    u, v = _local(toys, *_pixel_centres())
    distance = _pixels(toys) * body_distance(toys.shape, u, v)
    mask, second = cover(distance), _pattern(toys, u, v, distance)
    return _scattered(torch.stack((mask * (1 - second), mask * second), 1), present)


def faces(scenes: Scenes) -> torch.Tensor:
    """How much of each pixel lies on a face, [B,64,64]."""
    return _scattered(face_area(scenes.toys.rows(scenes.present)), scenes.present).amax(1)


def face_area(toys: Toys) -> Field:
    """How much of each pixel lies on the face of a toy, [N,64,64]."""
    a, b, scale = seated(seats("face", toys.shape), *_local(toys, *_pixel_centres()))
    return cover((torch.hypot(a / 0.68, (b - 0.08) / 0.55) - 1) * 0.55 * scale * _pixels(toys))


def _scattered(rows: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The toys' rows [N,...] at their places [B,2,...], zeros elsewhere."""
    placed = rows.new_zeros(*present.shape, *rows.shape[1:])
    placed[present] = rows
    return placed


def _pixel_centres() -> tuple[Field, Field]:
    """x and y of every pixel centre, each [1,64,64]."""
    line = torch.arange(IMAGE_SIDE) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


def _pixels(toys: Toys) -> torch.Tensor:
    """Pixels in a radius, [N,1,1]."""
    return toys.radius.view(-1, 1, 1)


def _local(toys: Toys, x: Field, y: Field, shift: float = 0.0) -> tuple[Field, Field]:
    """Coordinates in the toys' own frames, in radii, each [N,64,64]."""
    dx = x - toys.centre[:, 0].view(-1, 1, 1) - shift
    dy = y - toys.centre[:, 1].view(-1, 1, 1) - shift
    cos, sin = toys.angle.cos().view(-1, 1, 1), toys.angle.sin().view(-1, 1, 1)
    return (dx * cos + dy * sin) / _pixels(toys), (dy * cos - dx * sin) / _pixels(toys)


def _edge(toys: Toys, u: Field, v: Field) -> Field:
    """Signed distance to the outlines in pixels."""
    return silhouette(toys.shape, toys.hat, toys.feet, u, v) * _pixels(toys)


def _paint_some(paint: Paint, toys: Toys, u: Field, v: Field, chosen: torch.Tensor, draw) -> None:
    """`draw` on the chosen rows [N] bool alone."""
    if not chosen.any():
        return
    part = Paint(paint.colour[chosen], paint.cover[chosen])
    draw(part, toys.rows(chosen), u[chosen], v[chosen])
    paint.colour[chosen], paint.cover[chosen] = part.colour, part.cover


def _feet(paint: Paint, toys: Toys, u: Field, v: Field) -> None:
    colour = torch.tensor(PALETTE)[toys.feet_colour]
    paint_feet(paint, *feet_frame(toys.shape, u, v), _pixels(toys), colour)


def _wheels(paint: Paint, toys: Toys, u: Field, v: Field) -> None:
    colour = torch.tensor(PALETTE)[toys.feet_colour]
    paint_wheels(paint, *feet_frame(toys.shape, u, v), _pixels(toys), colour)


def _hat(paint: Paint, toys: Toys, u: Field, v: Field) -> None:
    """One kind of hat on all of these toys."""
    a, b, scale = seated(seats("hat", toys.shape), u, v)
    colour = torch.tensor(PALETTE)[toys.hat_colour]
    _HATS[int(toys.hat[0]) - 1](paint, a, b, scale * _pixels(toys), colour)


def _face(paint: Paint, toys: Toys, u: Field, v: Field) -> None:
    a, b, scale = seated(seats("face", toys.shape), u, v)
    pixels = scale * _pixels(toys)
    paint_mouth(paint, a, b, pixels, toys.mouth)
    paint_eyes(paint, a, b, pixels, toys.eyes, toys.look, torch.tensor(PALETTE)[toys.main])


def _surface(toys: Toys, u: Field, v: Field, distance: Field) -> torch.Tensor:
    """The bodies' two colours in their pattern, lit from the upper left, [N,64,64,3]."""
    palette = torch.tensor(PALETTE)
    main, second = palette[toys.main][:, None, None], palette[toys.second][:, None, None]
    surface = mix(_pattern(toys, u, v, distance), main, second)
    light = u * _LIGHT[0] + v * _LIGHT[1]
    surface = surface * (0.97 + 0.14 * light).clamp(0.8, 1.08).unsqueeze(-1)
    shine = (1 - ((u + 0.4) ** 2 + (v + 0.45) ** 2) / 0.05).clamp(0, 1)
    return surface + (1 - surface) * (0.3 * shine).unsqueeze(-1)


def _pattern(toys: Toys, u: Field, v: Field, distance: Field) -> Field:
    """Share of the second colour in each pixel, [N,64,64]."""
    radius = _pixels(toys)
    stripes = cover((torch.minimum((v + 0.4).abs(), (v - 0.4).abs()) - 0.19) * radius)
    pitch = 0.62
    row = torch.round(v / pitch)
    shifted = u / pitch + 0.5 * row
    dot = torch.hypot((shifted - torch.round(shifted)) * pitch, v - row * pitch) - 0.19
    choices = torch.stack(
        (stripes, cover(dot * radius), cover(-u * radius), cover(-distance - 0.3 * radius))
    )
    return choices[toys.pattern, torch.arange(len(toys))]
