"""Pictures of a run: PNG bytes to tensors, captioned sheets to files."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from .pack_host import enter_host

enter_host()

from detex_pack.detex.canvas.pictures import as_image, as_picture
from detex_pack.detex.canvas.sheets import sheet


def to_tensor(content: bytes) -> Tensor:
    """An image file's bytes -> [H, W, 3] in [0, 1]."""
    return as_image(Image.open(io.BytesIO(content)).convert("RGB"))


def save_sheet(rows: Sequence[Sequence[tuple[str, Tensor]]], path: Path, cell: int = 192) -> None:
    """Captioned pictures in rows, as a PNG."""
    as_picture(sheet(rows, cell)[0]).save(path)
