"""Textual Inversion (arXiv 2208.01618): the word alone, the UNet as it is.

DETEX's supplement compares with it at 5000 steps of 5e-3, one photo a step. Our captions keep the
class word, "photo of a [V] dog", as those of all methods here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..prompt.words import WordAnchors, Words
from ..training.config import TrainConfig
from ..unet.deltas import Deltas
from ..unet.interfaces import Denoiser
from .base import SubjectMethod


@dataclass(frozen=True, kw_only=True)
class TextualInversionConfig:
    vectors: int = 1  # that [V] is made of
    rate: float = 125.0  # times token_rate: 5e-3 with four photos a step of 1e-5 each

    def __post_init__(self):
        if not 1 <= self.vectors <= 32:
            raise ValueError(f"[V] can be made of 1 to 32 vectors, got {self.vectors}.")
        if self.rate <= 0:
            raise ValueError(f"rate multiplies the learning rate of [V]: above 0, got {self.rate}.")

    @classmethod
    def recommended(cls, **settings) -> "TextualInversionConfig":
        """What the nodes do: the recipe's 5e-3 at their own token_rate, one vector."""
        ours: dict[str, Any] = {"rate": cls.rate / TrainConfig.recommended().token_rate}
        return cls(**(ours | settings))


class TextualInversion(SubjectMethod):
    """A concept of kilobytes: [V], of one vector or several. No prior images: without deltas the
    class cannot drift.
    """

    name = "Textual Inversion"
    Config = TextualInversionConfig

    def make_deltas(self, denoiser: Denoiser, rng: torch.Generator) -> Deltas:
        return Deltas((), None, rng, self.device)

    def make_words(self, anchors: WordAnchors, rng: torch.Generator) -> Words:
        return Words(self.photos.count, anchors, rng, vectors=self.config.vectors)

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [([self.words.subject], self.config.rate * self.train_config.token_rate)]
