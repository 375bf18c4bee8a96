"""Pictures of places and their names: the grounds that a cut-out subject is put on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .folder import PhotoFile, natural_order, read_photo
from .names import SUFFIXES

# Where living things and objects may both be; named as in "in [B] background".
DEFAULT_PLACES = (
    "sandy beach", "green meadow", "snowy mountain", "pine forest", "autumn park",
    "rocky desert", "garden with flowers", "lake shore", "cobbled street", "city square at night",
    "country road", "wooden pier", "farmyard", "harbour", "cloudy sky",
    "living room with a sofa", "kitchen counter", "wooden table", "office desk", "library",
    "bedroom with a carpet", "tiled bathroom", "marble floor", "brick wall", "plain grey wall",
)  # fmt: skip


class Places(NamedTuple):
    """M pictures, each with the name that prompts call its place by."""

    pictures: Tensor  # [M, S, S, 3] in [0, 1]
    names: tuple[str, ...]


def place_names(text: str) -> list[str]:
    """One name a line; empty lines are skipped. Raises ValueError for none, and for placeholders,
    which belong to the subject.
    """
    names = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not names:
        raise ValueError(
            "No place is named. Write one a line, such as sandy beach: the prompt will say "
            '"in sandy beach background".'
        )
    for name in names:
        check_place_name(name)
    return names


def check_place_name(name: str) -> None:
    """Raise ValueError for placeholders, which belong to the subject."""
    if any(sign in name for sign in "[]<>():"):
        raise ValueError(
            f'The place "{name}" must be plain words such as "sandy beach": [V], [P] and [B] '
            "are added for you."
        )


def own_places(pictures: Sequence[Tensor], names: Sequence[str], resolution: int) -> Places:
    """The user's pictures [H, W, 3] in the order of their names, as squares from their middle.

    Raises ValueError for another count and for a picture smaller than the resolution.
    """
    if len(pictures) != len(names):
        raise ValueError(
            f"There are {len(pictures)} place pictures but {len(names)} names. Write one name for "
            "each picture, in the same order, one a line."
        )
    squares = [square_middle(p, name, resolution) for p, name in zip(pictures, names, strict=True)]
    return Places(torch.stack(squares), tuple(names))


def square_middle(picture: Tensor, name: str, resolution: int) -> Tensor:
    """The middle [S, S, 3] of a picture [H, W, 3]. Raises ValueError where it would be enlarged."""
    height, width = picture.shape[:2]
    side = min(height, width)
    if side < resolution:
        raise ValueError(
            f'The picture of the place "{name}" has {width} x {height} pixels, less than the '
            f"training picture's {resolution} x {resolution}. Wire a larger one: its blur, "
            "enlarged, would be learned."
        )
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side].float()
    if side == resolution:
        return square
    size = (resolution, resolution)
    shrunk = F.interpolate(square.movedim(-1, 0)[None], size=size, mode="bicubic", antialias=True)
    return shrunk[0].movedim(0, -1).clamp(0, 1)


def place_files(folder: Path) -> list[tuple[Path, Path]]:
    """The pictures of a folder, each with the text file beside it that names it: beach.jpg and
    beach.txt.

    Raises ValueError for a folder without pictures, and for a picture or a text without the other.
    """
    shown = sorted((p for p in folder.iterdir() if p.is_file()), key=natural_order)
    pictures = {p.stem: p for p in shown if p.suffix.casefold() in SUFFIXES}
    texts = {p.stem: p for p in shown if p.suffix.casefold() == ".txt"}
    if not pictures:
        raise ValueError(
            f"There is no place picture in {folder}. Put PNG, JPEG or WebP files there, each with "
            "a text file beside it: beach.jpg and beach.txt."
        )
    for stem in pictures.keys() - texts.keys():
        raise ValueError(
            f"The place picture {pictures[stem].name} has no {stem}.txt beside it. Write there "
            "what the place is called, such as sandy beach."
        )
    for stem in texts.keys() - pictures.keys():
        raise ValueError(
            f"{texts[stem].name} names a place that has no picture. Put {stem}.jpg beside it, or "
            "take the text out of the folder."
        )
    return [(path, texts[stem]) for stem, path in pictures.items()]


def places_in(folder: Path, resolution: int) -> Places:
    """The pictures of a folder and their names; raises as `place_files` and `own_places` do."""
    files = place_files(folder)
    names = [place_names(text.read_text(encoding="utf-8"))[0] for _, text in files]
    pictures = [read_photo(PhotoFile(picture, None)).pixels for picture, _ in files]
    return own_places(pictures, names, resolution)
