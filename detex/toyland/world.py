"""What a trainer asks of toyland; `detex.toys.world` answers the same for the old world."""

from __future__ import annotations

import torch
from torch.nn import functional as F

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
)
from . import render as drawing
from . import subjects
from .bodies import seats
from .captions import words_of, write_captions
from .scene import LOOKS, UNNAMED, Scenes, Toys, any_scenes, sample_scenes

__all__ = ["any_scenes", "sample_scenes", "write_captions"]

NAME = "toyland"
WORDS = (*COLOURS, *SHAPES, *PATTERNS, *BACKGROUNDS, *POSITIONS, *SIZES, *LOOKS, "looking")
CELL_KINDS = (len(COLOURS), len(PATTERNS), len(SHAPES))
TOY_HEADS = {
    "shape": len(SHAPES),
    "main": len(COLOURS),
    "second": len(COLOURS),
    "pattern": len(PATTERNS),
    "look": len(LOOKS),
    **UNNAMED,
}
SCENE_HEADS = {
    "pair": 2,
    "background": len(FAMILIES),
    "position": len(POSITIONS),
    "size": len(SIZES),
}
_CELLS = 16  # along a side
AIMS = {"body cell": None, "hat cell": ("hat", -0.3), "mouth cell": ("face", 0.36)}
HEADS = {
    **SCENE_HEADS,
    **{f"{name} {toy}": kinds for toy in (1, 2) for name, kinds in TOY_HEADS.items()},
    **{f"{name} {toy}": _CELLS**2 for toy in (1, 2) for name in AIMS},
}
GOALS = {
    "background": 0.95,
    "shape": 0.90,
    "position": 0.90,
    "main": 0.90,
    "both shapes": 0.80,
    "main colours on their toys": 0.70,
    "clear hat 1": 0.70,
    "clear eyes 1": 0.70,
}
CLEAR = ("hat 1", "eyes 1")  # unnamed parts of which the judge must be sure
_LOOK_WIDTH = 2 * len(COLOURS) + len(PATTERNS)
KNOWN = (
    _LOOK_WIDTH + sum(UNNAMED.values()),
    len(POSITIONS) + 4 + len(LOOKS),
    len(FAMILIES) + NOISE_WIDTH,
)
_PARTS_MEANT = 0.5  # share of pictures whose [V] may mean the face, the hat and the feet as well


def render(scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B,64,64,3] and how much each pixel matters [B,64,64]: 1 on toys, 2 on faces."""
    images, masks = drawing.render(scenes)
    return images, masks.sum(1) + drawing.faces(scenes)


def colour_shares(scenes: Scenes) -> torch.Tensor:
    """How much of each pixel each toy's main and second colour cover, [B,4,64,64]."""
    return drawing.colour_shares(scenes).flatten(1, 2)


def cell_kinds(scenes: Scenes) -> tuple[torch.Tensor, ...]:
    """Colour, pattern and shape of what each of the four shares belongs to, [B,4] each."""
    toys = scenes.toys
    colours = torch.stack((toys.main, toys.second), 2).flatten(1)
    return (colours, *(each.repeat_interleave(2, 1) for each in (toys.pattern, toys.shape)))


def factors(scenes: Scenes) -> dict[str, torch.Tensor]:
    """The right answer [B] of each of HEADS, -1 where there is none."""
    toys, unknown = scenes.toys, torch.tensor(-1)
    found = {
        "pair": scenes.pair.long(),
        "background": scenes.background,
        "position": toys.position[:, 0],
        "size": torch.where(scenes.pair, unknown, toys.size[:, 0]),
    }
    answers = {name: getattr(toys, name) for name in TOY_HEADS}
    answers |= {name: _cell(toys, seat) for name, seat in AIMS.items()}
    worn = {"hat_colour": toys.hat > 0, "feet_colour": toys.feet > 0}
    for name, answer in answers.items():
        asked = torch.where(scenes.present & worn.get(name, scenes.present), answer, unknown)
        found |= {f"{name} 1": asked[:, 0], f"{name} 2": asked[:, 1]}
    return found


def _cell(toys: Toys, seat: tuple[str, float] | None) -> torch.Tensor:
    """In which of 16x16 cells the body's middle lies, or a part's point this far below its seat."""
    part, below = seat or ("face", 0.0)
    u, v, scale, _ = seats(part, toys.shape).unbind(-1)
    u, v = (u, v + below * scale) if seat else (0 * u, 0 * v)
    cos, sin = toys.angle.cos(), toys.angle.sin()
    offset = torch.stack((u * cos - v * sin, u * sin + v * cos), -1) * toys.radius[..., None]
    x, y = ((toys.centre + offset) * _CELLS / IMAGE_SIDE).long().clamp(0, _CELLS - 1).unbind(-1)
    return y * _CELLS + x


