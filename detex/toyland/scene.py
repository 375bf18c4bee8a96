"""The known factors of a picture of toys, and how they are drawn at random.

A picture shows one toy or two in front of a textured background. What a caption may name of a toy
is the old world's: shape, two colours, surface, size, tilt and place, and where it looks. Its face,
its hat and its feet have no words. Everything random comes from a generator the caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from ..toys.backdrops import FAMILIES
from ..toys.scene import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIDE,
    NOISE_WIDTH,
    PATTERNS,
    POSITIONS,
    SHAPES,
    SIZES,
    TILTED_FROM,
    trained_identities,
)
from .reach import reach

EYES = ("round", "sleepy", "wide")
MOUTHS = ("smile", "flat", "open")
LOOKS = ("left", "ahead", "right")
HATS = ("none", "party cone", "top hat", "bow", "antennae")
FEET = ("none", "feet", "wheels")
UNNAMED = {
    "eyes": len(EYES),
    "mouth": len(MOUTHS),
    "hat": len(HATS),
    "hat_colour": len(COLOURS),
    "feet": len(FEET),
    "feet_colour": len(COLOURS),
}
BIG_RADIUS_FROM = 13.5
MARGIN = 1.0  # pixels between a toy and the picture's edge

_PAIR_SHARE = 0.35
_SMALL_RADIUS = (10.5, 12.5)
_BIG_RADIUS = (14.5, 17.0)
_PAIR_RADIUS = (10.0, 13.0)
_GAP = 2.0  # pixels between two toys, at least
_OFFSETS = ((-14.0, 0.0), (14.0, 0.0), (0.0, -14.0), (0.0, 14.0), (0.0, 0.0))
_JITTER = 1.5

Rows = torch.Tensor | slice | list[int]


@dataclass(frozen=True)
class Toys:
    """The factors of N toys, one row each; in a scene the rows are [B,2].

    Indices (int64) point into the word tuples; `centre` [N,2] (x, y) and `radius` are the body's,
    in pixels, `angle` in radians.
    """

    shape: torch.Tensor
    main: torch.Tensor
    second: torch.Tensor
    pattern: torch.Tensor
    eyes: torch.Tensor
    mouth: torch.Tensor
    hat: torch.Tensor
    hat_colour: torch.Tensor
    feet: torch.Tensor
    feet_colour: torch.Tensor
    look: torch.Tensor
    position: torch.Tensor
    centre: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> torch.Tensor:
        """Index into SIZES."""
        return (self.radius >= BIG_RADIUS_FROM).long()

    @property
    def tilted(self) -> torch.Tensor:
        """Whether the toy leans visibly, bool."""
        return self.angle.abs() >= TILTED_FROM

    def rows(self, index: Rows | tuple) -> Toys:
        """The chosen toys, in the given order."""
        return Toys(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def with_factors(self, **factors: torch.Tensor) -> Toys:
        """The same toys with some factors replaced."""
        return replace(self, **factors)


@dataclass(frozen=True)
class Scenes:
    """B pictures: their toys [B,2], of which a picture of one toy shows the first alone.

    `pair` [B] bool, `background` [B] an index into FAMILIES, `noise` [B,NOISE_WIDTH] in 0..1.
    The first of two toys is the left or the upper one.
    """

    toys: Toys
    pair: torch.Tensor
    background: torch.Tensor
    noise: torch.Tensor

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def present(self) -> torch.Tensor:
        """Which toys are in the picture, [B,2] bool."""
        return torch.stack((torch.ones_like(self.pair), self.pair), 1)

    def rows(self, index: Rows) -> Scenes:
        """The chosen scenes, in the given order."""
        factors = (self.pair[index], self.background[index], self.noise[index])
        return Scenes(self.toys.rows(index), *factors)


def sample_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Draws `count` pre-training scenes: no held-out identity, no background without a name."""
    table = trained_identities()
    identities = table[_integers(len(table), (count, 2), generator)]
    return _scenes(identities, generator)


