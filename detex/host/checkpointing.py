"""Gradient checkpointing of ComfyUI's UNet, and what it would save."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..training.memory import SavedBytes


@contextmanager
def checkpointed(unet: nn.Module) -> Iterator[None]:
    """A forward pass of a private UNet inside keeps only what goes into its residual and
    transformer blocks, and computes them again in the backward pass, wherever that is.

    ComfyUI counts on in its transformer_options while it runs, so each block keeps them as they
    were.
    """
    with wrapped_blocks(unet, _recomputing):
        yield


@contextmanager
def observed(unet: nn.Module, saved: SavedBytes) -> Iterator[None]:
    """Count what each block keeps apart."""

    def counting(forward: Callable, *args: Any, **kwargs: Any) -> Tensor:
        with saved.block(*(a for a in args if isinstance(a, Tensor))):
            return forward(*args, **kwargs)

    with wrapped_blocks(unet, counting):
        yield


def _recomputing(forward: Any, *args: Any, **kwargs: Any) -> Any:
    frozen = [dict(a) if isinstance(a, dict) else a for a in args]
    named = {key: dict(a) if isinstance(a, dict) else a for key, a in kwargs.items()}
    return checkpoint(forward, *frozen, use_reentrant=False, preserve_rng_state=False, **named)


@contextmanager
def wrapped_blocks(unet: nn.Module, wrapper: Callable) -> Iterator[None]:
    """wrapper(forward, *args, **kwargs) stands for the forward of each block."""
    blocks = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock | ResBlock)]
    for block in blocks:
        block.forward = partial(wrapper, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
