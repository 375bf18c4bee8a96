"""The photos of a subject, checked and turned into what a training step needs."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..prompt.grammar import attribute_word
from .checks import check_class_word, check_photo
from .framing import Framing, place, sample_framing_of

BLANK_COLOURS = {"white": 1.0, "grey": 0.5, "black": 0.0}
RANDOM_BLANKS = 8  # differently coloured copies of each blanked photo
THUMBNAIL = 128  # pixels, for the contact sheet


@dataclass(frozen=True)
class Subject:
    """N photos of one subject, encoded once. K copies of each differ in scale or blank colour."""

    class_word: str
    attribute: str  # "pose" or "view": the word after [P]
    features: Tensor  # [N, F] CLIP image embeddings of the original photos
    latents: Tensor  # [N, K, 4, h, w]
    blanked: Tensor  # [N, K, 4, h, w], background replaced by a solid colour before the VAE
    masks: Tensor  # [N, K, h, w] in [0, 1], 1 = subject
    valid: Tensor  # [N, K, h, w], 0 where a shrunken copy has no photo
    sizes: Tensor  # [N, K, 6], what Stable Diffusion XL is told of each copy: see `copy_sizes`
    prefixes: tuple[tuple[str, ...], ...]  # [N][K], caption of the scaled copy
    photo_hashes: tuple[str, ...]
    thumbnails: Tensor  # [N, 128, 128, 3] uint8
    encode: Callable[[Tensor], Tensor]  # pixels [B, S, S, 3] -> latents [B, 4, h, w]
    decode: Callable[[Tensor], Tensor | None]  # back, for previews; None where there is no room
    resolution: int  # S, pixels

    @property
    def count(self) -> int:
        return len(self.photo_hashes)


def square_crop(photo: Tensor, mask: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """The square that holds most of the subject, at S x S pixels.

    photo [H, W, 3], mask [H, W] -> [S, S, 3], [S, S]. Along the longer side the square is centred
    on the subject, so that an off-centre subject is not cut off.
    """
    top, left, side = square_of(mask)
    both = torch.cat([photo.movedim(-1, 0), mask[None]])[:, top : top + side, left : left + side]
    if side != resolution:
        size = (resolution, resolution)
        both = F.interpolate(both[None], size=size, mode="bicubic", antialias=True)[0]
    both = both.clamp(0, 1)
    return both[:3].movedim(0, -1), both[3]


def square_of(mask: Tensor) -> tuple[int, int, int]:
    """Top, left and side of the square in a mask [H, W], in pixels."""
    height, width = mask.shape
    side = min(height, width)
    centre_y = (mask.sum(1) * torch.arange(height)).sum() / mask.sum()
    centre_x = (mask.sum(0) * torch.arange(width)).sum() / mask.sum()
    top = int((centre_y - side / 2).round().clamp(0, height - side))
    left = int((centre_x - side / 2).round().clamp(0, width - side))
    return top, left, side


def copy_sizes(mask: Tensor, framings: Sequence[Framing], resolution: int) -> Tensor:
    """[K, 6] pixels: height and width of the photo before anything was done to it; top and left of
    what a copy shows, at the copy's scale; height and width of the training picture.
    """
    (height, width), (top, left, side) = mask.shape, square_of(mask)
    rows = []
    for framing in framings:
        scale = framing.size / side
        cut_top = round(top * scale) + max(-framing.top, 0)
        cut_left = round(left * scale) + max(-framing.left, 0)
        rows.append((height, width, cut_top, cut_left, resolution, resolution))
    return torch.tensor(rows)


def blank_colours(blank: str, copies: int, generator: torch.Generator) -> Tensor:
    """The colours [copies, 3] that stand for the background of blanked photos."""
    if blank == "random":
        return torch.rand(copies, 3, generator=generator)
    return torch.full((copies, 3), BLANK_COLOURS[blank])


def latent_grid(plane: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, S, S] pixels -> [B, h, w] cells: the mean of each cell's area."""
    return F.interpolate(plane[:, None], size=grid, mode="area")[:, 0]


