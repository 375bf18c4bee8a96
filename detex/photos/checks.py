"""What Subject Images refuses: photos, masks and class words that would spoil the training."""

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .crop import CROWDED

OTHER_SHAPE = 0.05  # natural logarithm of two aspect ratios' ratio: rounding makes less
OVERSHOOT = 0.5  # of the range 0 to 1: sharpening filters make some
CELL = 8  # pixels of a latent cell
SMALLEST = 64  # pixels, of either side of a photo
CAPTION = re.compile(  # what captions add themselves
    r"^(?:(?:an? |the )?(?:photo|picture|image) of )?(?:(?:an?|the|my)(?: |$))?", re.IGNORECASE
)


def check_sizes(photos: Sequence[Tensor]) -> None:
    """Raise ValueError for no photos, and for one [H, W, 3] that shows too little to learn from."""
    if not photos:
        raise ValueError(
            "There are no photos: the batch that is wired into images is empty. Wire 3 to 5 photos."
        )
    for number, photo in enumerate(photos, start=1):
        height, width = photo.shape[:2]
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"Photo {number} has {width} x {height} pixels; a side of {SMALLEST} is the least "
                "that can be learned from. Wire a larger copy of it, or leave it out."
            )


def matched_masks(photos: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """One mask [H, W] a photo [H, W, 3], at its size. Raises ValueError for another count or shape;
    an empty mask has any shape, as Load Image makes it.
    """
    if len(photos) != len(masks):
        raise ValueError(
            f"There are {len(photos)} photos but {len(masks)} masks. Wire one mask for each "
            "photo, in the same order."
        )
    return [
        fitted_mask(f"photo {number}", mask, photo)
        for number, (photo, mask) in enumerate(zip(photos, masks, strict=True), 1)
    ]


def fitted_mask(whose: str, mask: Tensor, photo: Tensor) -> Tensor:
    """The mask [h, w] at the size of its photo [H, W, 3]. Raises ValueError for another shape."""
    (height, width), (tall, wide) = photo.shape[:2], mask.shape
    if mask.any() and abs(math.log(width * tall / (height * wide))) > OTHER_SHAPE:
        raise ValueError(
            f"The mask of {whose} has {wide} x {tall} pixels, the photo {width} x {height}: "
            "another shape. Wire the mask that was made from this photo, in the order of the "
            "others."
        )
    return F.interpolate(mask[None, None].float(), size=photo.shape[:2], mode="bilinear")[0, 0]


def check_resolution(resolution: int) -> None:
    """Raise ValueError for a side of the training picture that is not of whole latent cells."""
    if resolution < CELL or resolution % CELL:
        nearest = max(round(resolution / CELL), 1) * CELL
        raise ValueError(
            f"The resolution is {resolution}; a VAE makes a latent cell of {CELL} pixels, so it "
            f"must be a multiple of {CELL}, and best of 64. Take {nearest}."
        )


def check_picture(name: str, photo: Tensor) -> None:
    """Raise ValueError for pixels [..., 3] that are no picture's; name: "Photo 2"."""
    if not torch.isfinite(photo).all():
        raise ValueError(
            f"{name} holds NaN or infinite pixels. Load it again from its file, or make it anew."
        )
    low, high = photo.min().item(), photo.max().item()
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(
            f"{name} has values from {low:.4g} to {high:.4g}; those of an IMAGE lie "
            "between 0 and 1. The node that made it scales them otherwise: divide by the highest "
            "value that it can have, such as 255, or load the photo with Load Image."
        )


def check_mask(whose: str, mask: Tensor) -> None:
    """Raise ValueError for a mask [H, W] that would spoil the training; whose: "photo 2"."""
    if not torch.isfinite(mask).all():
        raise ValueError(f"The mask of {whose} holds NaN or infinite values. Make it anew.")
    low, high = mask.min().item(), mask.max().item()
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(
            f"The mask of {whose} has values from {low:.4g} to {high:.4g}; a MASK is 0 on "
            "the background and 1 on the subject. Divide it by its highest value."
        )
    area = mask.mean().item()
    if area < 0.01:
        raise ValueError(
            f"The mask of {whose} is empty (it covers {area:.1%} of the photo). Paint the "
            "subject white in the MaskEditor, or wire a segmentation node's MASK. Load Image gives "
            "an empty mask for a picture without transparency."
        )
    if high <= 0.5:
        raise ValueError(
            f"The mask of {whose} is grey: its highest value is {high:.2f}, and 1 is the "
            "subject. Raise its strength to 1, or threshold it."
        )
    if area > CROWDED:
        raise ValueError(
            f"The mask of {whose} covers {area:.0%} of the photo, so there is no background "
            "to tell the subject from. Mask the subject alone."
        )
    border = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean().item()
    if border > 0.9:
        raise ValueError(
            f"The mask of {whose} looks inverted: it covers the photo's border. Put an "
            "Invert Mask node between the mask and this node (Load Image's MASK is inverted alpha)."
        )


def check_subject(name: str, mask: Tensor) -> None:
    """Raise ValueError where the square that is trained on shows too little, mask [S, S]; name:
    "The subject of photo 2".
    """
    area = mask.mean().item()
    if area < 0.01:
        raise ValueError(
            f"{name} covers {area:.2%} of the square that is trained on, "
            "and 1% is the least that can be learned from. Its parts lie far apart in a long "
            "photo: crop the photo to the subject, or mask one part."
        )


def check_distinct(hashes: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError where two photos are the same picture."""
    first: dict[str, str] = {}
    for photo, name in zip(hashes, names, strict=True):
        if photo in first:
            raise ValueError(
                f"{first[photo]} and {name} are the same picture, which would train under two "
                "numbers. Leave one of them out."
            )
        first[photo] = name


def check_class_word(class_word: str) -> str:
    """The word as captions use it. Raises ValueError where it is missing or is a placeholder."""
    word = " ".join(class_word.split())
    if not word:
        raise ValueError(
            'The class word is empty. Name what the photos show, such as "dog" or "boot".'
        )
    if re.search(r"[\[\]<>,():{}|\\［］【】＜＞，（）：｛｝｜]", word):
        raise ValueError(
            f'The class word "{class_word}" must be plain words such as "dog" or "rubber duck": '
            "the placeholder [V] is added for you."
        )
    noun = CAPTION.sub("", word)
    if noun != word:
        raise ValueError(
            f'The class word "{class_word}" is more than a name: write "{noun or "dog"}". The '
            'captions add "photo of a" for you.'
        )
    return word
