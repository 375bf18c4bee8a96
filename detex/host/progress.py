"""Training progress in ComfyUI: the node's bar, and cancel."""

from collections.abc import Mapping

import comfy.model_management as model_management
import comfy.utils
from torch import Tensor

from ..interfaces import OnStep


def progress_bar(steps: int) -> OnStep:
    """Moves the node's bar; raises ComfyUI's own interruption when the user cancels."""
    bar = comfy.utils.ProgressBar(steps)

    def on_step(step: int, _terms: Mapping[str, Tensor]) -> None:
        bar.update_absolute(step, steps)
        model_management.throw_exception_if_processing_interrupted()

    return on_step
