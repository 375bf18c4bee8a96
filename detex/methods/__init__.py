"""The register: the one place that lists the training methods.

A new method is one file beside these and one line here (docs/adding_a_method.md).
"""

from collections.abc import Callable
from typing import Any

from .base import Method
from .custom_diffusion import CustomDiffusion
from .detex import Detex
from .dis2booth import Dis2Booth
from .disendiff import DisenDiff
from .dreambooth_lora import DreamboothLora
from .textual_inversion import TextualInversion

METHODS: dict[str, Any] = {  # name -> class of a `Method`
    kind.name: kind
    for kind in (Detex, CustomDiffusion, TextualInversion, DreamboothLora, DisenDiff, Dis2Booth)
}


def method_of(config: Any) -> Callable[..., Method]:
    """The method whose settings these are. Raises ValueError for those of none."""
    for method in METHODS.values():
        if type(config) is method.Config:
            return method
    raise ValueError(
        f"No training method has settings of kind {type(config).__name__}. "
        f"The methods are {', '.join(METHODS)}."
    )
