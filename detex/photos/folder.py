"""A folder of photos and their masks: found in a stable order, read, known by their content."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from .names import MASK_ENDINGS, SUFFIXES
from .pixels import alpha_of, mask_of, rgb_of

ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")  # a JPEG may hold a second picture of its own


class PhotoFile(NamedTuple):
    photo: Path
    mask: Path | None


class Photo(NamedTuple):
    name: str
    pixels: Tensor  # [H, W, 3] in [0, 1]
    mask: Tensor  # [H, W], 1 = subject; all 0 where there is none
    mask_from: str  # its file, "alpha channel" or "no mask"
    frames: int = 1  # of the file; the first one is read


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
    try:
        folder = home / Path(plain).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{plain} begins with a user that this machine does not know. Write ~/ for your own "
            "home folder, or the whole path."
        ) from error
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

    Raises ValueError for a folder without photos, for a mask without its photo, and where two masks
    or two photos could be meant.
    """
    shown = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    pictures = [p for p in sorted(shown, key=natural_order) if p.suffix.casefold() in SUFFIXES]
    names = {stem_of(picture) for picture in pictures}
    names |= {name.casefold() for name in names}
    masks = [p for p in pictures if is_mask(p, names)]
    photos = [p for p in pictures if p not in masks]
    if not photos:
        raise ValueError(
            f"There is no photo in {folder}. Put 3 to 5 pictures of your subject there, as "
            "PNG, JPEG or WebP files."
        )
    found = {mask: photo_of(mask, photos) for mask in masks}
    return [PhotoFile(photo, the_mask(photo, found)) for photo in photos]


def stem_of(path: Path) -> str:
    """The name without its ending; accents in one form, as file systems keep them in either."""
    return unicodedata.normalize("NFC", path.stem)


def masked_name(path: Path) -> str | None:
    """The name of the photo whose mask a file is by its own name; None where it is no mask's."""
    stem = stem_of(path)
    ending = next((end for end in MASK_ENDINGS if stem.casefold().endswith(end)), None)
    return stem[: -len(ending)] if ending else None


def is_mask(path: Path, names: Collection[str]) -> bool:
    """gas_mask.jpg is a photo where there is no gas.jpg; dog.mask.png is always a mask."""
    name = masked_name(path)
    if name is None:
        return False
    return stem_of(path).casefold().endswith(MASK_ENDINGS[0]) or name.casefold() in names


def photo_of(mask: Path, photos: Sequence[Path]) -> Path:
    """The photo of a mask: the one of the same name, else of the same but for capitals."""
    name = masked_name(mask) or ""
    same = [photo for photo in photos if stem_of(photo) == name]
    alike = same or [photo for photo in photos if stem_of(photo).casefold() == name.casefold()]
    if not alike:
        raise ValueError(
            f"The mask {mask.name} has no photo beside it. The mask of dog.jpg is called "
            "dog.mask.png: rename it, or take it out of the folder."
        )
    if len(alike) > 1:
        raise ValueError(
            f"The mask {mask.name} could be that of {alike[0].name} or of {alike[1].name}. Give "
            "the photos different names, and the mask the name of one of them."
        )
    return alike[0]


def the_mask(photo: Path, found: Mapping[Path, Path]) -> Path | None:
    masks = [mask for mask, its_photo in found.items() if its_photo == photo]
    if len(masks) > 1:
        raise ValueError(
            f"{photo.name} has two masks, {masks[0].name} and {masks[1].name}. Take one of them "
            "out of the folder."
        )
    return masks[0] if masks else None


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
    stored, orientation, frames = _opened(files.photo)
    shown = _turned(stored, orientation)
    pixels = rgb_of(shown, files.photo.name)
    if files.mask is None:
        mask = alpha_of(shown)
        source = "alpha channel" if mask is not None else "no mask"
        plane = torch.zeros(pixels.shape[:2]) if mask is None else mask
        return Photo(files.photo.name, pixels, plane, source, frames)
    drawn, drawn_orientation, _ = _opened(files.mask)
    plane = _turned(drawn, drawn_orientation)
    if plane.size != shown.size and plane.size == stored.size:
        plane = _turned(plane, orientation)
    if plane.size != shown.size:
        raise ValueError(
            f"{files.mask.name} has {plane.width}x{plane.height} pixels, but its photo "
            f"{files.photo.name} has {shown.width}x{shown.height}. Draw the mask over this photo, "
            "or save both at one size."
        )
    mask = mask_of(plane, files.mask.name)
    return Photo(files.photo.name, pixels, mask, files.mask.name, frames)


def _opened(path: Path) -> tuple[Image.Image, int, int]:
    """The decoded picture as stored, its EXIF orientation (1 to 8, 1 = upright), its frames."""
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
            image.load()
            return image.copy(), image.getexif().get(ExifTags.Base.Orientation, 1), frames
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path.name} cannot be read: it is no picture, or of a kind that Pillow does not know "
            "here (HEIC needs a Pillow plug-in). Save it as PNG or JPEG."
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path.name} has more pixels than Pillow reads ({error}). Training sees 512 or 1024 "
            "pixels of it: save a smaller copy, of 4000 pixels a side or less."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
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
