"""Pictures of a run: PNG bytes to tensors, captioned sheets to files."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .pack_host import enter_host

enter_host()

from detex_pack.detex.preview import sheet


def to_tensor(content: bytes) -> Tensor:
    """An image file's bytes -> [H, W, 3] in [0, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255)


def save_sheet(rows: Sequence[Sequence[tuple[str, Tensor]]], path: Path, cell: int = 192) -> None:
    """Captioned pictures in rows, as a PNG."""
    page = sheet(rows, cell)[0]
    Image.fromarray((page * 255).round().to(torch.uint8).numpy()).save(path)
