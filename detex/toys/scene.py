"""The known factors of a little scene, how they are drawn at random, and how they are captioned.

A scene is a subject (shape, two colours, a surface pattern) in a pose (position, size, rotation)
in front of a textured background. Everything random comes from a generator the caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import product

import torch

IMAGE_SIDE = 64
SHAPES = ("ball", "box", "star", "heart", "cone", "moon")
COLOURS = ("red", "yellow", "green", "blue", "purple", "pink", "white", "black")
PATTERNS = ("striped", "dotted", "split", "framed")
BACKGROUNDS = ("grass", "brick", "sky", "sand", "water", "night", "wood", "snow")
POSITIONS = ("left", "right", "top", "bottom", "centre")
SIZES = ("small", "big")

PALETTE = (
    (0.88, 0.15, 0.15),
    (0.99, 0.83, 0.13),
    (0.14, 0.68, 0.27),
    (0.15, 0.37, 0.92),
    (0.56, 0.18, 0.76),
    (1.00, 0.56, 0.76),
    (0.98, 0.98, 0.98),
    (0.09, 0.09, 0.11),
)

Identity = tuple[str, str, str, str]  # shape, main colour, second colour, pattern

# The subjects to learn. Pre-training draws none of them, nor `FURTHER` more of the same colours.
SUBJECTS: tuple[Identity, ...] = (
    ("ball", "red", "blue", "striped"),
    ("star", "yellow", "purple", "framed"),
    ("heart", "green", "pink", "dotted"),
    ("box", "blue", "pink", "split"),
    ("cone", "yellow", "black", "striped"),
    ("moon", "white", "green", "dotted"),
    ("box", "purple", "yellow", "dotted"),
    ("star", "blue", "red", "split"),
    ("ball", "pink", "green", "framed"),
    ("heart", "black", "yellow", "split"),
    ("cone", "green", "white", "framed"),
    ("ball", "pink", "blue", "dotted"),
)
FURTHER = 24
_SUBJECT_COLOURS = (
    ("red", "blue"),
    ("yellow", "purple"),
    ("green", "pink"),
    ("white", "green"),
    ("black", "yellow"),
    ("blue", "pink"),
)
_FURTHER_SEED = 7

NOISE_WIDTH = 24
BIG_RADIUS_FROM = 14.5
TILTED_FROM = 0.25
_SMALL_RADIUS = (11.0, 13.5)
_BIG_RADIUS = (15.5, 18.0)
_OFFSETS = ((-13.0, 0.0), (13.0, 0.0), (0.0, -13.0), (0.0, 13.0), (0.0, 0.0))
_JITTER = 2.0
_EMPTY_SHARE = 0.1


@dataclass(frozen=True)
class Scenes:
    """The factors of B scenes, one row each.

    Indices ([B] int64) point into the word tuples above; `centre` [B,2] (x, y) and `radius` [B]
    are in pixels, `angle` [B] in radians, `noise` [B,NOISE_WIDTH] in 0..1 seeds the background.
    """

    shape: torch.Tensor
    main: torch.Tensor
    second: torch.Tensor
    pattern: torch.Tensor
    background: torch.Tensor
    position: torch.Tensor
    centre: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor
    noise: torch.Tensor

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> torch.Tensor:
        """Index into SIZES, [B]."""
        return (self.radius >= BIG_RADIUS_FROM).long()

    @property
    def tilted(self) -> torch.Tensor:
        """Whether the subject leans visibly, [B] bool."""
        return self.angle.abs() >= TILTED_FROM

    def rows(self, index: torch.Tensor | slice | list[int]) -> Scenes:
        """The chosen scenes, in the given order."""
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def with_factors(self, **factors: torch.Tensor) -> Scenes:
        """The same scenes with some factors replaced."""
        return replace(self, **factors)


@lru_cache
def held_out_identities() -> tuple[Identity, ...]:
    """SUBJECTS and `FURTHER` others of their colours, in a fixed order."""
    pairs = [pair for colours in _SUBJECT_COLOURS for pair in (colours, colours[::-1])]
    every = [(s, *pair, p) for s, pair, p in product(SHAPES, pairs, PATTERNS)]
    fresh = [identity for identity in every if identity not in SUBJECTS]
    order = torch.randperm(len(fresh), generator=torch.Generator().manual_seed(_FURTHER_SEED))
    return SUBJECTS + tuple(fresh[i] for i in order[:FURTHER].tolist())


@lru_cache
def trained_identities() -> torch.Tensor:
    """[N,4]: shape, main colour, second colour and pattern of all that pre-training draws.

    What is held out is not drawn with its colours swapped either: a split star is nearly the same.
    """
    every = product(SHAPES, COLOURS, COLOURS, PATTERNS)
    held = {each for s, m, t, p in held_out_identities() for each in ((s, m, t, p), (s, t, m, p))}
    drawn = [identity for identity in every if identity[1] != identity[2] and identity not in held]
    return torch.tensor([[*indices(identity).values()] for identity in drawn])


def indices(identity: Identity) -> dict[str, int]:
    """An identity's words as indices, by factor."""
    tables = {"shape": SHAPES, "main": COLOURS, "second": COLOURS, "pattern": PATTERNS}
    return {n: t.index(w) for (n, t), w in zip(tables.items(), identity, strict=True)}


