"""The parts that no caption names: faces, hats and feet, painted from the back to the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..toys.backdrops import cover, mix, ramp
from .bodies import Field, box, stroke, triangle

INK = (0.13, 0.10, 0.15)
WHITE = (1.0, 1.0, 1.0)
_LIGHT_INK = (0.95, 0.9, 0.85)
_LIP = (0.90, 0.32, 0.36)
_LINE = 1.1  # pixels of outline


@dataclass
class Paint:
    """Colour times cover [N,h,w,3] and cover [N,h,w], one stroke over the other."""

    colour: torch.Tensor
    cover: Field

    def over(self, distance: Field, colour: torch.Tensor | Sequence[float]) -> None:
        """Fills where `distance` (pixels) is negative; colour [N,3], [N,h,w,3] or one for all."""
        share = cover(distance)
        tint = torch.as_tensor(colour)
        tint = tint[:, None, None] if tint.dim() == 2 else tint
        self.colour = self.colour + (tint - self.colour) * share.unsqueeze(-1)
        self.cover = self.cover + (1 - self.cover) * share

    def outlined(self, distance: Field, colour: torch.Tensor) -> None:
        """The same with a dark line along the edge, inside it; colour [N,3]."""
        self.over(distance, edge(colour))
        self.over(distance + _LINE, colour)


def edge(colour: torch.Tensor) -> torch.Tensor:
    """The outline's colour [N,3] for a surface of this colour: darker, or grey for black."""
    black = (colour.amax(-1, keepdim=True) < 0.2).float()
    return colour * 0.32 * (1 - black) + 0.45 * black


def _tinted(colour: torch.Tensor, share: float) -> torch.Tensor:
    """Lighter than the colour, or darker where it is light, so that it shows on it."""
    light = (colour.mean(-1, keepdim=True) > 0.6).float()
    return colour + (1 - 2 * light - colour * (1 - light) + light * 0.35) * share


# ---- hats: u, v from the seat, up is negative; pixels: how many a unit has -----------------------


def party_cone(u: Field, v: Field) -> Field:
    return torch.minimum(triangle(u, v, 0.38, 0.72, 0.06), torch.hypot(u, v + 0.8) - 0.17)


def top_hat(u: Field, v: Field) -> Field:
    return torch.minimum(box(u, v, 0.6, 0.11, 0.1), box(u, v + 0.36, 0.38, 0.4, 0.06))


def bow(u: Field, v: Field) -> Field:
    wing = box(u.abs() - 0.34, v + 0.12, 0.28, 0.26, 0.12)
    pinch = 0.5 * (v + 0.12).abs() + 0.06 - 0.6 * u.abs()
    return torch.minimum(torch.maximum(wing, pinch), torch.hypot(u, v + 0.12) - 0.17)


def antennae(u: Field, v: Field) -> Field:
    return torch.minimum(_stalks(u, v) - 0.055, _balls(u, v))


def _stalks(u: Field, v: Field) -> Field:
    return stroke(u.abs(), v, (0.14, 0.1), (0.34, -0.48))


def _balls(u: Field, v: Field) -> Field:
    return torch.hypot(u.abs() - 0.36, v + 0.54) - 0.19


def paint_party_cone(paint: Paint, u: Field, v: Field, pixels: Field, colour: torch.Tensor) -> None:
    cone = triangle(u, v, 0.38, 0.72, 0.06) * pixels
    paint.outlined(cone, colour)
    band = ((v + 0.26 + 0.3 * u).abs() - 0.09) * pixels
    paint.over(torch.maximum(cone + _LINE, band), _tinted(colour, 0.75))
    paint.over((torch.hypot(u, v + 0.8) - 0.17) * pixels, edge(colour))
    paint.over((torch.hypot(u, v + 0.8) - 0.17) * pixels + 0.8, WHITE)


def paint_top_hat(paint: Paint, u: Field, v: Field, pixels: Field, colour: torch.Tensor) -> None:
    crown = box(u, v + 0.36, 0.38, 0.4, 0.06) * pixels
    paint.outlined(crown, colour)
    band = ((v + 0.2).abs() - 0.08) * pixels
    paint.over(torch.maximum(crown + _LINE, band), _tinted(colour, 0.75))
    paint.outlined(box(u, v, 0.6, 0.11, 0.1) * pixels, colour)


def paint_bow(paint: Paint, u: Field, v: Field, pixels: Field, colour: torch.Tensor) -> None:
    paint.outlined(bow(u, v) * pixels, colour)
    paint.over((torch.hypot(u, v + 0.12) - 0.17) * pixels, edge(colour))
    paint.over((torch.hypot(u, v + 0.12) - 0.17) * pixels + 0.8, _tinted(colour, 0.45))


