"""An auxiliary task for the UNet: its decoder must know where the subject is.

The words for places act through a product of two things that both start at nothing: features that
know their place (from the zero padding alone) and attention that reads the word. Left to the
diffusion loss, a small UNet ignored those words for 150,000 pictures. Asking small heads on the
decoder for the subject's mask, at every noise level, gives that product a gradient. The heads are
thrown away.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .common import device, initialise

_TAPS = {1: 128, 3: 64}  # output block -> channels: the 4x4 and the 8x8 level's last


class MaskGuide(nn.Module):
    """One 1x1 convolution per tapped block, fed by forward hooks."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in _TAPS.values())
        initialise(self, seed=16)
        self.to(device())
        self._seen: dict[int, torch.Tensor] = {}
        for block in _TAPS:
            unet.output_blocks[block][-1].register_forward_hook(self._hook(block))

    def loss(self, subject: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the masks seen in the last forward pass; subject [B,1,16,16]."""
        total = subject.new_zeros(())
        for head, block in zip(self.heads, _TAPS, strict=True):
            logits = head(self._seen.pop(block))
            target = F.adaptive_avg_pool2d(subject, logits.shape[-1])
            total = total + F.binary_cross_entropy_with_logits(logits, target)
        return total

    def _hook(self, block: int):
        def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            self._seen[block] = output

        return hook
