"""What makes features of pictures and captions, whoever brings it."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

See = Callable[[Sequence[Tensor]], Tensor]  # pictures [H, W, 3] of any sizes -> [N, F]
Read = Callable[[Sequence[str]], Tensor]  # captions -> [N, F]

DIGITS = 8  # of a hash, enough to tell weights apart


class Reader(NamedTuple):
    """The text encoder that was trained with an image encoder."""

    label: str  # "text 0a1b2c3d"
    read: Read


class Encoder(NamedTuple):
    """An image encoder, and its text side where it has one."""

    kind: str  # "CLIP", "DINO": the first part of its scores' names
    label: str  # its name and the hash of its weights, shown with every score
    see: See
    reader: Reader | None = None


def weights_hash(module: nn.Module) -> str:
    """Of all weights by name, as half precision has them: the same wherever they are loaded."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        kept = weight.detach().cpu()
        kept = kept.to(torch.float16) if kept.is_floating_point() else kept
        digest.update(kept.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:DIGITS]