def paint_antennae(paint: Paint, u: Field, v: Field, pixels: Field, colour: torch.Tensor) -> None:
    paint.over((_stalks(u, v) - 0.055) * pixels, edge(colour))
    paint.outlined(_balls(u, v) * pixels, colour)


# ---- feet: u, v from the seat, `half` the distance of each from the middle -----------------------


def two_feet(u: Field, v: Field, half: Field) -> Field:
    a = (u.abs() - half) / 0.3
    b = (v - 0.02) / 0.2
    return (torch.hypot(a, b) - 1) * 0.22


def wheels(u: Field, v: Field, half: Field) -> Field:
    return torch.hypot(u.abs() - half, v) - 0.27


def paint_feet(
    paint: Paint, u: Field, v: Field, half: Field, pixels: Field, colour: torch.Tensor
) -> None:
    paint.outlined(two_feet(u, v, half) * pixels, colour)


def paint_wheels(
    paint: Paint, u: Field, v: Field, half: Field, pixels: Field, colour: torch.Tensor
) -> None:
    rim = wheels(u, v, half) * pixels
    paint.over(rim, edge(colour))
    paint.over(rim + _LINE, colour)
    paint.over(rim + 0.17 * pixels, WHITE)


# ---- faces: u, v from the seat, in the face's own size -------------------------------------------

_EYE_AT = (0.33, -0.14)
_EYE_RADII = (0.235, 0.29, 0.32)  # by EYES
_PUPIL_RADII = (0.15, 0.155, 0.12)
_GLANCE = 0.11


def paint_eyes(
    paint: Paint,
    u: Field,
    v: Field,
    pixels: Field,
    eyes: torch.Tensor,
    look: torch.Tensor,
    skin: torch.Tensor,
) -> None:
    """White eyes with dark pupils that look left (0), ahead (1) or right (2), some under lids.

    eyes, look [N]; skin [N,3] is the colour of the sleepy eyes' lids.
    """
    column = (-1, 1, 1)
    radius = torch.tensor(_EYE_RADII)[eyes].view(column)
    pupil = torch.tensor(_PUPIL_RADII)[eyes].view(column)
    sleepy = (eyes == 1).view(column)
    a, b = u.abs() - _EYE_AT[0], v - _EYE_AT[1]
    ball = (torch.hypot(a, b) - radius) * pixels
    paint.over(ball - 0.7, INK)
    paint.over(ball, WHITE)
    drop = torch.where(sleepy, 0.1, 0.02)
    side = torch.where(u < 0, -1.0, 1.0) * a - _GLANCE * (look - 1).view(column)
    paint.over(torch.maximum((torch.hypot(side, b - drop) - pupil) * pixels, ball), INK)
    glint = torch.hypot(side + 0.05, b - drop + 0.06) - 0.05
    paint.over(torch.where(sleepy, 1e3, 0.0) + glint * pixels, WHITE)
    shut = torch.where(sleepy, 0.0, 1e3)
    droop = b - 0.35 * a + 0.03  # the lids hang lower at the sides: level ones look angry
    paint.over(torch.maximum(ball, droop * pixels) + shut, skin * 0.85 + 0.1)
    paint.over(torch.maximum(ball, droop.abs() * pixels - 0.65) + shut, INK)


def paint_mouth(paint: Paint, u: Field, v: Field, pixels: Field, mouth: torch.Tensor) -> None:
    """A smile (0), a flat mouth (1) or an open one (2), mouth [N]; dark, but light on black."""
    v = v - 0.36
    arc = (torch.hypot(u, v + 0.24) - 0.3).abs()
    ends = torch.hypot(u.abs() - 0.26, v + 0.09)
    smile = torch.where(v > -0.09, arc, ends)
    flat = stroke(u, v, (-0.2, 0.02), (0.2, 0.02))
    hole = (torch.hypot(u / 0.17, (v - 0.03) / 0.19) - 1) * 0.17
    line = 0.035 * pixels + 0.45
    choices = torch.stack((smile * pixels - line, flat * pixels - line, hole * pixels - 0.4))
    distance = choices[mouth, torch.arange(len(mouth))]
    light = ramp(paint.colour.mean(-1) - 0.25, 0.1)
    paint.over(distance, mix(light, torch.tensor(_LIGHT_INK), torch.tensor(INK)))
    tongue = torch.maximum(hole * pixels + 0.6, (0.06 - v) * pixels)
    paint.over(torch.where((mouth == 2).view(-1, 1, 1), 0.0, 1e3) + tongue, _LIP)
