"""Every training setting, with its default from the paper."""

import math
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Attributes(Enum):
    """Where the words [P_i] and [B_i] come from."""

    MAPPERS = "mappers"  # two MLPs over the photos' CLIP features, DETEX Eq. (3)
    VECTORS = "vectors"  # one free vector per photo: the paper's ablation "w/o mapper"
    NONE = "none"  # no [P], no [B]: Custom Diffusion


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation, whatever the method (DETEX section 4.1)."""

    steps: int = 600  # optimiser steps
    batch_size: int = 4  # photos a step; as many prior images join them
    learning_rate: float = 1e-5  # per sample: multiplied by batch_size, as Custom Diffusion does
    kv_rate: float = 1.0  # multiplies the rate of the K, V deltas; 0: Textual Inversion
    token_rate: float = 1.0  # multiplies the rate of [V]
    mapper_rate: float = 1.0  # multiplies the rate of the attribute mappers, or of free vectors
    weight_decay: float = 1e-2
    gradient_clip: float = 1.0  # global norm
    stratified_timesteps: bool = False  # one timestep from each 1/batch of the schedule
    # of the K, V deltas; None: as the family has it, 16 for SDXL, else full matrices
    rank: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be at least 1, or None for the family's, got {self.rank}.")
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


@dataclass(frozen=True, kw_only=True)
class DetexConfig:
    """DETEX (arXiv 2312.11826); `custom_diffusion()` is the same with every addition off.

    The defaults are the paper's. DETEX Train turns `subject_attention` and `center_poses` on
    (docs/science.md).
    """

    attributes: Attributes = Attributes.MAPPERS
    gamma: float = 0.5  # chance that a sample trains on the subject alone, background blanked
    attention_weight: float = 0.01  # lambda_CA of Eq. (5)
    prior_weight: float = 1.0  # lambda_pr of Eq. (5)
    attention_norm: str = "mse"  # the norm of Eq. (4), which the paper leaves open: mse, l1, fro
    attention_map: str = "max"  # how a map is scaled to [0, 1]: max, max_detach, minmax, raw
    subject_attention: bool = False  # [V] is held to the subject as [P] is; not in the paper
    # the [P] words average to their anchor, so what all photos share is [V]'s; not in the paper
    center_poses: bool = False
    masked_pose: bool = True  # the [P] term also acts on blanked samples
    masked_loss: bool = False  # blanked samples count the subject's pixels only (Table 4)
    detach_start_token: bool = True  # no gradient into K, V through the start token
    center_features: bool = False  # subtract the photos' mean feature before the mappers
    plain_mapper: bool = False  # the bare three-layer MLP: no LayerNorm, no anchor word
    reduction: str = "mean"  # mean, or adobe: Custom Diffusion's photo loss, 4 x the mean

    def __post_init__(self):
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is a probability between 0 and 1, got {self.gamma}.")
        for name in ("attention_weight", "prior_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name, choices in (
            ("attention_norm", ("mse", "l1", "fro")),
            ("attention_map", ("max", "max_detach", "minmax", "raw")),
            ("reduction", ("mean", "adobe")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}.")
        if self.attributes is Attributes.NONE and self.attention_weight:
            raise ValueError("Without [P] and [B] there is no attention loss: set it to 0.")

    @classmethod
    def custom_diffusion(cls, **settings: Any) -> "DetexConfig":
        """Custom Diffusion (arXiv 2212.04488): [V] and the K, V deltas, nothing else."""
        off: dict[str, Any] = {
            "attributes": Attributes.NONE,
            "gamma": 0,
            "attention_weight": 0,
            "subject_attention": False,
            "center_poses": False,
        }
        return cls(**(settings | off))

    @property
    def method(self) -> str:
        return "Custom Diffusion" if self.attributes is Attributes.NONE else "DETEX"


def as_json(*configs: TrainConfig | DetexConfig) -> dict:
    """The settings as plain JSON values, for the concept file; what is None is left out."""
    merged = {key: value for config in configs for key, value in asdict(config).items()}
    plain = {
        key: value.value if isinstance(value, Enum) else value for key, value in merged.items()
    }
    return {key: value for key, value in plain.items() if value is not None}
