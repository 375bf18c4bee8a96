"""The square of a photo that training sees: as much of the subject as a square can hold.

A square within the photo is taken where it keeps nearly all of the subject and something of its
background. Else it is larger than the photo's shorter side, and what of it lies outside the photo
is a grey border that counts in no loss.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ENOUGH = 0.9  # of the subject is kept: the photo gets no border
ALL = 0.995  # of the subject, where it gets one
CROWDED = 0.95  # of the photo's part is subject: hardly any background to tell it from
ROOMY = 0.8
BORDER = 0.5  # grey


class Square(NamedTuple):
    """A square in a photo's pixels; top or left is negative where it reaches outside."""

    top: int
    left: int
    side: int


class Crop(NamedTuple):
    """A photo as a square of S x S pixels."""

    picture: Tensor  # [S, S, 3] in [0, 1]
    mask: Tensor  # [S, S] in [0, 1], 1 = subject
    valid: Tensor  # [S, S], 1 = photo, 0 = border
    square: Square
    kept: float  # share of the subject's pixels that lie in the square


def crop(photo: Tensor, mask: Tensor | None, resolution: int) -> Crop:
    """photo [H, W, 3], mask [H, W] or None for the whole photo -> the square at S x S pixels."""
    height, width = photo.shape[:2]
    if mask is None:
        mask = torch.ones(height, width)
        square = centred(mask, min(height, width))
    else:
        mask = mask.clamp(0, 1)
        square = square_of(mask)
    planes = torch.cat([photo.movedim(-1, 0), mask[None], torch.ones(1, height, width)]).float()
    cut = scaled_square(planes, square, torch.tensor([BORDER] * 3 + [0, 0]), resolution)
    kept = float(total(part_of(mask, square)) / total(mask))
    return Crop(cut[:3].movedim(0, -1), cut[3], (cut[4] > 0.999).float(), square, kept)


def total(mask: Tensor) -> Tensor:
    """The subject's pixels, in float64: float32 makes 0.8999999 of nine tenths."""
    return mask.sum(dtype=torch.float64)


def square_of(mask: Tensor) -> Square:
    """The square of a mask [H, W] that training sees, in pixels."""
    shorter, longer = min(mask.shape), max(mask.shape)
    square = centred(mask, shorter)
    if holds(mask, square, ENOUGH, CROWDED):
        return square
    square = fullest(mask, shorter)
    if holds(mask, square, ENOUGH, CROWDED):
        return square
    low, high = shorter, longer  # the smallest that holds it; the longest side where none does
    while low < high:
        middle = (low + high) // 2
        if holds(mask, fullest(mask, middle), ALL, ROOMY):
            high = middle
        else:
            low = middle + 1
    return fullest(mask, low)


def holds(mask: Tensor, square: Square, kept: float, most: float) -> bool:
    """Whether a square has this share of the subject, which covers no more than `most` of it."""
    part = part_of(mask, square)
    return bool(total(part) >= kept * total(mask) and part.mean() <= most)


def centred(mask: Tensor, side: int) -> Square:
    """Centred on the subject, as far as the photo goes."""
    top, left = (
        within(((line * torch.arange(len(line))).sum() / line.sum() - side / 2), len(line), side)
        for line in (mask.sum(1), mask.sum(0))
    )
    return Square(top, left, side)


def fullest(mask: Tensor, side: int) -> Square:
    """Where a square of this side holds most of the subject; of several places the one nearest to
    the subject's centre.
    """
    near = centred(mask, side)
    top, left = (
        fullest_place(mask.sum(1 - dim), side, wanted) for dim, wanted in enumerate(near[:2])
    )
    return Square(top, left, side)


def fullest_place(totals: Tensor, side: int, wanted: int) -> int:
    """The first row or column of the `side` ones that have most of the subject."""
    if side >= len(totals):
        return wanted
    sums = F.pad(totals.double().cumsum(0), (1, 0))
    held = sums[side:] - sums[:-side]
    places = (held >= held.max() - 1e-6 * sums[-1]).nonzero().flatten()
    return int(places[(places - wanted).abs().argmin()])


def within(start: Tensor, length: int, side: int) -> int:
    """The nearest start of a square inside the photo; the middle where it is larger than that."""
    if side > length:
        return -((side - length) // 2)
    return int(start.round().clamp(0, length - side))


def part_of(mask: Tensor, square: Square) -> Tensor:
    """What of a mask [H, W] lies in a square."""
    top, left, side = square
    return mask[max(top, 0) : top + side, max(left, 0) : left + side]


def scaled_square(planes: Tensor, square: Square, outside: Tensor, side: int) -> Tensor:
    """[C, H, W] -> the square at [C, side, side], in [0, 1]; `outside` [C] as for `cut_square`."""
    cut = cut_square(planes, square, outside)
    if square.side != side:
        cut = F.interpolate(cut[None], size=(side, side), mode="bicubic", antialias=True)[0]
    return cut.clamp(0, 1)


def cut_square(planes: Tensor, square: Square, outside: Tensor) -> Tensor:
    """[C, H, W] -> [C, side, side]; `outside` [C] fills what lies outside of the photo."""
    top, left, side = square
    part = planes[:, max(top, 0) : top + side, max(left, 0) : left + side]
    if part.shape[-2:] == (side, side):
        return part
    whole = outside[:, None, None].expand(-1, side, side).clone()
    y, x = max(-top, 0), max(-left, 0)
    whole[:, y : y + part.shape[-2], x : x + part.shape[-1]] = part
    return whole
