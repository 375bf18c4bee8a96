"""What a new word may mean while the model is trained: a vector for each factor of the scene.

A rare word of a real CLIP can be bent to mean a dog or a kitchen because the model has met words
for very many things. This model has met fifty. So in many captions [V], [P] and [B] are moved
off their rows by vectors that are learned with the model: one linear map of the subject's
colours and surface, one of the pose, one of the background. Any of the words may get any of them.
They are scaled and blurred at random, so that the model reads a neighbourhood and not a point. The
maps are thrown away; the rows themselves go on meaning nothing.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIDE,
    NOISE_WIDTH,
    PATTERNS,
    POSITIONS,
    Scenes,
)

from .common import device

_SCALES = (0.5, 3.0)
_BLUR = 0.3  # of the vector's own size
_START = 0.06
_WIDTHS = (2 * len(COLOURS) + len(PATTERNS), len(POSITIONS) + 4, len(BACKGROUNDS) + NOISE_WIDTH)


def known(scenes: Scenes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factors of B scenes as numbers of about unit size: subject, pose, background, [B,n]."""
    subject = torch.cat(
        (
            F.one_hot(scenes.main, len(COLOURS)),
            F.one_hot(scenes.second, len(COLOURS)),
            F.one_hot(scenes.pattern, len(PATTERNS)),
        ),
        1,
    )
    exact = torch.cat(
        (
            (scenes.centre - IMAGE_SIDE / 2) / 13,
            (scenes.radius[:, None] - 14.5) / 2.5,
            scenes.angle[:, None] / 0.4,
        ),
        1,
    )
    pose = torch.cat((F.one_hot(scenes.position, len(POSITIONS)), exact), 1)
    background = torch.cat((F.one_hot(scenes.background, len(BACKGROUNDS)), scenes.noise - 0.5), 1)
    return subject.float(), pose.float(), background.float()


class Meanings(nn.Module):
    """The maps from a scene's factors to vectors of the token table."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(count, width, bias=False) for count in _WIDTHS)
        generator = torch.Generator().manual_seed(17)
        for each in self.maps:
            nn.init.normal_(each.weight, std=_START, generator=generator)
        self.to(device())

    def forward(
        self, scenes: Scenes, meant: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """What [V], [P] and [B] add to their rows, [B,3,width]; `meant` as training_captions'."""
        pairs = zip(self.maps, known(scenes), strict=True)
        each = torch.stack([vector(factors.to(device())) for vector, factors in pairs], 1)
        said = meant.to(each) @ each
        low, high = _SCALES
        power = torch.rand(*said.shape[:2], 1, generator=generator).to(said)
        noise = torch.randn(said.shape, generator=generator).to(said)
        size = said.detach().square().mean(-1, keepdim=True).sqrt()
        return low * (high / low) ** power * (said + _BLUR * size * noise)
