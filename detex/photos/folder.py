"""A folder of photos and their masks: found in a stable order, read, known by their content."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff")
MASK_ENDING = ".mask.png"  # dog.jpg has its mask in dog.mask.png


class PhotoFile(NamedTuple):
    photo: Path
    mask: Path | None


class Photo(NamedTuple):
    name: str
    pixels: Tensor  # [H, W, 3] in [0, 1]
    mask: Tensor  # [H, W], 1 = subject; all 0 where there is none
    mask_from: str  # its file, "alpha channel" or "no mask"


def folder_of(text: str, home: Path) -> Path:
    """The folder that a user typed or pasted; a relative one lies in `home`.

    Quotes and spaces around it, as Windows copies them, do no harm. Raises ValueError where there
    is no such folder.
    """
    plain = text.strip().strip("\"'").strip()
    if not plain:
        raise ValueError(
            "No folder is given. Type the path of the folder with your photos, such as "
            "~/photos/my_dog, or the name of a folder in ComfyUI's input folder."
        )
    folder = home / Path(plain).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ValueError(f"{folder} is a file. Give the folder that it lies in: {folder.parent}")
    raise ValueError(
        f"There is no folder {folder}. Copy its path from your file manager; the path must exist "
        "on the machine that runs ComfyUI."
    )


def natural_order(path: Path) -> tuple:
    """A sorting key: photo2 before photo10, capitals beside small letters."""
    parts = re.split(r"(\d+)", path.name.casefold())
    numbered = tuple((int(p), "") if i % 2 else (0, p) for i, p in enumerate(parts))
    return numbered, path.name


def photo_files(folder: Path) -> list[PhotoFile]:
    """The photos of `folder` in natural order, each with its mask file.

    Raises ValueError for a folder without photos and for a mask without its photo.
    """
    shown = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    shown.sort(key=natural_order)
    masks = {p.name.casefold().removesuffix(MASK_ENDING): p for p in shown if is_mask(p)}
    photos = [p for p in shown if p.suffix.casefold() in SUFFIXES and not is_mask(p)]
    if not photos:
        raise ValueError(
            f"There is no photo in {folder}. Put 3 to 5 pictures of your subject there, as "
            "PNG, JPEG or WebP files."
        )
    files = [PhotoFile(photo, masks.pop(photo.stem.casefold(), None)) for photo in photos]
    if masks:
        stray = next(iter(masks.values()))
        raise ValueError(
            f"The mask {stray.name} has no photo beside it. The mask of dog.jpg is called "
            "dog.mask.png: rename it, or take it out of the folder."
        )
    return files


def is_mask(path: Path) -> bool:
    return path.name.casefold().endswith(MASK_ENDING)


def files_hash(files: Iterable[Iterable[Path | None]]) -> str:
    """Changes with the content, order or names of the files, and with nothing else."""
    digest = hashlib.sha256()
    for path in (path for pair in files for path in pair if path is not None):
        digest.update(os.fsencode(path.name) + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_photo(files: PhotoFile) -> Photo:
    """One photo with its mask, both turned as the camera was held.

    The mask comes from its file, else from the photo's transparency. A mask file of the shape that
    the photo has before it is turned is turned with it.
    Raises ValueError by file name for what cannot be read and for a mask of another shape.
    """
    stored, orientation = _opened(files.photo)
    shown = _turned(stored, orientation)
    pixels = torch.from_numpy(np.asarray(_rgb(shown)).astype(np.float32) / 255)
    if files.mask is None:
        mask = _alpha(shown)
        source = "alpha channel" if mask is not None else "no mask"
        return Photo(
            files.photo.name,
            pixels,
            torch.zeros(pixels.shape[:2]) if mask is None else mask,
            source,
        )
    plane = _turned(*_opened(files.mask))
    if plane.size != shown.size and plane.size == stored.size:
        plane = _turned(plane, orientation)
    if plane.size != shown.size:
        raise ValueError(
            f"{files.mask.name} has {plane.width}x{plane.height} pixels, but its photo "
            f"{files.photo.name} has {shown.width}x{shown.height}. Draw the mask over this photo, "
            "or save both at one size."
        )
    return Photo(files.photo.name, pixels, _plane(plane), files.mask.name)


def _opened(path: Path) -> tuple[Image.Image, int]:
    """The decoded picture as stored, and its EXIF orientation (1 to 8, 1 = upright)."""
    try:
        with Image.open(path) as image:
            image.load()
            return image, image.getexif().get(ExifTags.Base.Orientation, 1)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path.name} cannot be read: it is no picture, or of a kind that Pillow does not know "
            "here (HEIC needs a Pillow plug-in). Save it as PNG or JPEG."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path.name} cannot be read ({error}). Copy it again from the camera, or take it out "
            "of the folder."
        ) from error


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip them
        deep = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(deep.clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _alpha(image: Image.Image) -> Tensor | None:
    """The opaque part [H, W] of a picture; None where nothing is transparent."""
    if not image.has_transparency_data:
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A")).astype(np.float32) / 255
    return torch.from_numpy(alpha) if alpha.min() < 1 else None


def _plane(image: Image.Image) -> Tensor:
    """A mask file [H, W]: its transparency where it has some, else its brightness."""
    alpha = _alpha(image)
    if alpha is not None:
        return alpha
    return torch.from_numpy(np.asarray(_rgb(image).convert("L")).astype(np.float32) / 255)


def check_distinct(hashes: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError where two files hold the same picture."""
    first: dict[str, str] = {}
    for photo, name in zip(hashes, names, strict=True):
        if photo in first:
            raise ValueError(
                f"{first[photo]} and {name} are the same picture, which would train under two "
                "numbers. Take one of them out of the folder."
            )
        first[photo] = name


def in_known_order(hashes: Sequence[str], names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Places of the photos such that those of a concept keep its numbers; new ones follow.

    hashes, names: of the folder's photos, in its order; known: the concept's photo hashes.
    Raises ValueError where one of its photos is not in the folder.
    """
    gone = [f"P{i}" for i, photo in enumerate(known, start=1) if photo not in hashes]
    if gone:
        raise ValueError(
            f"The photo behind {', '.join(gone)} of the wired concept is not in the folder, or was "
            "changed, so the numbers after it would shift. Put the photo back, or unwire the "
            f"concept to number anew: {', '.join(names)}."
        )
    kept = [hashes.index(photo) for photo in known]
    return kept + [i for i in range(len(hashes)) if i not in kept]
