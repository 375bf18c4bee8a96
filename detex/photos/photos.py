"""Photos, checked and turned into what a training step needs: the value `Photos`."""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..prompt.grammar import Named, attribute_word
from .checks import check_class_word, check_distinct, check_mask, check_picture, check_subject
from .crop import BORDER, Crop, Square, crop
from .framing import Framing, place, sample_framing_of

BLANK_COLOURS = {"white": 1.0, "grey": 0.5, "black": 0.0}
RANDOM_BLANKS = 8  # differently coloured copies of each blanked photo
THUMBNAIL = 128  # pixels, for the contact sheet


Encode = Callable[[Tensor], Tensor]  # pixels [B, S, S, 3] -> latents [B, 4, h, w]
Decode = Callable[[Tensor], Tensor | None]  # back, for previews; None where there is no room


class Said(NamedTuple):
    """What a composite's prompt has beside the class: learned words, and a place by name."""

    words: str  # "V", "VP" or "VB"
    place: str  # "" where [B] says it


@dataclass(frozen=True)
class Composites:
    """K pictures for the words of each photo: its subject, or another photo's, elsewhere."""

    latents: Tensor  # [N, K, 4, h, w]
    masks: Tensor  # [N, K, h, w] in [0, 1], 1 = subject
    valid: Tensor  # [N, K, h, w], 0 where the ground is made up
    said: tuple[tuple[Said, ...], ...]  # [N][K]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in ("latents", "masks", "valid"):
            yield name, getattr(self, name)

    def for_training(self, scale: Callable[[Tensor], Tensor]) -> "Composites":
        copies = {name: tensor.clone() for name, tensor in self.tensors()}
        return replace(self, **copies | {"latents": scale(copies["latents"])})


