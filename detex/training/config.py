"""The settings of the optimisation, with their defaults from DETEX's paper."""

import math
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation, whatever the method (DETEX section 4.1)."""

    steps: int = 600  # optimiser steps
    batch_size: int = 4  # photos a step; as many prior images join them
    learning_rate: float = 1e-5  # per sample: multiplied by batch_size, as Custom Diffusion does
    kv_rate: float = 1.0  # multiplies the rate of the deltas
    token_rate: float = 1.0  # multiplies the rate of [V]
    mapper_rate: float = 1.0  # that of the mappers or free vectors, or their speed over [V]'s
    weight_decay: float = 1e-2
    gradient_clip: float = 1.0  # global norm
    stratified_timesteps: bool = False  # one timestep from each 1/batch of the schedule
    # of the K, V deltas; None: as the family has it, 16 for SDXL, else full matrices
    rank: int | None = None
    seed: int = 0
    # over which what is learned is averaged; None: as the last step leaves it, as in the paper
    averaged_steps: int | None = None

    @classmethod
    def recommended(cls, **settings: Any) -> "TrainConfig":
        """What the nodes do: at the paper's single rate [V] hardly moves, [P] and [B] say what
        differs, which is a part of their motion, and single steps leave noise.
        """
        ours: dict[str, Any] = {"token_rate": 8.0, "mapper_rate": 2.0, "averaged_steps": 50}
        return cls(**(ours | settings))

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be at least 1, or None for the family's, got {self.rank}.")
        if self.averaged_steps is not None and self.averaged_steps < 1:
            raise ValueError(
                f"averaged_steps must be at least 1, or None for none, got {self.averaged_steps}."
            )
        if not 0 < self.learning_rate < 1:
            raise ValueError(
                f"learning_rate must lie between 0 and 1, got {self.learning_rate}. "
                "The paper's 1e-5 is a good start for Stable Diffusion."
            )
        for name in ("kv_rate", "token_rate", "mapper_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} multiplies the learning rate: 0 or more, got {getattr(self, name)}."
                )
        if not self.kv_rate and not self.token_rate:
            raise ValueError("kv_rate and token_rate are both 0: [V] would learn nothing.")

    @property
    def effective_rate(self) -> float:
        """The rate that the optimiser sees: 4e-5 with the paper's settings."""
        return self.learning_rate * self.batch_size


def as_json(*configs: Any) -> dict:
    """Settings as plain JSON values, for the concept file; what is None is left out."""
    merged = {key: value for config in configs for key, value in asdict(config).items()}
    plain = {
        key: value.value if isinstance(value, Enum) else value for key, value in merged.items()
    }
    return {key: value for key, value in plain.items() if value is not None}
