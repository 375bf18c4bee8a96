"""Pictures for the canvas: contact sheets and attention overlays."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .pictures import as_image, paste_centred

GAP = 6  # pixels between the cells of a sheet
CAPTION = 20  # pixels, height of a caption
INK, PAPER = (235, 235, 235), (32, 32, 32)

# Dark blue, violet, orange, pale yellow: readable for the colour-blind, and in grey.
HEAT = torch.tensor(
    [
        [0.0, 0.02, 0.15],
        [0.34, 0.06, 0.43],
        [0.73, 0.21, 0.33],
        [0.98, 0.56, 0.04],
        [0.99, 1.0, 0.64],
    ]
)


def heat_colours(heat: Tensor) -> Tensor:
    """[..., h, w] in [0, 1] -> RGB [..., h, w, 3]."""
    place = heat.clamp(0, 1) * (len(HEAT) - 1)
    low = place.floor().long().clamp(max=len(HEAT) - 2)
    share = (place - low)[..., None]
    return HEAT[low] * (1 - share) + HEAT[low + 1] * share


def overlay(image: Tensor, heat: Tensor, opacity: float = 0.65) -> Tensor:
    """image [B, H, W, 3], heat [B, H, W] -> [B, H, W, 3]: the picture in grey under its heat."""
    grey = image.mean(dim=-1, keepdim=True).expand(-1, -1, -1, 3)
    return grey * (1 - opacity) + heat_colours(heat) * opacity


def resize_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """[words, B, h, w] -> [words, B, height, width], smooth, in [0, 1]."""
    size = (height, width)
    return F.interpolate(maps, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def sheet(rows: Sequence[Sequence[tuple[str, Tensor]]], cell: int = 160) -> Tensor:
    """Captioned pictures in rows: (caption, [H, W, 3] in [0, 1]) -> one image [1, H, W, 3]."""
    columns = max(len(row) for row in rows)
    step_x, step_y = cell + GAP, cell + CAPTION + GAP
    page = Image.new("RGB", (columns * step_x + GAP, len(rows) * step_y + GAP), PAPER)
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    for y, row in enumerate(rows):
        for x, (caption, picture) in enumerate(row):
            left, top = GAP + x * step_x, GAP + y * step_y
            pen.text((left + 2, top + 2), cut_to(caption, font, cell), INK, font=font)
            paste_centred(page, picture, (left, top + CAPTION, cell, cell))
    return as_image(page)[None]


def cut_to(text: str, font, width: float) -> str:
    """The text, cut short with … where it is wider than `width` pixels."""
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2].rstrip() + "…"
    return text


def contact_sheet(thumbnails: Tensor, class_word: str, *, numbered: bool) -> Tensor:
    """The photos [N, h, w, 3] uint8 with their numbers: "P1  B1" -> [1, H, W, 3].

    Not `numbered` (Custom Diffusion): the photos have no words of their own.
    """
    captions = [
        f"P{i + 1}  B{i + 1}" if numbered else f"photo {i + 1}" for i in range(len(thumbnails))
    ]
    cells = [(c, t.float() / 255) for c, t in zip(captions, thumbnails, strict=True)]
    if not cells:
        cells = [(f"[V] {class_word}", torch.zeros(8, 8, 3))]
    rows = [cells[i : i + 4] for i in range(0, len(cells), 4)]
    return sheet(rows)
