"""Captions of toyland in DETEX's grammar: they name shapes, colours, surfaces and poses.

Of faces, hats and feet, and of the last four backgrounds, they never say a word.
"""

from __future__ import annotations

import torch

from ..toys.backdrops import FAMILIES
from ..toys.scene import BACKGROUNDS, COLOURS, PATTERNS, POSITIONS, SHAPES, SIZES
from .scene import LOOKS, Scenes

_TABLES = {
    "shape": SHAPES,
    "main": COLOURS,
    "second": COLOURS,
    "pattern": PATTERNS,
    "size": SIZES,
    "look": LOOKS,
    "position": POSITIONS,
}
_EMPTY_SHARE = 0.1

Words = dict[str, str]


def words_of(scenes: Scenes) -> list[tuple[list[Words], str]]:
    """The words for the toys of every scene, by factor name, and for its background."""
    columns = {name: getattr(scenes.toys, name).tolist() for name in _TABLES}
    tilted, places = scenes.toys.tilted.tolist(), tuple(FAMILIES)
    rows = []
    for i, (pair, background) in enumerate(
        zip(scenes.pair.tolist(), scenes.background.tolist(), strict=True)
    ):
        toys = [
            {name: table[columns[name][i][toy]] for name, table in _TABLES.items()}
            | {"tilt": "tilted" if tilted[i][toy] else ""}
            for toy in range(2 if pair else 1)
        ]
        rows.append((toys, places[background]))
    return rows


def write_captions(scenes: Scenes, generator: torch.Generator) -> list[str]:
    """One caption per scene, each part dropped at random, some empty.

    Two toys are named from left to right or from top to bottom; their places have no words.
    """
    draws = torch.rand(len(scenes), 2, 10, generator=generator).tolist()
    return [_caption(*row, *draw) for row, draw in zip(words_of(scenes), draws, strict=True)]


def _caption(toys: list[Words], background: str, draw: list[float], other: list[float]) -> str:
    if draw[0] < _EMPTY_SHARE:
        return ""
    nouns = [_noun(words, each) for words, each in zip(toys, (draw, other), strict=False)]
    text = " and a ".join(nouns)
    if len(toys) == 1 and draw[7] < 0.85:
        text += f" with {toys[0]['position']} view"
    if draw[8] < 0.88 and background in BACKGROUNDS:
        text += f" in {background} background"
    return ("photo of a " if draw[0] < 0.7 else "a ") + text


def _noun(words: Words, draw: list[float]) -> str:
    named_second = draw[5] < 0.7
    colours = f"{words['main']} and {words['second']}" if named_second else words["main"]
    parts = [
        words["size"] if draw[2] < 0.3 else "",
        words["tilt"] if draw[3] < 0.3 else "",
        colours if draw[4] < 0.8 else "",
        words["pattern"] if draw[6] < 0.7 else "",
        words["shape"] if draw[1] < 0.92 else "thing",
        f"looking {words['look']}" if draw[9] < 0.3 else "",
    ]
    return " ".join(part for part in parts if part)
