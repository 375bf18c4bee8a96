"""An auxiliary task for the UNet: its decoder must know what is where.

The words for places act through a product of two things that both start at nothing: features that
know their place (from the zero padding alone) and attention that reads the word. Left to the
diffusion loss, a small UNet ignored those words for 150,000 pictures, and second colours and
surfaces, a few cells each, for longer. Asking small heads on the decoder what is where, at every
noise level, gives that product a gradient: where there is much noise, only the caption tells. The
heads are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .common import device, initialise
from .worlds import World

_TAPS = {1: 128, 3: 64, 5: 64}  # output block -> channels: the last of each level


def cell_width(world: World) -> int:
    """How many logits a cell has: the kinds of each thing, and nothing before them."""
    return sum(1 + kinds for kinds in world.CELL_KINDS)


def cell_loss(
    logits: torch.Tensor, kinds: Sequence[torch.Tensor], shares: torch.Tensor, world: World
) -> torch.Tensor:
    """Cross-entropy of what every cell shows; the subject's cells weigh six times the others.

    logits [B,cell_width,h,w]; shares [B,S,H,W]: how much of each cell each colour of a toy covers,
    on a grid that h, w divide; kinds [B,S] say what the shares are, one for each of CELL_KINDS.
    """
    shares = F.adaptive_avg_pool2d(shares, logits.shape[-2:])
    subject = shares.sum(1, keepdim=True)
    parts = logits.split([1 + count for count in world.CELL_KINDS], dim=1)
    total = shares.new_zeros(())
    for count, kind, part in zip(world.CELL_KINDS, kinds, parts, strict=True):
        one = F.one_hot(kind.to(shares.device), count).to(shares)
        target = torch.einsum("bsk,bshw->bkhw", one, shares)
        told = (torch.cat((1 - subject, target), 1) * part.log_softmax(1)).sum(1)
        total = total - (told * (0.2 + subject[:, 0])).mean()
    return total


class SceneGuide(nn.Module):
    """One 1x1 convolution per tapped block, fed by forward hooks."""

    def __init__(self, world: World, unet: nn.Module) -> None:
        super().__init__()
        self._world = world
        self.heads = nn.ModuleList(
            nn.Conv2d(width, cell_width(world), 1) for width in _TAPS.values()
        )
        initialise(self, seed=16)
        self.to(device())
        self._seen: dict[int, torch.Tensor] = {}
        for block in _TAPS:
            unet.output_blocks[block][-1].register_forward_hook(self._hook(block))

    def loss(self, scenes: Any, shares: torch.Tensor) -> torch.Tensor:
        """`cell_loss` summed over the taps, from the features of the last forward pass."""
        kinds = self._world.cell_kinds(scenes)
        logits = [head(self._seen.pop(tap)) for head, tap in zip(self.heads, _TAPS, strict=True)]
        return torch.stack([cell_loss(each, kinds, shares, self._world) for each in logits]).sum()

    def _hook(self, block: int):
        def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            self._seen[block] = output

        return hook