def told_toy(scenes: Scenes) -> torch.Tensor:
    """Which toy the new words may speak of, [B]: any of two, always the same of one picture."""
    return (scenes.pair & (scenes.noise[:, -1] < 0.5)).long()


def known(scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The told toy's factors as numbers of about unit size: look, pose, background, [B,n]."""
    toys = scenes.toys.rows((torch.arange(len(scenes)), told_toy(scenes)))
    background = torch.cat((F.one_hot(scenes.background, len(FAMILIES)), scenes.noise - 0.5), 1)
    return _look(toys, scenes.noise[:, -2]), _pose(toys), background.float()


def _look(toys: Toys, chance: torch.Tensor) -> torch.Tensor:
    named = {"main": len(COLOURS), "second": len(COLOURS), "pattern": len(PATTERNS)}
    look = torch.cat([F.one_hot(getattr(toys, n), kinds) for n, kinds in named.items()], 1)
    parts = torch.cat([F.one_hot(getattr(toys, n), kinds) for n, kinds in UNNAMED.items()], 1)
    return torch.cat((look, parts * (chance < _PARTS_MEANT)[:, None]), 1).float()


def _pose(toys: Toys) -> torch.Tensor:
    exact = torch.cat(
        (
            (toys.centre - IMAGE_SIDE / 2) / 13,
            (toys.radius[:, None] - 13.5) / 2.5,
            toys.angle[:, None] / 0.4,
        ),
        1,
    )
    words = (F.one_hot(toys.position, len(POSITIONS)), F.one_hot(toys.look, len(LOOKS)))
    return torch.cat((*words, exact), 1)


def gate_captions(scenes: Scenes) -> list[str]:
    """A caption per scene that names every factor of the gate; half name the surface too."""
    captions = []
    for number, (toys, background) in enumerate(words_of(scenes)):
        nouns = [
            f"{t['main']} and {t['second']} {t['pattern']} {t['shape']}"
            if number % 2
            else f"{t['main']} {t['shape']}"
            for t in toys
        ]
        place = f" with {toys[0]['position']} view" if len(toys) == 1 else ""
        captions.append(f"photo of a {' and a '.join(nouns)}{place} in {background} background")
    return captions


def gate_shares(seen: dict[str, torch.Tensor], scenes: Scenes) -> dict[str, float]:
    """What the captions named, as far as the judge saw it: shares of pictures, GOALS first.

    Of two toys either may stand first: a caption does not say which is left.
    """
    toys, one, two = scenes.toys, ~scenes.pair, scenes.pair
    shares = {
        "background": _share(seen["background"] == scenes.background),
        "shape": _share((seen["shape 1"] == toys.shape[:, 0])[one]),
        "position": _share((seen["position"] == toys.position[:, 0])[one]),
        "main": _share((seen["main 1"] == toys.main[:, 0])[one]),
    }
    both = {n: torch.stack((seen[f"{n} 1"], seen[f"{n} 2"]), 1) for n in ("shape", "main")}
    orders = []
    for order in ([0, 1], [1, 0]):
        shape = (both["shape"][:, order] == toys.shape).all(1) & (seen["pair"] == 1)
        orders.append((shape, shape & (both["main"][:, order] == toys.main).all(1)))
    shapes, mains = (orders[0][k] | orders[1][k] for k in (0, 1))
    shares |= {"both shapes": _share(shapes[two]), "main colours on their toys": _share(mains[two])}
    named = one & (torch.arange(len(scenes)) % 2 == 1)
    for name in ("second", "pattern"):
        right = seen[f"{name} 1"] == getattr(toys, name)[:, 0]
        shares[f"{name}, where named"] = _share(right[named])
    return shares


def _share(hits: torch.Tensor) -> float:
    return float(hits.float().mean())


def subject_photos(
    number: int, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photos of a subject: images [N,64,64,3], masks [N,64,64], indices of backgrounds [N]."""
    photos = subjects.subject_photos(number, count, seed)
    return photos.images, photos.masks.sum(1), photos.scenes.background


def subject_answers(number: int) -> tuple[dict[str, int], dict[str, int]]:
    """What the judge should say of a subject: of what has a word, and of what has none."""
    named, unnamed = subjects.identity(number), subjects.unnamed_parts(number)
    return {f"{n} 1": k for n, k in named.items()}, {f"{n} 1": k for n, k in unnamed.items()}
