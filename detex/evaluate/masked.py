"""The subject alone, and its background alone, for features that see nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..photos.checks import fitted_mask

BLANK = 1.0  # white, as DETEX blanks photos in its paper's mode (section 3.3)
LEAST = 0.001  # of a picture: what is smaller tells an encoder nothing


def subject_alone(
    pictures: Sequence[Tensor], masks: Sequence[Tensor], names: Sequence[str]
) -> list[Tensor]:
    """Pictures [H, W, 3] whose background is white, masks [H, W], 1 = subject.

    names: "photo 1", "picture 3". Raises ValueError where a mask has no subject, and for masks
    that do not belong to the pictures.
    """
    return blanked(pictures, fitted(pictures, masks, names), [f"subject of {n}" for n in names])


def ground_alone(
    pictures: Sequence[Tensor], masks: Sequence[Tensor], names: Sequence[str]
) -> list[Tensor]:
    """Pictures [H, W, 3] whose subject is white. Raises ValueError where a mask has no background,
    and as `subject_alone`.
    """
    grounds = [1 - mask for mask in fitted(pictures, masks, names)]
    return blanked(pictures, grounds, [f"background of {name}" for name in names])


def blanked(
    pictures: Sequence[Tensor], kept: Sequence[Tensor], names: Sequence[str]
) -> list[Tensor]:
    """The part of each picture that is kept, the rest white. Raises ValueError where none is."""
    made = []
    for picture, part, name in zip(pictures, kept, names, strict=True):
        if not torch.isfinite(part).all() or part.mean() < LEAST:
            raise ValueError(
                f"The mask leaves nothing of the {name}. A mask is 1 on the subject and 0 on its "
                "background: paint it, invert it, or leave the masks out."
            )
        part = part.clamp(0, 1)[..., None]
        made.append(picture * part + BLANK * (1 - part))
    return made


def fitted(
    pictures: Sequence[Tensor], masks: Sequence[Tensor], names: Sequence[str]
) -> list[Tensor]:
    """One mask [H, W] a picture, at its size. Raises ValueError for another shape."""
    return [
        fitted_mask(name, mask, picture)
        for name, mask, picture in zip(names, masks, pictures, strict=True)
    ]


def check_mask_count(pictures: Sequence[Tensor], masks: Sequence[Tensor], whose: str) -> None:
    """Raise ValueError where there is not one mask a picture; whose: "photos"."""
    if len(pictures) != len(masks):
        raise ValueError(
            f"There are {len(pictures)} {whose} but {len(masks)} masks. Wire one mask for each, in "
            "the same order, or none."
        )
