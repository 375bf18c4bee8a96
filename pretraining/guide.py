"""An auxiliary task for the UNet: its decoder must know the subject's place, colours and surface.

The words for places act through a product of two things that both start at nothing: features that
know their place (from the zero padding alone) and attention that reads the word. Left to the
diffusion loss, a small UNet ignored those words for 150,000 pictures, and second colours and
surfaces, a few cells each, for longer. Asking small heads on the decoder what is where, at every
noise level, gives that product a gradient: where there is much noise, only the caption tells. The
heads are thrown away.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from detex_pack.detex.toys.scene import COLOURS, PATTERNS, Scenes

from .common import device, initialise

_TAPS = {1: 128, 3: 64, 5: 64}  # output block -> channels: the last of each level
_COLOURS, _PATTERNS = 1 + len(COLOURS), 1 + len(PATTERNS)  # the background comes first
CELL_KINDS = _COLOURS + _PATTERNS


def cell_loss(logits: torch.Tensor, scenes: Scenes, shares: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of what every cell shows; the subject's cells weigh six times the others.

    logits [B,CELL_KINDS,h,w]; shares [B,2,H,W]: how much of each cell is the subject's main and
    second colour, on a grid that h, w divide.
    """
    shares = F.adaptive_avg_pool2d(shares, logits.shape[-2:])
    subject = shares.sum(1, keepdim=True)
    kind = F.one_hot(scenes.pattern, len(PATTERNS)).to(shares)[:, :, None, None]
    targets = (_colour_maps(scenes, shares), kind * subject)
    total = shares.new_zeros(())
    for target, part in zip(targets, logits.split([_COLOURS, _PATTERNS], dim=1), strict=True):
        told = (torch.cat((1 - subject, target), 1) * part.log_softmax(1)).sum(1)
        total = total - (told * (0.2 + subject[:, 0])).mean()
    return total


def _colour_maps(scenes: Scenes, shares: torch.Tensor) -> torch.Tensor:
    """[B,8,h,w]: how much of each cell each colour covers."""
    named = torch.stack((scenes.main, scenes.second), 1)
    kinds = F.one_hot(named, len(COLOURS)).to(shares)
    return torch.einsum("bkc,bkhw->bchw", kinds, shares)


class SceneGuide(nn.Module):
    """One 1x1 convolution per tapped block, fed by forward hooks."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, CELL_KINDS, 1) for width in _TAPS.values())
        initialise(self, seed=16)
        self.to(device())
        self._seen: dict[int, torch.Tensor] = {}
        for block in _TAPS:
            unet.output_blocks[block][-1].register_forward_hook(self._hook(block))

    def loss(self, scenes: Scenes, shares: torch.Tensor) -> torch.Tensor:
        """`cell_loss` summed over the taps, from the features of the last forward pass."""
        taps = zip(self.heads, _TAPS, strict=True)
        losses = [cell_loss(head(self._seen.pop(block)), scenes, shares) for head, block in taps]
        return torch.stack(losses).sum()

    def _hook(self, block: int):
        def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            self._seen[block] = output

        return hook
