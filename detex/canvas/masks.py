"""Masks over their photos, for a look before training."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..photos.concepts import Scene
from ..photos.crop import crop
from ..prompt.grammar import Named
from .sheets import sheet

CELL = 256  # pixels, side of a photo on the sheet
MANY = 16  # photos; more are drawn at half the size
ORANGE = torch.tensor([0.98, 0.56, 0.04])  # orange, readable on most photos and in grey


def fit(photo: Tensor, mask: Tensor, side: int = CELL) -> tuple[Tensor, Tensor]:
    """Scale both to a longer side of `side` pixels: [H, W, 3], [H, W] -> [h, w, 3], [h, w]."""
    height, width = mask.shape
    scale = side / max(height, width)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    both = torch.cat([photo.movedim(-1, 0), mask[None]])[None].float()
    both = F.interpolate(both, size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    return both[:3].movedim(0, -1), both[3]


def shade(photo: Tensor, mask: Tensor, colour: Tensor = ORANGE) -> Tensor:
    """The subject as it is, outlined in `colour`, the rest dark and grey: [H, W, 3], [H, W]."""
    grey = photo.mean(dim=-1, keepdim=True).expand(-1, -1, 3)
    ground = 0.32 * grey + 0.04
    shaded = photo * mask[..., None] + ground * (1 - mask[..., None])
    return torch.where(outline(mask)[..., None], colour, shaded)


def outline(mask: Tensor) -> Tensor:
    """The cells [H, W] just outside the mask, two pixels wide; bool."""
    inside = (mask > 0.5).float()[None, None]
    return (F.max_pool2d(inside, 5, stride=1, padding=2) > inside)[0, 0]


def subject_sheet(photos: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
    """The squares that training sees, each with its numbers and mask -> [1, H, W, 3].

    photos: N of [H, W, 3] in [0, 1]; masks: N of [H, W], or None for whole photos.
    """
    cells = []
    for index, photo in enumerate(photos):
        shown = crop(photo.float(), masks[index].float() if masks else None, CELL)
        label = f"P{index + 1}  B{index + 1}   subject {shown.mask.mean():.0%}"
        if masks and shown.kept < 0.995:
            label += f"   {shown.kept:.0%} kept"
        cells.append((label, shade(shown.picture, shown.mask)))
    columns = 3 if len(cells) in (3, 5, 6, 9) else 4
    return sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], CELL)


def varied_sheet(photos: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
    """As `subject_sheet`, for many pictures that have numbers alone."""
    many = len(photos) > MANY
    side, columns = (CELL // 2, 8) if many else (CELL, 4)
    cells = []
    for index, photo in enumerate(photos):
        shown = crop(photo.float(), masks[index].float() if masks else None, side)
        label = f"{index + 1}" + (f"   {shown.mask.mean():.0%}" if masks else "")
        cells.append((label, shade(shown.picture, shown.mask)))
    return sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], side)


def concept_sheet(scene: Scene, named: Sequence[Named]) -> Tensor:
    """The square that training sees, once for each concept's mask, or once -> [1, H, W, 3]."""
    whole, masks = scene
    cells = []
    if masks is None:
        picture, _ = fit(whole.picture, whole.mask)
        cells.append(("  ".join(f"[{one.word}] {one.class_word}" for one in named), picture))
    for one, mask in zip(named, () if masks is None else masks, strict=masks is not None):
        label = f"[{one.word}] {one.class_word}   {mask.mean():.0%}"
        cells.append((label, shade(*fit(whole.picture, mask))))
    return sheet([cells[i : i + 3] for i in range(0, len(cells), 3)], CELL)
