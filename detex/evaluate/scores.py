"""Scores on given tensors; nothing here loads a model.

The field's own scores, of features that an encoder made: CLIP-T, CLIP-I and DINO-I as DreamBooth
(arXiv 2208.12242, section 4.1) has them, with plain cosines. All give one number a picture, so
that one road leads from there to a table (averages.py).
"""

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def half_maximum_iou(maps: Tensor, region: Tensor) -> Tensor:
    """Intersection over union of {map >= max / 2} and the region.

    maps [B, h, w], region [B, h, w] bool -> [B] in [0, 1].
    """
    hot = maps >= maps.amax(dim=(1, 2), keepdim=True) / 2
    both = (hot & region).sum(dim=(1, 2))
    either = (hot | region).sum(dim=(1, 2)).clamp(min=1)
    return both / either


def caption_similarity(pictures: Tensor, captions: Tensor) -> Tensor:
    """CLIP-T: each picture and its own caption, which has no [V]: [G, F], [G, F] -> [G]."""
    return matched_cosines("pictures", pictures, "captions", captions)


def photo_similarity(pictures: Tensor, photos: Tensor) -> Tensor:
    """CLIP-I, DINO-I: the mean over all photos, [G, F], [N, F] -> [G]. `fg_ref`: the photos'
    features are those of the subject on a blank; `fg_both`: the pictures' too.
    """
    return cosines("pictures", pictures, "photos", photos).mean(dim=1)


def drift(pictures: Tensor, base: Tensor) -> Tensor:
    """How far pictures of the class without [V] have moved from the base model's of the same
    prompts and seeds: cosine distances, [G, F], [G, F] -> [G]; 0 where nothing moved.
    """
    return 1 - matched_cosines("pictures", pictures, "base model's pictures", base)


def leak(grounds: Tensor, photo_grounds: Tensor, base_grounds: Tensor) -> Tensor:
    """How much of the photos' backgrounds has come along: the similarity of the pictures'
    backgrounds to the photos', less that of the base model's pictures, which is chance.

    [G, F], [N, F], [M, F], features of pictures whose subject is blanked -> [G].
    """
    chance = photo_similarity(base_grounds, photo_grounds).mean()
    return photo_similarity(grounds, photo_grounds) - chance


def diversity(pictures: Tensor) -> Tensor:
    """The mean cosine distance of each picture of one prompt to the others, [G, F] -> [G]; the
    mean of these is the mean pairwise distance. Raises ValueError for a single picture.
    """
    count = len(pictures)
    if count < 2:
        raise ValueError("Diversity needs two pictures of a prompt or more; here there is one.")
    distances = 1 - cosines("pictures", pictures, "pictures", pictures)  # [G, G]
    return (distances.sum(dim=1) - distances.diagonal()) / (count - 1)


def spread(pictures: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """The mean cosine distance of each picture to those of other prompts, [G, F] -> [G]: near 0
    where prompts change nothing. groups [G]: what each was drawn from. Raises ValueError for a
    single prompt.
    """
    kinds = list(dict.fromkeys(groups))
    if len(kinds) < 2:
        raise ValueError("There is one prompt; its pictures can only differ from those of another.")
    numbers = torch.tensor([kinds.index(group) for group in groups])
    others = (numbers[:, None] != numbers[None]).double()
    distances = 1 - cosines("pictures", pictures, "pictures", pictures)
    return (distances * others).sum(dim=1) / others.sum(dim=1)


def cosines(whose: str, one: Tensor, others: str, other: Tensor) -> Tensor:
    """[A, F], [B, F] -> [A, B] in [-1, 1]. Raises ValueError for features that are no twins."""
    one, other = units(whose, one), units(others, other)
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"The {whose} have features of {one.shape[1]} numbers, the {others} of "
            f"{other.shape[1]}: two encoders that are no pair. Take both from one encoder; for "
            "captions wire the CLIP whose twin the CLIP_VISION is."
        )
    return one @ other.T


def matched_cosines(whose: str, one: Tensor, others: str, other: Tensor) -> Tensor:
    """Of each row and its own partner, [G, F], [G, F] -> [G]. Raises ValueError as `cosines`, and
    where one has no partner.
    """
    if len(one) != len(other):
        raise ValueError(
            f"There are {len(one)} {whose} but {len(other)} {others}. Each picture needs its own: "
            "wire lists of one length, in the same order."
        )
    return cosines(whose, one, others, other).diagonal()


def units(whose: str, features: Tensor) -> Tensor:
    """Features [A, F] at length 1, float64 on the CPU. Raises ValueError for NaN, and for zeros,
    which have no direction.
    """
    if features.ndim != 2 or not len(features):
        raise ValueError(f"There are no {whose} to score.")
    features = features.detach().cpu().double()
    sound = torch.isfinite(features).all(dim=1) & (features != 0).any(dim=1)
    if not sound.all():
        number = int((~sound).nonzero()[0]) + 1
        raise ValueError(
            f"The encoder's features of number {number} of the {whose} are NaN, infinite or all "
            "zero. Load the encoder again, start ComfyUI with --fp32-text-enc if it ran in half "
            "precision, or look at that picture."
        )
    return F.normalize(features, dim=1)
