"""A subject cut out of its photo and put on another ground, pixel by pixel.

DETEX's blanks show the subject where no word says what surrounds it, so that [V] learns the blank.
Composites are not in the paper: there each ground has a word, the name of a place or [B].
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .framing import Framing, place

SIZES = (0.6, 1.2)  # of a moved subject; a larger one would be blurred


class CutOut(NamedTuple):
    """A subject without its photo's background."""

    picture: Tensor  # [3, S, S]; beyond the subject's edge its colours go on
    cover: Tensor  # [1, S, S] in [0, 1]: how much of a pixel is the subject's


class Composite(NamedTuple):
    """A picture to train on."""

    picture: Tensor  # [3, S, S]
    mask: Tensor  # [1, S, S] in [0, 1], 1 = subject
    valid: Tensor  # [1, S, S], 0 where a ground is made up


def cut_out(photo: Tensor, mask: Tensor, feather: int) -> CutOut:
    """Cut the subject of mask [S, S] out of a photo [S, S, 3].

    Inside the mask every pixel is the subject's. Outside it fades over `feather` / 2 pixels, in the
    colours of its edge: nothing of the photo's background comes along, and thin parts stay whole.
    """
    solid = (mask > 0.5).float()[None]
    fading = 2 * mean_around(solid, feather // 2)  # 1 at a straight edge
    cover = torch.maximum(solid, fading.clamp(max=1))
    return CutOut(filled(photo.movedim(-1, 0), 1 - solid), cover)


def mean_around(planes: Tensor, radius: int) -> Tensor:
    """[C, S, S] -> the mean of the square around each pixel, as far as it lies in the picture."""
    side = 2 * radius + 1
    return F.avg_pool2d(planes, side, stride=1, padding=radius, count_include_pad=False)


def paste(cut: CutOut, ground: Tensor) -> Tensor:
    """The subject on a ground [3, S, S]."""
    return cut.cover * cut.picture + (1 - cut.cover) * ground


def moved(cut: CutOut, framing: Framing) -> CutOut:
    """The subject at another size and place; what lies outside the frame is cut off."""
    side = cut.cover.shape[-1]
    empty = torch.zeros(4)
    both = place(torch.cat([cut.picture, cut.cover]), framing, side, empty)
    return CutOut(both[:3], both[3:])


def extent(cover: Tensor, dim: int) -> tuple[int, int]:
    """First and last + 1 row or column of a cover [1, S, S] that has some of the subject."""
    found = cover[0].amax(dim=1 - dim).nonzero().flatten()
    return int(found[0]), int(found[-1]) + 1


def can_move(cut: CutOut) -> bool:
    """Whether there is room: not where the subject touches all four sides of the photo."""
    side = cut.cover.shape[-1]
    return any(extent(cut.cover, dim) != (0, side) for dim in (0, 1))


def sample_move(
    cut: CutOut, generator: torch.Generator, sizes: tuple[float, float] = SIZES
) -> Framing:
    """A random size and place that keep the subject whole in the frame.

    A side that the photo cuts off stays at the frame's edge, so that no cut is seen; between two
    such sides the subject keeps its size.
    """
    side = cut.cover.shape[-1]
    spans = [extent(cut.cover, dim) for dim in (0, 1)]
    least, most = sizes
    if (0, side) in spans:
        least = most = 1.0
    else:  # two pixels less than the frame: both ends may be rounded outwards
        most = min(most, (side - 2) / max(end - start for start, end in spans))
        least = min(least, most)
    drawn = torch.rand(3, generator=generator).tolist()
    size = round((least + (most - least) * drawn[0]) * side)
    top, left = (
        offset(span, size, side, share) for span, share in zip(spans, drawn[1:], strict=True)
    )
    return Framing(size, left, top, "")


def offset(span: tuple[int, int], size: int, side: int, share: float) -> int:
    """Where a square scaled from `side` to `size` pixels begins, `share` in [0, 1) of the way that
    its subject, span [start, end) before, can go inside a frame of `side` pixels.
    """
    start, end = span
    if start == 0:
        return 0
    if end == side:
        return side - size
    first, last = -(start * size // side), side + (-end * size // side)
    return first + int(share * (last - first + 1))


def filled(picture: Tensor, hole: Tensor) -> Tensor:
    """A picture [C, H, W] whose hole [1, H, W], 1 or 0, shows its surroundings, blurred the more
    the farther they are: each coarser scale fills what the finer one knows nothing of.
    """
    known = 1 - hole
    if not hole.any() or not known.any() or min(picture.shape[-2:]) == 1:
        return picture
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    coarse = F.avg_pool2d(picture * known, 2, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = filled(coarse, (share == 0).float())
    size = picture.shape[-2:]
    smooth = F.interpolate(coarse[None], size=size, mode="bilinear", align_corners=False)[0]
    return torch.where(hole > 0, smooth, picture)


def on_place(cut: CutOut, ground: Tensor) -> Composite:
    """On a picture [S, S, 3] of a place: *in place* as it was cut, or *moved* before."""
    picture = paste(cut, ground.movedim(-1, 0))
    return Composite(picture, cut.cover, torch.ones_like(cut.cover))


def crossed(cut: CutOut, photo: Tensor, taken: Tensor) -> Composite:
    """On the background of another photo [S, S, 3]. What is not its background, `taken` [1, S, S]
    above 0, is filled up and teaches nothing, but for where the new subject covers it.
    """
    hole = (taken > 0).float()
    ground = filled(photo.movedim(-1, 0), hole)
    valid = torch.maximum(1 - hole, (cut.cover > 0.999).float())
    return Composite(paste(cut, ground), cut.cover, valid)
