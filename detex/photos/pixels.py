"""The pixels of a picture file, whatever range it stores them in."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DARK = 4095  # the highest value of a picture of 12 bits in 16; else nearly black
GREY = 0.5  # a mask that is no brighter has no subject
COLOUR = 0.1  # between a pixel's channels: of a mask that is coloured
APART = 0.25  # between the hues of two colours
STRAY = 0.05  # of the bright pixels, as JPEG makes them at edges


def rgb_of(image: Image.Image, name: str) -> Tensor:
    """A photo [H, W, 3] in [0, 1]. Raises ValueError by its name for a range that tells nothing."""
    if not is_deep(image):
        return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)
    values = np.asarray(image).astype(np.float32)
    grey = torch.from_numpy(values / full_scale(image.mode, values, name))
    return grey.clamp(0, 1)[..., None].repeat(1, 1, 3)


def is_deep(image: Image.Image) -> bool:
    """Whether it has one channel of more than 8 bits; Pillow's own conversion would clip it."""
    return image.mode == "F" or image.mode.startswith("I")


def full_scale(mode: str, values: np.ndarray, name: str) -> float:
    """The stored value that is white: by the mode where it says it, else by the values."""
    low, high = float(values.min()), float(values.max())
    if mode == "F" and 0 <= low <= high <= 1:
        return 1.0
    if mode == "I" and 0 <= low <= high <= 255:
        return 255.0
    whole = mode != "F" and 0 <= low <= high <= 65535
    if whole and not 0 < high <= DARK:
        return 65535.0
    wanted = {"F": "numbers from 0 to 1", "I": "whole numbers up to 255 or up to 65535"}
    has = wanted.get(mode, "whole numbers up to 65535, most of its range in use")
    raise ValueError(
        f"{name} holds values from {low:.4g} to {high:.4g}, and where white lies is not known: "
        f"a picture of this kind has {has}. Save it as a PNG or JPEG of 8 bits."
    )


def alpha_of(image: Image.Image) -> Tensor | None:
    """The opaque part [H, W] of a picture; None where nothing is transparent."""
    if not image.has_transparency_data:
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A")).astype(np.float32) / 255
    return torch.from_numpy(alpha) if alpha.min() < 1 else None


def mask_of(image: Image.Image, name: str) -> Tensor:
    """A mask file [H, W], 1 = subject: its transparency where it has some, else its brightness, of
    one colour that colour's.

    Of two values, as 0 and 1 of 8 bits, the higher one is the subject. Raises ValueError by name
    for a mask of several colours, and for one that is grey all over.
    """
    alpha = alpha_of(image)
    if alpha is not None:
        return alpha
    if is_deep(image):
        plane = np.asarray(image).astype(np.float32)
    else:
        plane = strength(np.asarray(image.convert("RGB")).astype(np.float32) / 255, name)
    levels = np.unique(plane)
    if len(levels) == 2 and levels[0] == 0 and np.isfinite(levels[1]):
        return torch.from_numpy((plane > 0).astype(np.float32))
    if is_deep(image):
        plane = plane / full_scale(image.mode, plane, name)
    if 0 < plane.max() <= GREY:
        raise ValueError(
            f"The mask {name} is grey: its brightest value is {plane.max():.0%} of white, and "
            "white is the subject. Raise its contrast, or save it as black and white."
        )
    return torch.from_numpy(plane)


def strength(colours: np.ndarray, name: str) -> np.ndarray:
    """How much of its colour each pixel of a mask [H, W, 3] has: [H, W] in [0, 1].

    Raises ValueError for a mask with things of several colours, as label maps have.
    """
    top = colours.max(-1)
    if not top.any():
        return top
    bright = colours[top > 0.5 * top.max()]
    spread = np.ptp(bright, axis=-1)
    if np.median(spread) <= COLOUR and (spread > APART).mean() <= STRAY:  # grey and white
        return top
    hues = bright / bright.max(-1, keepdims=True)
    apart = np.abs(hues - np.median(hues, axis=0)).max(-1) > APART
    if apart.mean() > STRAY:
        raise ValueError(
            f"The mask {name} has several colours, and which of them is the subject is not known. "
            "Save a mask with the subject white and all else black."
        )
    return top / top.max()
