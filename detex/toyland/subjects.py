"""Photos to learn from: of one toy, of two toys, and of many toys that vary by a known law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..toys.backdrops import FAMILIES
from ..toys.scene import COLOURS, PATTERNS, POSITIONS, SHAPES, SIZES, SUBJECTS
from ..toys.subjects import check_request, home_and_away, shuffled
from .render import render
from .scene import EYES, HATS, LOOKS, UNNAMED, Scenes, arranged

VARIED_MAIN = {"red": 0.375, "yellow": 0.25, "green": 0.25, "purple": 0.125}
VARIED_EYES = {"round": 0.5, "sleepy": 0.25, "wide": 0.25}
VARIED_SIZE = {"small": 0.75, "big": 0.25}
_PARTS_SEED = 23
_SMALL, _BIG = 11.5, 16.0


@dataclass(frozen=True)
class Photos:
    """Images [N,64,64,3], the masks [N,2,64,64] of their toys, class words and factors."""

    images: torch.Tensor
    masks: torch.Tensor
    class_words: tuple[str, ...]
    scenes: Scenes


def subject_photos(number: int, count: int, seed: int, shared: float = 0.5) -> Photos:
    """`count` photos of subject `number`, a share of them on one and the same home background.

    All of them share its face, hat and feet. Raises ValueError for a senseless request.
    """
    return _photos((number,), count, seed, shared)


def pair_photos(first: int, second: int, count: int, seed: int, shared: float = 0.5) -> Photos:
    """`count` photos that show two subjects together, side by side or one above the other."""
    return _photos((first, second), count, seed, shared)


def varied_photos(count: int, seed: int) -> Photos:
    """Striped white hearts with top hats: different toys whose main colours, sizes and eyes vary.

    How often each value comes is VARIED_MAIN, VARIED_SIZE and VARIED_EYES, as nearly as `count`
    allows; mouths, looks, places and backgrounds vary evenly, the rest is shared.
    """
    generator = torch.Generator().manual_seed(seed)
    main = _by_law(VARIED_MAIN, COLOURS, count, generator)
    fixed = (("heart", SHAPES), ("white", COLOURS), ("striped", PATTERNS))
    shape, second, pattern = (torch.full((count,), t.index(word)) for word, t in fixed)
    identities = torch.stack((shape, main, second, pattern), 1)[:, None].expand(-1, 2, -1)
    unnamed = {
        "eyes": _by_law(VARIED_EYES, EYES, count, generator),
        "mouth": shuffled(UNNAMED["mouth"], count, generator),
        "hat": torch.full((count,), HATS.index("top hat")),
        "hat_colour": torch.full((count,), COLOURS.index("blue")),
        "feet": torch.zeros(count, dtype=torch.long),
        "feet_colour": torch.zeros(count, dtype=torch.long),
    }
    size = _by_law(VARIED_SIZE, SIZES, count, generator)
    scenes = arranged(
        identities,
        {name: _twice(column) for name, column in unnamed.items()},
        _twice(shuffled(len(LOOKS), count, generator)),
        _twice(shuffled(len(POSITIONS), count, generator)),
        torch.zeros(count, dtype=torch.bool),
        shuffled(len(FAMILIES), count, generator),
        generator,
        radius=_twice(torch.where(size == 0, _SMALL, _BIG)),
    )
    return Photos(*render(scenes), ("heart",), scenes)


def _photos(numbers: Sequence[int], count: int, seed: int, shared: float) -> Photos:
    for number in numbers:
        check_request(number, count, shared)
    if len(numbers) == 2 and numbers[0] == numbers[1]:
        raise ValueError(f"Two toys must differ, both are subject {numbers[0]}.")
    base = len(SUBJECTS)
    generator = torch.Generator().manual_seed((seed * base + numbers[0]) * base + numbers[-1])
    pair = len(numbers) == 2
    both = [numbers[0], numbers[-1]]
    parts = [unnamed_parts(number) for number in both]
    first = shuffled(2, count, generator) * 2 if pair else shuffled(5, count, generator)
    scenes = arranged(
        torch.tensor([[*identity(number).values()] for number in both]).expand(count, 2, 4),
        {n: torch.tensor([p[n] for p in parts]).expand(count, 2) for n in UNNAMED},
        torch.stack([shuffled(len(LOOKS), count, generator) for _ in range(2)], 1),
        torch.stack((first, first + pair), 1),
        torch.full((count,), pair),
        home_and_away(len(FAMILIES), count, generator, round(count * shared)),
        generator,
    )
    words = tuple(SUBJECTS[number][0] for number in numbers)
    return Photos(*render(scenes), words, scenes)


def unnamed_parts(number: int) -> dict[str, int]:
    """The face, hat and feet of subject `number`: it always has a hat and feet or wheels."""
    generator = torch.Generator().manual_seed(_PARTS_SEED + number)
    worn = {name: int(name in ("hat", "feet")) for name in UNNAMED}
    return {
        name: int(torch.randint(worn[name], kinds, (), generator=generator))
        for name, kinds in UNNAMED.items()
    }


def identity(number: int) -> dict[str, int]:
    """Shape, main and second colour and pattern of subject `number`."""
    tables = {"shape": SHAPES, "main": COLOURS, "second": COLOURS, "pattern": PATTERNS}
    words = zip(tables.items(), SUBJECTS[number], strict=True)
    return {name: table.index(word) for (name, table), word in words}


def _twice(column: torch.Tensor) -> torch.Tensor:
    """[N] -> [N,2]: of a picture of one toy the second is not drawn."""
    return column[:, None].expand(-1, 2)


def _by_law(
    law: Mapping[str, float], words: Sequence[str], count: int, generator: torch.Generator
) -> torch.Tensor:
    """Indices into `words` as often as the law says, in random order, [N]."""
    ends = torch.tensor([*law.values()]).cumsum(0)
    middles = (torch.arange(count) + 0.5) / count
    kinds = torch.tensor([words.index(word) for word in law])
    return kinds[torch.searchsorted(ends, middles)][torch.randperm(count, generator=generator)]
