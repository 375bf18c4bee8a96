"""Between images, [H, W, 3] in [0, 1], and Pillow's pictures."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_picture(image: Tensor) -> Image.Image:
    """image [H, W, 3] on any device, clipped to [0, 1] -> RGB of 8 bits."""
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def as_image(picture: Image.Image) -> Tensor:
    """An RGB or grey picture -> [H, W, 3] or [H, W]."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture as large as the frame allows; single pixels stay visible when enlarged."""
    scale = min(width / picture.width, height / picture.height)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return picture.resize(size, how)


def paste_centred(page: Image.Image, image: Tensor, box: tuple[int, int, int, int]) -> None:
    """Put an image [H, W, 3] on the page, whole, in the middle of left, top, width, height."""
    left, top, width, height = box
    picture = fitted(as_picture(image), width, height)
    at = (left + (width - picture.width) // 2, top + (height - picture.height) // 2)
    page.paste(picture, at)
