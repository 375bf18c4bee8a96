"""One photo of several concepts, each with its class word and, where there are any, its mask."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..prompt.grammar import Named, attribute_word
from .checks import (
    check_class_word,
    check_mask,
    check_picture,
    check_sizes,
    check_subject,
    fitted_mask,
)
from .crop import Crop, crop, scaled_square
from .framing import Framing, place, sample_framing_of
from .photos import Encode, Photos, copy_sizes, framed_views, latent_grid, photo_hash, thumbnails_of

MOST = 6  # concepts; the paper shows two and three
COPIES = 24  # of the photo, all but one of them scaled and mirrored at random
SEPARATORS = ",，、\n"


class Scene(NamedTuple):
    """The square of the photo that training sees, and where each concept is in it."""

    crop: Crop  # its mask: all concepts together
    masks: Tensor | None  # [M, S, S] in [0, 1]


def named_concepts(class_words: str) -> tuple[Named, ...]:
    """ "cat, dog" -> [V] cat and [V2] dog. Raises ValueError for none, too many, or no words."""
    parts = re.split(f"[{SEPARATORS}]", class_words.strip(SEPARATORS + " "))
    words = [check_class_word(part.strip()) for part in parts]
    if len(words) > MOST:
        raise ValueError(
            f"There are {len(words)} class words, and {MOST} concepts are the most that one photo "
            "teaches. Keep those that you want to draw; the paper shows two and three."
        )
    return tuple(
        Named("V" if number == 1 else f"V{number}", word, attribute_word(word), (1,))
        for number, word in enumerate(words, start=1)
    )


def only_photo(photos: Sequence[Tensor]) -> Tensor:
    """The one photo [H, W, 3]. Raises ValueError for none or more, and for one that is no photo."""
    if len(photos) != 1:
        raise ValueError(
            f"There are {len(photos)} photos, and the concepts are learned from one. Wire the "
            "photo that shows them all; several photos of one subject go into Subject Images."
        )
    check_sizes(photos)
    check_picture("Photo 1", photos[0])
    return photos[0].float()


def concept_masks(photo: Tensor, masks: Sequence[Tensor], named: Sequence[Named]) -> list[Tensor]:
    """One mask [H, W] a concept, at the size of the photo. Raises ValueError for another count or
    shape, and for masks that cannot be learned from.
    """
    if len(masks) != len(named):
        raise ValueError(
            f"There are {len(masks)} masks for {len(named)} class words "
            f"({', '.join(one.class_word for one in named)}). Wire one mask a class word, in the "
            "order of the words, or none at all."
        )
    fitted = []
    for mask, one in zip(masks, named, strict=True):
        whose = f"[{one.word}] {one.class_word}"
        fitted.append(fitted_mask(whose, mask, photo))
        check_mask(whose, fitted[-1])
    return fitted


def make_scene(
    photo: Tensor, masks: Sequence[Tensor] | None, named: Sequence[Named], resolution: int
) -> Scene:
    """Crop photo [H, W, 3] and masks [H, W] to one square. Raises ValueError where that shows too
    little of a concept.
    """
    if masks is None:
        return Scene(crop(photo, None, resolution), None)
    planes = torch.stack([mask.clamp(0, 1) for mask in masks])
    whole = crop(photo, planes.amax(dim=0), resolution)
    shown = scaled_square(planes, whole.square, torch.zeros(len(planes)), resolution)
    for mask, one in zip(shown, named, strict=True):
        check_subject(f"[{one.word}] {one.class_word}", mask)
    return Scene(whole, shown)


def make_concepts(
    photo: Tensor,
    scene: Scene,
    named: tuple[Named, ...],
    encode: Encode,
    *,
    scaled_copies: int = COPIES,
    seed: int = 0,
) -> Photos:
    """The photo [H, W, 3] as training reads it: its square as it is, and further copies of it up to
    `scaled_copies` in Custom Diffusion's augmentation, half of them mirrored.
    """
    cut, (height, width) = scene.crop, photo.shape[:2]
    resolution = cut.picture.shape[0]
    generator = torch.Generator().manual_seed(seed)
    planes = cut.mask[None] if scene.masks is None else scene.masks
    framings = [Framing(resolution, 0, 0, "")]  # which the scores are taken on
    framings += [sample_copy(planes, generator) for _ in range(scaled_copies - 1)]
    views = framed_views(cut, framings, None, encode)
    masks = None
    if scene.masks is not None:
        nothing, grid = torch.zeros(len(planes)), views.masks.shape[-2:]
        copies = [place(planes, framing, resolution, nothing) for framing in framings]
        masks = torch.stack([latent_grid(copy, (grid[0], grid[1])) for copy in copies])[None]
    return Photos(
        named=named,
        features=None,
        latents=views.latents[None],
        blanked=None,
        masks=masks,
        valid=views.valid[None],
        size_ids=copy_sizes(height, width, cut.square, framings, resolution)[None],
        prefixes=(views.prefixes,),
        hashes=(photo_hash(photo),),
        thumbnails=thumbnails_of(cut.picture[None]),
        resolution=resolution,
    )


def sample_copy(masks: Tensor, generator: torch.Generator) -> Framing:
    """A framing that keeps at least half of each of masks [M, S, S]; one in two is mirrored."""
    mirrored = torch.rand(1, generator=generator).item() < 0.5
    framing = sample_framing_of(masks.flip(-1) if mirrored else masks, generator)
    return replace(framing, mirrored=mirrored)
