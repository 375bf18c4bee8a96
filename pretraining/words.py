"""What a new word may mean while the model is trained: a vector for each factor of the scene.

A rare word of a real CLIP can be bent to mean a dog or a kitchen because the model has met words
for very many things. This model has met fifty. So in many captions [V], [P] and [B] are moved
off their rows by vectors that are learned with the model: one linear map of the subject's
colours and surface, one of the pose, one of the background. Any of the words may get any of them.
They are scaled and blurred at random, so that the model reads a neighbourhood and not a point. The
maps are thrown away; the rows themselves go on meaning nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .common import device
from .worlds import World

_SCALES = (0.5, 3.0)
_BLUR = 0.3  # of the vector's own size
_START = 0.06


class Meanings(nn.Module):
    """The maps from a scene's factors to vectors of the token table."""

    def __init__(self, world: World, width: int) -> None:
        super().__init__()
        self._world = world
        self.maps = nn.ModuleList(nn.Linear(count, width, bias=False) for count in world.KNOWN)
        generator = torch.Generator().manual_seed(17)
        for each in self.maps:
            nn.init.normal_(each.weight, std=_START, generator=generator)
        self.to(device())

    def forward(self, scenes: Any, meant: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """What [V], [P] and [B] add to their rows, [B,3,width]; `meant` as training_captions'."""
        pairs = zip(self.maps, self._world.known(scenes), strict=True)
        each = torch.stack([vector(factors.to(device())) for vector, factors in pairs], 1)
        said = meant.to(each) @ each
        low, high = _SCALES
        power = torch.rand(*said.shape[:2], 1, generator=generator).to(said)
        noise = torch.randn(said.shape, generator=generator).to(said)
        size = said.detach().square().mean(-1, keepdim=True).sqrt()
        return low * (high / low) ** power * (said + _BLUR * size * noise)
