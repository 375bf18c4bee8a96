"""Small tensors on their way to the device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. A card fetches it from pinned memory when its turn comes; a plain
    copy would wait for all that was asked of the card before, and leave it idle afterwards.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
