"""Scores on given tensors; nothing here loads a model."""

from torch import Tensor


def half_maximum_iou(maps: Tensor, region: Tensor) -> Tensor:
    """Intersection over union of {map >= max / 2} and the region.

    maps [B, h, w], region [B, h, w] bool -> [B] in [0, 1].
    """
    hot = maps >= maps.amax(dim=(1, 2), keepdim=True) / 2
    both = (hot & region).sum(dim=(1, 2))
    either = (hot | region).sum(dim=(1, 2)).clamp(min=1)
    return both / either
