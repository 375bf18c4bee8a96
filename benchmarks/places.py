"""Place pictures of the little world: its backgrounds without a subject, but for two.

Edits to those two tell whether naming places in training is of use for places it never shows.
"""

from __future__ import annotations

import torch

from detex_pack.detex.photos.places import Places
from detex_pack.detex.toys.backdrops import backdrop
from detex_pack.detex.toys.scene import BACKGROUNDS, IMAGE_SIDE, sample_scenes

WITHHELD = ("water", "night")
EACH = 4  # pictures of a background
_SEED = 900


def toy_places() -> Places:
    """`EACH` renders of every background but the withheld ones."""
    shown = [name for name in BACKGROUNDS if name not in WITHHELD]
    names = tuple(name for name in shown for _ in range(EACH))
    scenes = sample_scenes(len(names), torch.Generator().manual_seed(_SEED))
    scenes = scenes.with_factors(background=torch.tensor([BACKGROUNDS.index(n) for n in names]))
    line = torch.arange(IMAGE_SIDE) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return Places(backdrop(scenes, x[None], y[None]), names)
