"""Subjects to learn: identities that pre-training never drew, with a few photos of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .backdrops import backdrop
from .render import render
from .scene import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIDE,
    NOISE_WIDTH,
    POSITIONS,
    SUBJECTS,
    Identity,
    Scenes,
    indices,
    place,
    sample_scenes,
)

# Which of them serve which purpose; no subject serves two.
DEMO_SUBJECTS = (0, 1, 2, 3)
RATE_SUBJECTS = (4, 11)
GATE_SUBJECTS = (5, 6, 7, 8, 9, 10)
# How often a set's toys have which main colour and size, as nearly as their number allows.
SET_COLOURS = {"red": 0.375, "yellow": 0.25, "green": 0.25, "purple": 0.125}
SET_RADII = {12.5: 0.75, 16.5: 0.25}  # pixels: small and big
SET_COMMON = ("star", "white", "striped")  # shape, second colour, surface
# In no picture of a place: prompts that ask for these tell what naming places is worth elsewhere.
WITHHELD = ("water", "night")


@dataclass(frozen=True)
class DemoSubject:
    """Photos of one subject: images [N,64,64,3], masks [N,64,64] and the factors behind them."""

    images: torch.Tensor
    masks: torch.Tensor
    class_word: str
    scenes: Scenes


def demo_subject(number: int, count: int, seed: int, shared: float = 0.5) -> DemoSubject:
    """`count` photos of subject `number`, a share of them on one and the same home background.

    Raises ValueError for a subject that does not exist or a senseless count or share.
    """
    check_request(number, count, shared)
    generator = torch.Generator().manual_seed(seed * len(SUBJECTS) + number)
    scenes = _photo_scenes(SUBJECTS[number], count, generator, shared)
    images, masks = render(scenes)
    return DemoSubject(images, masks, SUBJECTS[number][0], scenes)


def demo_set(count: int, seed: int) -> DemoSubject:
    """`count` different toys of `SET_COMMON` whose main colours and sizes follow `SET_COLOURS` and
    `SET_RADII`; places and backgrounds vary evenly.
    """
    generator = torch.Generator().manual_seed(seed)
    shape, second, pattern = SET_COMMON
    scenes = _photo_scenes((shape, "red", second, pattern), count, generator, 0.0)
    colours = [COLOURS.index(colour) for colour in SET_COLOURS]
    main = torch.tensor(colours)[by_law(SET_COLOURS.values(), count, generator)]
    radius = torch.tensor([*SET_RADII])[by_law(SET_RADII.values(), count, generator)]
    scenes = scenes.with_factors(
        main=main,
        radius=radius,
        centre=place(scenes.position, radius, generator),
        background=shuffled(len(BACKGROUNDS), count, generator),
    )
    return DemoSubject(*render(scenes), shape, scenes)


def by_law(shares: Iterable[float], count: int, generator: torch.Generator) -> torch.Tensor:
    """Indices [N] as often as the shares say, in random order."""
    ends = torch.tensor([*shares]).cumsum(0)
    middles = (torch.arange(count) + 0.5) / count
    return torch.searchsorted(ends, middles)[torch.randperm(count, generator=generator)]


def demo_places(each: int = 4, seed: int = 900) -> tuple[torch.Tensor, tuple[str, ...]]:
    """`each` pictures [M,64,64,3] of every background without a toy, but for two; their names."""
    names = tuple(name for name in BACKGROUNDS if name not in WITHHELD for _ in range(each))
    scenes = sample_scenes(len(names), torch.Generator().manual_seed(seed))
    scenes = scenes.with_factors(background=torch.tensor([BACKGROUNDS.index(n) for n in names]))
    line = torch.arange(IMAGE_SIDE) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return backdrop(scenes, x[None], y[None]), names


def check_request(number: int, count: int, shared: float) -> None:
    """Raise ValueError for a subject that does not exist or a senseless count or share."""
    if not 0 <= number < len(SUBJECTS):
        raise ValueError(f"There is no subject {number}: choose 0 to {len(SUBJECTS) - 1}.")
    if count < 1:
        raise ValueError(f"A subject needs at least 1 photo, not {count}.")
    if not 0 <= shared <= 1:
        raise ValueError(f"The shared share must lie in 0..1, not {shared}.")


def _photo_scenes(
    identity: Identity, count: int, generator: torch.Generator, shared: float
) -> Scenes:
    position = shuffled(len(POSITIONS), count, generator)
    radius = 12.5 + 5.0 * torch.rand(count, generator=generator)
    return Scenes(
        **{name: torch.full((count,), index) for name, index in indices(identity).items()},
        background=home_and_away(len(BACKGROUNDS), count, generator, round(count * shared)),
        position=position,
        centre=place(position, radius, generator),
        radius=radius,
        angle=(torch.rand(count, generator=generator) * 2 - 1) * 0.5,
        noise=torch.rand(count, NOISE_WIDTH, generator=generator),
    )


def home_and_away(
    kinds: int, count: int, generator: torch.Generator, home: int, others: int = 0
) -> torch.Tensor:
    """One kind for the first `home` photos, so many others (all) in turn for the rest, [N]."""
    order = torch.randperm(kinds, generator=generator)
    away = torch.arange(count - home) % (others or kinds - 1) + 1
    return order[torch.cat((torch.zeros(home, dtype=torch.long), away))]


def shuffled(kinds: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Every kind once before any comes again, in random order, [N]."""
    rounds = -(-count // kinds)
    drawn = [torch.randperm(kinds, generator=generator) for _ in range(rounds)]
    return torch.cat(drawn)[:count]
