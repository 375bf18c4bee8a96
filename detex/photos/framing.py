"""Scaled copies of a photo: Custom Diffusion's augmentation (arXiv 2212.04488, appendix B)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Framing:
    """How one copy of a photo is scaled: Custom Diffusion's augmentation."""

    size: int  # pixels, of the whole photo
    left: int  # of the photo in the frame; negative where it is cropped
    top: int
    prefix: str
    mirrored: bool = False  # left and right, before all else


def sample_framing(resolution: int, generator: torch.Generator) -> Framing:
    """2/3: r in [S/3, S], 1/3: r in [1.2 S, 1.4 S]; r < 0.6 S is pasted somewhere in a blank frame,
    r > S is cropped, anything between is the plain photo (Custom Diffusion, arXiv 2212.04488, B).
    """

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, max(high, low + 1), (1,), generator=generator))

    shrink = torch.rand(1, generator=generator).item() < 2 / 3
    low, high = (
        (resolution // 3, resolution + 1) if shrink else (6 * resolution // 5, 7 * resolution // 5)
    )
    size = integer(low, high) // 2 * 2
    far = integer(0, 2) == 0
    if size < 0.6 * resolution:
        room = resolution - size + 1
        return Framing(
            size, integer(0, room), integer(0, room), "a far away " if far else "very small "
        )
    if size > resolution:
        room = size - resolution + 1
        prefix = "zoomed in " if far else "close up "
        return Framing(size, -integer(0, room), -integer(0, room), prefix)
    return Framing(resolution, 0, 0, "")


def sample_framing_of(masks: Tensor, generator: torch.Generator) -> Framing:
    """A framing that keeps at least half of each subject, masks [M, S, S], in the picture: without
    it there would be nothing for the words to be about.
    """
    count, side = masks.shape[:2]
    while True:  # the plain photo, which keeps all of them, comes up sooner or later
        framing = sample_framing(side, generator)
        kept = place(masks, framing, side, torch.zeros(count)).sum(dim=(1, 2))
        if (kept >= 0.5 * masks.sum(dim=(1, 2)) * (framing.size / side) ** 2).all():
            return framing


def place(picture: Tensor, framing: Framing, resolution: int, blank: Tensor) -> Tensor:
    """picture [C, S, S] scaled and placed on a frame of colour blank [C] -> [C, S, S]."""
    size = framing.size
    scaled = picture.flip(-1) if framing.mirrored else picture
    if size != resolution:
        scaled = F.interpolate(scaled[None], size=(size, size), mode="bilinear", antialias=True)[0]
    frame = blank[:, None, None].expand(-1, resolution, resolution).clone()
    x0, y0 = max(framing.left, 0), max(framing.top, 0)
    x1, y1 = min(framing.left + size, resolution), min(framing.top + size, resolution)
    frame[:, y0:y1, x0:x1] = scaled[
        :, y0 - framing.top : y1 - framing.top, x0 - framing.left : x1 - framing.left
    ]
    return frame
