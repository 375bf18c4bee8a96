"""DreamBooth (arXiv 2208.12242) with LoRA (arXiv 2106.09685) on all attention of the UNet.

DETEX's Table 1 has it as a baseline without its settings; rank and rate here are those of the
widely used training scripts: rank 4 and up, alpha = rank, 1e-4.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..unet.deltas import Deltas
from ..unet.interfaces import Denoiser
from .base import SubjectMethod, check_weight


@dataclass(frozen=True, kw_only=True)
class DreamboothLoraConfig:
    prior_weight: float = 1.0  # of the class images' loss (DreamBooth Eq. (2))
    learn_word: bool = True  # False: [V] stays the rare token it starts as, as in DreamBooth
    rate: float = 2.5  # multiplies the rate of the LoRA: 1e-4 with four photos a step of 1e-5 each
    lora_rank: int = 16  # where the settings name none

    def __post_init__(self):
        check_weight(self, "prior_weight")
        if not 1 <= self.lora_rank <= 128:
            raise ValueError(f"lora_rank must lie between 1 and 128, got {self.lora_rank}.")
        if self.rate <= 0:
            raise ValueError(f"rate multiplies the LoRA's learning rate: above 0, got {self.rate}.")

    @classmethod
    def recommended(cls, **settings) -> "DreamboothLoraConfig":
        """What the nodes do: the class's defaults."""
        return cls(**settings)


class DreamboothLora(SubjectMethod):
    """Q, K, V and the output of self- and cross-attention get a LoRA; [V] may learn beside it."""

    name = "DreamBooth LoRA"
    Config = DreamboothLoraConfig

    def make_deltas(self, denoiser: Denoiser, rng: torch.Generator) -> Deltas:
        rank = self.train_config.rank or self.config.lora_rank
        return Deltas(denoiser.layers, rank, rng, self.device, scaled=False)

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        deltas, word, *_ = super().rates()
        word_rate = word[1] if self.config.learn_word else 0.0
        return [(deltas[0], self.config.rate * deltas[1]), (word[0], word_rate)]