def sample_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Draws `count` pre-training scenes."""
    identities = trained_identities()
    identity = identities[_integers(len(identities), count, generator)]
    position = _integers(len(POSITIONS), count, generator)
    radius = _sample_radius(count, generator)
    return Scenes(
        shape=identity[:, 0],
        main=identity[:, 1],
        second=identity[:, 2],
        pattern=identity[:, 3],
        background=_integers(len(BACKGROUNDS), count, generator),
        position=position,
        centre=place(position, radius, generator),
        radius=radius,
        angle=_sample_angle(count, generator),
        noise=torch.rand(count, NOISE_WIDTH, generator=generator),
    )


def place(position: torch.Tensor, radius: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Jittered centres [B,2] for position indices [B], kept inside the picture."""
    jitter = (torch.rand(len(position), 2, generator=generator) * 2 - 1) * _JITTER
    centre = IMAGE_SIDE / 2 + torch.tensor(_OFFSETS)[position] + jitter
    margin = (radius + 0.5).unsqueeze(1)
    return torch.minimum(torch.maximum(centre, margin), IMAGE_SIDE - margin)


def write_captions(scenes: Scenes, generator: torch.Generator) -> list[str]:
    """One caption per scene in DETEX's grammar, each part dropped at random, some empty."""
    draws = torch.rand(len(scenes), 9, generator=generator).tolist()
    return [_caption(words, draw) for words, draw in zip(words_of(scenes), draws, strict=True)]


def words_of(scenes: Scenes) -> list[dict[str, str]]:
    """The caption words of every scene, by factor name."""
    tables = {
        "shape": SHAPES,
        "main": COLOURS,
        "second": COLOURS,
        "pattern": PATTERNS,
        "background": BACKGROUNDS,
        "position": POSITIONS,
        "size": SIZES,
    }
    columns = {name: getattr(scenes, name).tolist() for name in tables}
    rows = [{n: tables[n][columns[n][i]] for n in tables} for i in range(len(scenes))]
    for row, tilted in zip(rows, scenes.tilted.tolist(), strict=True):
        row["tilt"] = "tilted" if tilted else ""
    return rows


def _caption(words: dict[str, str], draw: list[float]) -> str:
    if draw[0] < _EMPTY_SHARE:
        return ""
    named_second = draw[5] < 0.7
    colours = f"{words['main']} and {words['second']}" if named_second else words["main"]
    noun = [
        words["size"] if draw[2] < 0.3 else "",
        words["tilt"] if draw[3] < 0.3 else "",
        colours if draw[4] < 0.8 else "",
        words["pattern"] if draw[6] < 0.7 else "",
        words["shape"] if draw[1] < 0.92 else "thing",
    ]
    text = " ".join(word for word in noun if word)
    if draw[7] < 0.85:
        text += f" with {words['position']} view"
    if draw[8] < 0.88:
        text += f" in {words['background']} background"
    return ("photo of a " if draw[0] < 0.7 else "a ") + text


def _integers(high: int, count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(high, (count,), generator=generator)


def _sample_radius(count: int, generator: torch.Generator) -> torch.Tensor:
    span = torch.tensor((_SMALL_RADIUS, _BIG_RADIUS))[_integers(2, count, generator)]
    return span[:, 0] + (span[:, 1] - span[:, 0]) * torch.rand(count, generator=generator)


def _sample_angle(count: int, generator: torch.Generator) -> torch.Tensor:
    draw = torch.rand(count, 3, generator=generator)
    upright = (draw[:, 1] * 2 - 1) * 0.12
    leaning = (0.35 + 0.35 * draw[:, 1]) * torch.where(draw[:, 2] < 0.5, -1.0, 1.0)
    return torch.where(draw[:, 0] < 0.7, upright, leaning)
