"""The code of each photo of a varied set: where its individual lies around the anchor.

Codes are centred: what they have in common belongs to the anchor, which is the code 0.
"""

import torch
from torch import Tensor, nn

from ..prompt.words import linear, unit_features

WIDTH = 64  # of the mapper's hidden layer
LEAST_SPREAD = 1e-2  # of what a mapper answers at the start: photos that look alike stay alike


class Codes(nn.Module):
    """A code c_i [r] for each of N photos."""

    def every(self) -> Tensor:
        """[N, r]"""
        raise NotImplementedError

    def forward(self, photos: Tensor) -> Tensor:
        """photos [B] indices -> [B, r]."""
        return self.every()[photos]


class MappedCodes(Codes):
    """c_i = g * (MLP(u_i) - the mean over the photos): codes from image features.

    g is fixed so that each number of the codes has unit variance over the photos at the start.
    """

    features: Tensor
    gain: Tensor

    def __init__(self, features: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        unit = unit_features(features, center=True)
        self.layers = nn.Sequential(
            linear(unit.shape[1], WIDTH, generator),
            nn.LayerNorm(WIDTH),
            nn.LeakyReLU(0.01),
            linear(WIDTH, rank, generator, bias=False),
        )
        self.register_buffer("features", unit)
        with torch.no_grad():
            spread = self.layers(unit).std(dim=0).clamp(min=LEAST_SPREAD)
        self.register_buffer("gain", 1 / spread)

    def every(self) -> Tensor:
        raw = self.layers(self.features)
        return self.gain * (raw - raw.mean(dim=0))


class FreeCodes(Codes):
    """A code of its own for each photo, random at the start. Each is a parameter of its own, so
    that AdamW leaves those of photos outside the batch untouched; their mean is held still.
    """

    def __init__(self, count: int, rank: int, generator: torch.Generator):
        super().__init__()
        start = torch.randn(count, rank, generator=generator)
        self.vectors = nn.ParameterList(map(nn.Parameter, start.unbind()))

    def every(self) -> Tensor:
        rows = torch.stack([*self.vectors])
        return rows - rows.mean(dim=0)

    def forward(self, photos: Tensor) -> Tensor:
        with torch.no_grad():
            mean = torch.stack([*self.vectors]).mean(dim=0)
        return torch.stack([self.vectors[i] for i in photos.tolist()]) - mean


class SharedCodes(Codes):
    """1 for every photo: two LoRAs, and no individuals."""

    ones: Tensor

    def __init__(self, count: int, rank: int):
        super().__init__()
        self.register_buffer("ones", torch.ones(count, rank))

    def every(self) -> Tensor:
        return self.ones