@dataclass(frozen=True)
class Photos:
    """N photos, encoded once: plain data. K copies of each differ in scale or blank colour.

    Without masks there is no `blanked`; `features` are there where an image encoder was.
    """

    named: tuple[Named, ...]  # what they show
    latents: Tensor  # [N, K, 4, h, w]
    blanked: Tensor | None  # [N, K, 4, h, w], background replaced by a colour before the VAE
    # [N, K, h, w] in [0, 1], 1 = subject; of M concepts in each photo [N, K, M, h, w]
    masks: Tensor | None
    valid: Tensor  # [N, K, h, w], 0 where a shrunken copy has no photo
    size_ids: Tensor  # [N, K, 6], what Stable Diffusion XL is told of each copy: see `copy_sizes`
    features: Tensor | None  # [N, F] image embeddings of the original photos
    prefixes: tuple[tuple[str, ...], ...]  # [N][K], caption of the scaled copy
    hashes: tuple[str, ...]
    thumbnails: Tensor  # [N, 128, 128, 3] uint8
    resolution: int  # S, pixels
    composites: Composites | None = None  # in place of `blanked`
    places: tuple[str, ...] = ()  # [N], what prompts call each background; "" where nothing does

    @property
    def count(self) -> int:
        return len(self.hashes)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All that a training reads, by name: for moving, cloning and hashing."""
        for name in ("features", "latents", "blanked", "masks", "valid", "size_ids"):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor
        for name, tensor in self.composites.tensors() if self.composites else ():
            yield f"composites.{name}", tensor

    def for_training(self, scale: Callable[[Tensor], Tensor]) -> "Photos":
        """Latents as the UNet reads them, and every tensor usable by autograd: nodes make tensors
        in torch.inference_mode, and autograd takes only copies made outside of it.
        """
        own = (pair for pair in self.tensors() if "." not in pair[0])
        copies = {name: tensor.clone() for name, tensor in own}
        latents = {name: scale(copies[name]) for name in ("latents", "blanked") if name in copies}
        composites = self.composites.for_training(scale) if self.composites else None
        return replace(self, **copies | latents, composites=composites)


class Looks(NamedTuple):
    """What tells whether a picture looks like the subject."""

    photos: Tensor  # [N, F] image embeddings, of the subject alone where there are masks
    see: Callable[[Tensor], Tensor | None]  # pictures [n, H, W, 3] -> [n, F]; None without room


class Subject(NamedTuple):
    """What Subject Images hands on: the photos, and the two ways of the VAE that encoded them, for
    prior images and for previews; and what previews are compared with, where that is known.
    """

    photos: Photos
    encode: Encode
    decode: Decode
    looks: Looks | None = None


def copy_sizes(
    height: int, width: int, square: Square, framings: Sequence[Framing], resolution: int
) -> Tensor:
    """[K, 6] pixels: height and width of the photo before anything was done to it; top and left of
    what a copy shows, at the copy's scale; height and width of the training picture.
    """
    rows = []
    for framing in framings:
        scale = framing.size / square.side
        cut_top = round(max(square.top, 0) * scale) + max(-framing.top, 0)
        left = width - square.left - square.side if framing.mirrored else square.left
        cut_left = round(max(left, 0) * scale) + max(-framing.left, 0)
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


def make_photos(
    photos: list[Tensor],
    masks: list[Tensor] | None,
    encode_image: Callable[[Tensor], Tensor] | None,
    encode: Encode,
    class_word: str,
    *,
    attribute: str = "auto",
    resolution: int = 512,
    blank: str | None = "white",
    scaled_copies: int = 0,
    seed: int = 0,
    report: Callable[[int], object] = lambda done: None,
) -> Photos:
    """Crop, blank, scale and encode N photos of one subject.

    photos: N of [H, W, 3] in [0, 1], any sizes; masks: N of [H, W], 1 = subject, or None; blank:
    None where composites take its place;
    encode_image: square photos [N, S, S, 3] -> features [N, F], or None; report: hears after each
    photo how many are done.
    Raises ValueError for unusable masks, photos or class words.
    """
    class_word = check_class_word(class_word)
    crops = checked_crops(photos, masks, resolution)
    hashes = tuple(photo_hash(photo) for photo in photos)
    check_distinct(hashes, [f"Photo {number}" for number in range(1, len(photos) + 1)])
    generator = torch.Generator().manual_seed(seed)
    copies = max(scaled_copies, RANDOM_BLANKS if blank == "random" and masks is not None else 1)
    views, sizes = [], []
    for photo, cut in zip(photos, crops, strict=True):
        framings = [Framing(resolution, 0, 0, "")] * copies
        if scaled_copies:
            framings = [sample_framing_of(cut.mask[None], generator) for _ in range(copies)]
        blanks = blank if masks is not None else None
        colours = blank_colours(blanks, copies, generator) if blanks else None
        views.append(framed_views(cut, framings, colours, encode))
        report(len(views))
        height, width = photo.shape[:2]
        sizes.append(copy_sizes(height, width, cut.square, framings, resolution))
    squares = torch.stack([cut.picture for cut in crops])
    chosen = attribute_word(class_word) if attribute == "auto" else attribute
    blanked = [view.blanked for view in views if view.blanked is not None]
    return Photos(
        named=(Named("V", class_word, chosen, tuple(range(1, len(photos) + 1))),),
        features=None if encode_image is None else encode_image(squares).float(),
        latents=torch.stack([view.latents for view in views]),
        blanked=torch.stack(blanked) if blanked else None,
        masks=None if masks is None else torch.stack([view.masks for view in views]),
        valid=torch.stack([view.valid for view in views]),
        size_ids=torch.stack(sizes),
        prefixes=tuple(view.prefixes for view in views),
        hashes=hashes,
        thumbnails=thumbnails_of(squares),
        resolution=resolution,
    )


def checked_crops(
    photos: Sequence[Tensor], masks: Sequence[Tensor] | None, resolution: int
) -> list[Crop]:
    """The squares that training sees. Raises ValueError for what cannot be learned from."""
    crops = []
    for number, photo in enumerate(photos, start=1):
        check_picture(f"Photo {number}", photo)
        if masks is None:
            crops.append(crop(photo.float(), None, resolution))
            continue
        mask = masks[number - 1].float()
        check_mask(f"photo {number}", mask)
        crops.append(crop(photo.float(), mask, resolution))
        check_subject(f"The subject of photo {number}", crops[-1].mask)
    return crops


class Views(NamedTuple):
    """The K copies of one photo."""

    latents: Tensor  # [K, 4, h, w]
    blanked: Tensor | None  # [K, 4, h, w]
    masks: Tensor  # [K, h, w]
    valid: Tensor  # [K, h, w]
    prefixes: tuple[str, ...]


def framed_views(
    cut: Crop,
    framings: Sequence[Framing],
    colours: Tensor | None,  # [K, 3]; None: no copies on a blank
    encode: Callable[[Tensor], Tensor],
) -> Views:
    """Frame, blank and encode a square photo."""
    size = cut.picture.shape[0]
    grey, nothing = torch.full((3,), BORDER), torch.zeros(1)
    full = torch.stack([place(cut.picture.movedim(-1, 0), f, size, grey) for f in framings])
    masks = torch.cat([place(cut.mask[None], f, size, nothing) for f in framings])
    inside = torch.cat([place(cut.valid[None], f, size, nothing) for f in framings])
    latents, blanked = encode_distinct(full, framings, encode), None
    if colours is not None:
        alone = masks[:, None] * full + (1 - masks[:, None]) * colours[:, :, None, None]
        of_blanked = list(zip(framings, map(tuple, colours.tolist()), strict=True))
        blanked = encode_distinct(alone, of_blanked, encode)
    grid = (latents.shape[-2], latents.shape[-1])
    return Views(
        latents=latents,
        blanked=blanked,
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