def any_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Scenes with every pair of different colours and every background, held out or not."""
    main = _integers(len(COLOURS), (count, 2), generator)
    shift = 1 + _integers(len(COLOURS) - 1, (count, 2), generator)
    shape = _integers(len(SHAPES), (count, 2), generator)
    pattern = _integers(len(PATTERNS), (count, 2), generator)
    identities = torch.stack((shape, main, (main + shift) % len(COLOURS), pattern), -1)
    return _scenes(identities, generator, backgrounds=len(FAMILIES))


def _scenes(
    identities: torch.Tensor, generator: torch.Generator, backgrounds: int = len(BACKGROUNDS)
) -> Scenes:
    count = len(identities)
    pair = torch.rand(count, generator=generator) < _PAIR_SHARE
    upright = torch.rand(count, generator=generator) < 0.5
    alone = _integers(len(POSITIONS), (count,), generator)
    first = torch.where(upright, POSITIONS.index("top"), POSITIONS.index("left"))
    position = torch.stack((torch.where(pair, first, alone), first + 1), 1)
    return arranged(
        identities,
        {name: _integers(kinds, (count, 2), generator) for name, kinds in UNNAMED.items()},
        _integers(len(LOOKS), (count, 2), generator),
        position,
        pair,
        _integers(backgrounds, (count,), generator),
        generator,
    )


def arranged(
    identities: torch.Tensor,
    unnamed: dict[str, torch.Tensor],
    look: torch.Tensor,
    position: torch.Tensor,
    pair: torch.Tensor,
    background: torch.Tensor,
    generator: torch.Generator,
    radius: torch.Tensor | None = None,
) -> Scenes:
    """Scenes of these toys, sized, tilted and placed at random so that none is cut or covered.

    identities [B,2,4] (shape, main, second, pattern); the other factors [B,2], the radius by chance
    where none is given; pair, background [B].
    """
    count = len(pair)
    toys = Toys(
        *identities.unbind(-1),
        **unnamed,
        look=look,
        position=position,
        centre=torch.zeros(count, 2, 2),
        radius=_sample_radius(pair, generator) if radius is None else radius,
        angle=_sample_angle((count, 2), generator),
    )
    toys = _placed(toys, pair, generator)
    noise = torch.rand(count, NOISE_WIDTH, generator=generator)
    return Scenes(toys, pair, background, noise)


def _placed(toys: Toys, pair: torch.Tensor, generator: torch.Generator) -> Toys:
    """The same toys where their positions say, whole and apart; two large ones shrink to fit."""
    shape = toys.radius.shape
    box = reach(toys.shape, toys.hat, toys.feet, toys.angle).view(
        *shape, 2, 2
    )  # [B,2,(least, most),(x, y)] in radii
    axis = (toys.position[:, 0] >= POSITIONS.index("top")).long()  # of a pair: 0 beside, 1 above
    along = axis.view(-1, 1, 1, 1).expand(*shape, 2, 1)
    ends = box.gather(-1, along).squeeze(-1)  # [B,2,(least, most)]
    room = IMAGE_SIDE - 2 * MARGIN
    wanted = ((ends[..., 1] - ends[..., 0]) * toys.radius).sum(1)
    shrink = torch.where(pair, ((room - _GAP) / wanted).clamp_max(1), torch.ones(len(pair)))
    radius = toys.radius * shrink[:, None]
    low, high = (box * radius[..., None, None]).unbind(-2)  # [B,2,(x, y)] from the body's centre
    jitter = (torch.rand(*shape, 2, generator=generator) * 2 - 1) * _JITTER
    middle = IMAGE_SIDE / 2 + torch.tensor(_OFFSETS)[toys.position] + jitter
    middle = torch.where(pair[:, None, None], _beside(high - low, axis, generator), middle)
    centre = middle - (low + high) / 2
    centre = torch.minimum(torch.maximum(centre, MARGIN - low), IMAGE_SIDE - MARGIN - high)
    return toys.with_factors(radius=radius, centre=centre)


def _beside(extent: torch.Tensor, axis: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Middles [B,2,(x, y)] of two boxes one after the other along `axis`, at random in the room."""
    count = len(axis)
    length = extent.gather(-1, axis.view(-1, 1, 1).expand(count, 2, 1)).squeeze(-1)  # [B,2]
    free = (IMAGE_SIDE - 2 * MARGIN - _GAP - length.sum(1)).clamp_min(0)
    draw = torch.rand(count, 3, generator=generator) + 0.3
    before, between, _ = (draw / draw.sum(1, keepdim=True) * free[:, None]).unbind(1)
    first = MARGIN + before + length[:, 0] / 2
    second = MARGIN + before + length[:, 0] + _GAP + between + length[:, 1] / 2
    across = IMAGE_SIDE / 2 + (torch.rand(count, 2, generator=generator) * 2 - 1) * 7
    line = torch.stack((first, second), 1)
    flat, tall = torch.stack((line, across), -1), torch.stack((across, line), -1)
    return torch.where(axis.view(-1, 1, 1) == 0, flat, tall)


def _integers(high: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(high, shape, generator=generator)


def _sample_radius(pair: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    shape = (len(pair), 2)
    span = torch.tensor((_SMALL_RADIUS, _BIG_RADIUS))[_integers(len(SIZES), shape, generator)]
    span = torch.where(pair[:, None, None], torch.tensor(_PAIR_RADIUS), span)
    return span[..., 0] + (span[..., 1] - span[..., 0]) * torch.rand(shape, generator=generator)


def _sample_angle(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    draw = torch.rand(*shape, 3, generator=generator)
    upright = (draw[..., 1] * 2 - 1) * 0.12
    leaning = (0.3 + 0.25 * draw[..., 1]) * torch.where(draw[..., 2] < 0.5, -1.0, 1.0)
    return torch.where(draw[..., 0] < 0.7, upright, leaning)