def subject_cells(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks [B, S, S] -> [B, h, w] bool: the cells of which the subject covers more than half; of a
    subject so thin or small that there are none, those it covers most.
    """
    covered = latent_grid(masks, grid)
    most = covered.amax((-2, -1), keepdim=True)
    return torch.where(most > 0.5, covered > 0.5, (covered == most) & (most > 0))


def make_subject(
    photos: list[Tensor],
    masks: list[Tensor],
    see: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    class_word: str,
    *,
    attribute: str = "auto",
    resolution: int = 512,
    blank: str = "white",
    scaled_copies: int = 0,
    seed: int = 0,
    decode: Callable[[Tensor], Tensor | None] = lambda latents: None,
    report: Callable[[int], object] = lambda done: None,
) -> Subject:
    """Crop, blank, scale and encode N photos.

    photos: N of [H, W, 3] in [0, 1], any sizes; masks: N of [H, W], 1 = subject;
    see: square photos [N, S, S, 3] -> features [N, F]; encode: pixels [B, S, S, 3] -> latents
    [B, 4, h, w]; decode: the way back, for previews, or None where there is no room for it;
    report: hears after each photo how many are done.
    Raises ValueError for unusable masks, photos or class words.
    """
    class_word = check_class_word(class_word)
    cropped, masks = [], [mask.float() for mask in masks]
    for number, (photo, mask) in enumerate(zip(photos, masks, strict=True), start=1):
        check_photo(number, photo, mask)
        cropped.append(square_crop(photo.float(), mask, resolution))

    generator = torch.Generator().manual_seed(seed)
    copies = max(scaled_copies, RANDOM_BLANKS if blank == "random" else 1)
    views, sizes = [], []
    for (photo, mask), original in zip(cropped, masks, strict=True):
        framings = [Framing(resolution, 0, 0, "")] * copies
        if scaled_copies:
            framings = [sample_framing_of(mask, generator) for _ in range(copies)]
        colours = blank_colours(blank, copies, generator)
        views.append(_views(photo, mask, framings, colours, encode))
        report(len(views))
        sizes.append(copy_sizes(original, framings, resolution))
    squares = torch.stack([photo for photo, _ in cropped])
    return Subject(
        class_word=class_word,
        attribute=attribute_word(class_word) if attribute == "auto" else attribute,
        features=see(squares).float(),
        latents=torch.stack([view.latents for view in views]),
        blanked=torch.stack([view.blanked for view in views]),
        masks=torch.stack([view.masks for view in views]),
        valid=torch.stack([view.valid for view in views]),
        sizes=torch.stack(sizes),
        prefixes=tuple(view.prefixes for view in views),
        photo_hashes=tuple(photo_hash(photo) for photo in photos),
        thumbnails=thumbnails_of(squares),
        encode=encode,
        decode=decode,
        resolution=resolution,
    )


class _Views(NamedTuple):
    """The K copies of one photo."""

    latents: Tensor  # [K, 4, h, w]
    blanked: Tensor  # [K, 4, h, w]
    masks: Tensor  # [K, h, w]
    valid: Tensor  # [K, h, w]
    prefixes: tuple[str, ...]


def _views(
    photo: Tensor,
    mask: Tensor,
    framings: Sequence[Framing],
    colours: Tensor,  # [K, 3]
    encode: Callable[[Tensor], Tensor],
) -> _Views:
    """Frame, blank and encode a square photo [S, S, 3] with its mask [S, S]."""
    size = photo.shape[0]
    picture, plane = photo.movedim(-1, 0), mask[None]
    grey, nothing = torch.full((3,), 0.5), torch.zeros(1)
    full = torch.stack([place(picture, f, size, grey) for f in framings])
    masks = torch.cat([place(plane, f, size, nothing) for f in framings])
    inside = torch.cat([place(torch.ones_like(plane), f, size, nothing) for f in framings])
    alone = masks[:, None] * full + (1 - masks[:, None]) * colours[:, :, None, None]
    latents = encode_distinct(full, framings, encode)
    of_blanked = list(zip(framings, map(tuple, colours.tolist()), strict=True))
    grid = (latents.shape[-2], latents.shape[-1])
    return _Views(
        latents=latents,
        blanked=encode_distinct(alone, of_blanked, encode),
        masks=latent_grid(masks, grid),
        valid=erode(latent_grid(inside, grid)),
        prefixes=tuple(f.prefix for f in framings),
    )


def encode_distinct(
    pictures: Tensor, kinds: Sequence[Hashable], encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Pictures [K, 3, S, S] -> latents [K, 4, h, w]. Those of one kind are equal, as many copies
    that show the plain photo, and are encoded once.
    """
    distinct = list(dict.fromkeys(kinds))
    shown = pictures[[kinds.index(kind) for kind in distinct]]
    latents = encode(shown.movedim(1, -1)).float()
    return latents[[distinct.index(kind) for kind in kinds]]


def erode(inside: Tensor) -> Tensor:
    """Keep the cells [B, h, w] whose whole neighbourhood lies in the photo; 1 or 0."""
    padded = F.pad(inside[:, None], (1, 1, 1, 1), value=1.0)
    return (-F.max_pool2d(-padded, 3, stride=1)[:, 0] > 0.999).float()


def thumbnails_of(squares: Tensor) -> Tensor:
    """[N, S, S, 3] in [0, 1] -> [N, 128, 128, 3] uint8."""
    size = (THUMBNAIL, THUMBNAIL)
    small = F.interpolate(squares.movedim(-1, 1), size=size, mode="bilinear", antialias=True)
    return (small.movedim(1, -1) * 255).round().to(torch.uint8)


def photo_hash(photo: Tensor) -> str:
    """Content hash of a photo [H, W, 3]: the same picture keeps its numbers wherever it lies."""
    pixels = (photo.clamp(0, 1) * 255).round().to(torch.uint8).contiguous().cpu()
    return hashlib.sha256(pixels.numpy().tobytes() + str(tuple(pixels.shape)).encode()).hexdigest()
