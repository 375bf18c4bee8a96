"""Custom Diffusion (arXiv 2212.04488, section 3.1): [V] and the K, V of cross-attention."""

from dataclasses import dataclass

from .base import SubjectMethod, check_choice, check_weight


@dataclass(frozen=True, kw_only=True)
class CustomDiffusionConfig:
    prior_weight: float = 1.0  # of the class images' loss
    detach_start_token: bool = True  # no gradient into K, V through the start token
    reduction: str = (
        "mean"  # mean, or adobe: the photo loss of Custom Diffusion's code, 4 x the mean
    )

    def __post_init__(self):
        check_weight(self, "prior_weight")
        check_choice(self, "reduction", ("mean", "adobe"))

    @classmethod
    def recommended(cls, **settings) -> "CustomDiffusionConfig":
        """What the nodes do: the paper's."""
        return cls(**settings)


class CustomDiffusion(SubjectMethod):
    """[V] alone: nothing beside what all methods of one subject do."""

    name = "Custom Diffusion"
    Config = CustomDiffusionConfig
