"""The textured families a scene can play in front of, each a function of the pixel and a phase."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from .scene import IMAGE_SIDE


class Backed(Protocol):
    """Scenes in front of backgrounds: `background` [B] an index into FAMILIES, `noise` [B,n]."""

    @property
    def background(self) -> torch.Tensor: ...
    @property
    def noise(self) -> torch.Tensor: ...


def backdrop(scenes: Backed, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The backgrounds [B,64,64,3] of the scenes at pixel centres x and y [1,64,64]."""
    image = torch.zeros(len(scenes.background), IMAGE_SIDE, IMAGE_SIDE, 3)
    for index, draw in enumerate(FAMILIES.values()):
        chosen = (scenes.background == index).nonzero().flatten()
        if len(chosen):
            image[chosen] = draw(x, y, _noise(scenes.noise[chosen]))
    return image


def cover(distance: torch.Tensor) -> torch.Tensor:
    """How much of a pixel lies inside an edge at this signed distance in pixels."""
    return (0.5 - distance).clamp(0, 1)


def ramp(distance: torch.Tensor, width: float) -> torch.Tensor:
    """0 inside, 1 outside, smooth over `width` pixels."""
    t = (distance / width + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


def mix(share: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Blend of two colours by a share [B,64,64] -> [B,64,64,3]."""
    share = share.unsqueeze(-1)
    return low + (high - low) * share


def _noise(noise: torch.Tensor) -> list[torch.Tensor]:
    """The scene's uniform numbers as NOISE_WIDTH tensors [B,1,1]."""
    return list(noise[:, :, None, None].unbind(1))


def _rgb(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor((red, green, blue))


def _tint(image: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    """Brightness varies a little from scene to scene."""
    return image * (0.94 + 0.12 * n[23]).unsqueeze(-1)


def _wave(phase: torch.Tensor) -> torch.Tensor:
    """0..1 once per unit of phase."""
    return 0.5 + 0.5 * torch.sin(2 * math.pi * phase)


def _grass(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    bend = 2.5 * torch.sin(y / 7 + 6.3 * n[0]) + 1.5 * torch.sin(y / 3.7 + 6.3 * n[1])
    blades = _wave((x + bend) / 8 + n[2]) * _wave(y / 13 + n[3] + 0.5 * _wave(x / 17 + n[4]))
    base = mix((y / 64).expand_as(blades), _rgb(0.50, 0.78, 0.26), _rgb(0.30, 0.58, 0.16))
    return _tint(mix(0.75 * blades, base, _rgb(0.20, 0.42, 0.10)), n)


def _brick(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    height, width = 10.0, 20.0
    row = torch.floor(y / height + n[0])
    column = x / width + n[1] + 0.5 * torch.remainder(row, 2)
    across = ((column - torch.floor(column)) - 0.5).abs() * width
    down = ((y / height + n[0] - row) - 0.5).abs() * height
    joint = 1 - cover(torch.maximum(across - width / 2, down - height / 2) + 1.3)
    tone = _wave(row * 0.37 + torch.floor(column) * 0.61 + n[2])
    bricks = mix(tone, _rgb(0.66, 0.30, 0.22), _rgb(0.78, 0.40, 0.28))
    return _tint(mix(joint, bricks, _rgb(0.87, 0.80, 0.72)), n)


def _sky(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    fade = (y / 64).expand(len(n[0]), -1, -1)
    sky = mix(fade, _rgb(0.30, 0.62, 0.96), _rgb(0.68, 0.87, 1.0))
    cloud = torch.zeros_like(fade)
    for k in range(4):
        cx, cy = 64 * torch.remainder(n[k] + 0.5 * k, 1), 64 * (k + n[4 + k]) / 4
        for offset, radius in ((-7.0, 5.0), (0.0, 7.0), (7.5, 5.5)):
            puff = torch.hypot((x - cx - offset) * 0.85, (y - cy) * 1.25) - radius
            cloud = torch.maximum(cloud, 1 - ramp(puff, 3.0))
    return _tint(mix(0.9 * cloud, sky, _rgb(1.0, 1.0, 1.0)), n)


def _sand(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    dune = y + 4 * torch.sin(x / 11 + 6.3 * n[0]) + 2 * torch.sin(x / 5.5 + 6.3 * n[1])
    ripple = _wave(dune / 11 + n[2])
    return _tint(mix(ripple, _rgb(0.96, 0.85, 0.60), _rgb(0.83, 0.68, 0.42)), n)


def _water(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    surge = y + 2.2 * torch.sin(x / 4.5 + 6.3 * n[0] + 3.0 * torch.floor(y / 10 + n[1]))
    crest = ((_wave(surge / 10 + n[1]) - 0.6) / 0.4).clamp(0, 1)
    deep = mix((y / 64).expand_as(crest), _rgb(0.10, 0.62, 0.70), _rgb(0.03, 0.36, 0.52))
    return _tint(mix(0.6 * crest, deep, _rgb(0.62, 0.93, 0.92)), n)


def _night(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    fade = (y / 64).expand(len(n[0]), -1, -1)
    sky = mix(fade, _rgb(0.06, 0.06, 0.24), _rgb(0.20, 0.14, 0.40))
    glow = torch.zeros_like(fade)
    for k in range(11):
        cx = 64 * (k % 4 + n[k]) / 4
        cy = 64 * (k // 4 + n[k + 11]) / 3
        glow = torch.maximum(glow, 1 - ramp(torch.hypot(x - cx, y - cy) - 1.5, 2.2))
    return _tint(mix(glow, sky, _rgb(1.0, 0.96, 0.75)), n)


def _wood(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    plank = torch.floor(x / 16 + n[0])
    gap = cover(7.0 - ((x / 16 + n[0] - plank) * 16 - 8).abs())
    grain_x = x + 1.8 * torch.sin(y / 9 + 6.3 * n[1] + 2.4 * plank)
    grain = _wave(grain_x / 5.5 + 0.35 * plank + n[2])
    tone = _wave(plank * 0.39 + n[3])
    base = mix(tone, _rgb(0.58, 0.37, 0.19), _rgb(0.70, 0.47, 0.25))
    wood = mix(0.45 * grain, base, _rgb(0.42, 0.24, 0.10))
    return _tint(mix(0.8 * gap, wood, _rgb(0.22, 0.12, 0.05)), n)


def _snow(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    hills = torch.zeros(len(n[0]), IMAGE_SIDE, IMAGE_SIDE)
    for k in range(3):
        crest = 64 * (k + 0.6 * n[k]) / 3 + 5 * torch.sin(x / (9 + 3 * k) + 6.3 * n[3 + k])
        depth = (y - crest) / 22
        hills = torch.maximum(hills, torch.where(depth > 0, (1 - depth).clamp(0, 1), hills * 0))
    drift = mix(hills, _rgb(0.74, 0.81, 0.92), _rgb(0.97, 0.98, 1.0))
    return _tint(drift, n)


def _rug(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    """Squares of two reds with a pale line between them."""
    a, b = x / 16 + n[0], y / 16 + n[1]
    odd = torch.remainder(torch.floor(a) + torch.floor(b), 2)
    squares = mix(odd, _rgb(0.93, 0.60, 0.52), _rgb(0.80, 0.38, 0.42))
    near = torch.minimum((a - torch.round(a)).abs(), (b - torch.round(b)).abs()) * 16
    return _tint(mix(cover(near - 0.6), squares, _rgb(0.98, 0.86, 0.74)), n)


def _forest(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    """Two rows of dark firs before a pale green haze."""
    haze = mix((y / 64).expand(len(n[0]), -1, -1), _rgb(0.80, 0.92, 0.80), _rgb(0.50, 0.72, 0.60))
    for row, (foot, tall, wide) in enumerate(((44.0, 34.0, 16.0), (66.0, 40.0, 21.0))):
        place = torch.remainder(x / wide + n[2 * row], 1) - 0.5
        ragged = 2.5 * torch.remainder(y / 9 + n[2 * row + 1], 1)
        fir = place.abs() * wide - ((y - foot + tall) * 0.28 + ragged - 2)
        dark = 0.13 * (1 - row)
        haze = mix(cover(fir), haze, _rgb(0.10 + dark, 0.34 + 1.5 * dark, 0.28 + dark))
    return _tint(haze, n)


def _sunset(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    """Bands of orange and rose over violet hills, with a low sun."""
    fade = (y / 64).expand(len(n[0]), -1, -1)
    sky = mix(fade, _rgb(0.93, 0.42, 0.50), _rgb(1.0, 0.80, 0.42))
    sun = torch.hypot(x - 10 - 44 * n[0], y - 40 - 8 * n[1]) - 11
    sky = mix(cover(sun), sky, _rgb(1.0, 0.96, 0.70))
    hill = 52 + 4 * torch.sin(x / 10 + 6.3 * n[2]) + 2 * torch.sin(x / 4.7 + 6.3 * n[3])
    return _tint(mix(cover(hill - y), sky, _rgb(0.42, 0.22, 0.46)), n)


def _tiles(x: torch.Tensor, y: torch.Tensor, n: list[torch.Tensor]) -> torch.Tensor:
    """Pale tiles with a blue diamond on every second corner."""
    a, b = x / 13 + n[0], y / 13 + n[1]
    near = torch.minimum((a - torch.round(a)).abs(), (b - torch.round(b)).abs()) * 13
    tiles = mix(cover(near - 0.5), _rgb(0.93, 0.93, 0.88), _rgb(0.70, 0.74, 0.76))
    even = torch.remainder(torch.round(a) + torch.round(b), 2)
    corner = ((a - torch.round(a)).abs() + (b - torch.round(b)).abs()) * 13 - 3.4
    return _tint(mix(cover(corner) * even, tiles, _rgb(0.28, 0.45, 0.72)), n)


FAMILIES = {
    "grass": _grass,
    "brick": _brick,
    "sky": _sky,
    "sand": _sand,
    "water": _water,
    "night": _night,
    "wood": _wood,
    "snow": _snow,
    "rug": _rug,  # from here on: drawn in toyland alone, and named by no caption of its model
    "forest": _forest,
    "sunset": _sunset,
    "tiles": _tiles,
}
