"""What a trainer asks of the old world; `detex.toyland.world` answers the same for the next."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .render import colour_shares, render
from .scene import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIDE,
    NOISE_WIDTH,
    PATTERNS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scenes,
    indices,
    sample_scenes,
    words_of,
    write_captions,
)
from .subjects import SUBJECTS, demo_subject

__all__ = ["colour_shares", "render", "sample_scenes", "write_captions"]

NAME = "toys"
WORDS = (*COLOURS, *SHAPES, *PATTERNS, *BACKGROUNDS, *POSITIONS, *SIZES)
CELL_KINDS = (len(COLOURS), len(PATTERNS))
HEADS = {
    "shape": len(SHAPES),
    "main": len(COLOURS),
    "second": len(COLOURS),
    "pattern": len(PATTERNS),
    "background": len(BACKGROUNDS),
    "position": len(POSITIONS),
    "size": len(SIZES),
}
GOALS = {"background": 0.90, "shape": 0.80, "position": 0.80, "main": 0.80}
CLEAR: tuple[str, ...] = ()
KNOWN = (2 * len(COLOURS) + len(PATTERNS), len(POSITIONS) + 4, len(BACKGROUNDS) + NOISE_WIDTH)


def any_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Scenes with every pair of different colours, held-out identities included."""
    scenes = sample_scenes(count, generator)
    shift = torch.randint(1, len(COLOURS), (count,), generator=generator)
    return scenes.with_factors(second=(scenes.main + shift) % len(COLOURS))


def cell_kinds(scenes: Scenes) -> tuple[torch.Tensor, ...]:
    """Colour and pattern of what each of the two shares belongs to, [B,2] each."""
    return torch.stack((scenes.main, scenes.second), 1), scenes.pattern[:, None].expand(-1, 2)


def factors(scenes: Scenes) -> dict[str, torch.Tensor]:
    """The right answer [B] of each of HEADS."""
    return {name: getattr(scenes, name) for name in HEADS}


def told_toy(scenes: Scenes) -> torch.Tensor:
    """Which toy the new words may speak of, [B]: the only one."""
    return torch.zeros(len(scenes), dtype=torch.long)


def known(scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factors of B scenes as numbers of about unit size: subject, pose, background, [B,n]."""
    subject = torch.cat(
        (
            F.one_hot(scenes.main, len(COLOURS)),
            F.one_hot(scenes.second, len(COLOURS)),
            F.one_hot(scenes.pattern, len(PATTERNS)),
        ),
        1,
    )
    exact = torch.cat(
        (
            (scenes.centre - IMAGE_SIDE / 2) / 13,
            (scenes.radius[:, None] - 14.5) / 2.5,
            scenes.angle[:, None] / 0.4,
        ),
        1,
    )
    pose = torch.cat((F.one_hot(scenes.position, len(POSITIONS)), exact), 1)
    background = torch.cat((F.one_hot(scenes.background, len(BACKGROUNDS)), scenes.noise - 0.5), 1)
    return subject.float(), pose.float(), background.float()


def gate_captions(scenes: Scenes) -> list[str]:
    """A caption per scene that names every factor of the gate; half name the surface too."""
    captions = []
    for number, words in enumerate(words_of(scenes)):
        noun = f"{words['main']} {words['shape']}"
        if number % 2:
            noun = f"{words['main']} and {words['second']} {words['pattern']} {words['shape']}"
        place = f"with {words['position']} view in {words['background']} background"
        captions.append(f"photo of a {noun} {place}")
    return captions


def gate_shares(seen: dict[str, torch.Tensor], scenes: Scenes) -> dict[str, float]:
    """What the captions named, as far as the judge saw it: shares of pictures, GOALS first."""
    right = {name: (seen[name] == getattr(scenes, name)).float() for name in HEADS}
    shares = {name: float(right[name].mean()) for name in GOALS}
    for name in ("second", "pattern"):
        shares[f"{name}, where named"] = float(right[name][1::2].mean())
    return shares


def subject_photos(
    number: int, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photos of a subject: images [N,64,64,3], masks [N,64,64], indices of backgrounds [N]."""
    demo = demo_subject(number, count, seed)
    return demo.images, demo.masks, demo.scenes.background


def subject_answers(number: int) -> tuple[dict[str, int], dict[str, int]]:
    """What the judge should say of a subject: of what has a word, and of what has none."""
    return indices(SUBJECTS[number]), {}
