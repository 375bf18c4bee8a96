"""Hashes of models: of every weight, or of what tells one wired MODEL, CLIP or VAE from another."""

import inspect
from collections.abc import Mapping
from dis import get_instructions
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .families import base_weights


def hash_tensor(digest: Any, tensor: Tensor | None) -> None:
    """Add a tensor's type, shape and bytes to a hash."""
    if tensor is None:
        digest.update(b"none")
        return
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    plain = tensor.detach().cpu().contiguous().flatten()
    digest.update(plain.view(torch.uint8).numpy())


def hash_weights(digest: Any, module: nn.Module) -> None:
    """Add a module's weights by name."""
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        hash_tensor(digest, tensor)


def hash_patcher(digest: Any, patcher: ModelPatcher) -> None:
    """Add what decides the pictures of a MODEL, CLIP or VAE: its weights and LoRAs, and what other
    nodes have set on it.
    """
    _add_weights(digest, patcher)
    _add_settings(digest, patcher)


def _add_weights(digest: Any, patcher: ModelPatcher) -> None:
    """Norms, biases and patches: enough to tell models and the LoRAs on them apart, and quick."""
    for name, weight in sorted(base_weights(patcher).items()):
        if weight.ndim == 1 and weight.is_floating_point():
            digest.update(name.encode())
            hash_tensor(digest, weight.to(torch.float16))
    for name in sorted(patcher.patches):
        digest.update(name.encode())
        _add_value(digest, patcher.patches[name])


def _add_settings(digest: Any, patcher: ModelPatcher) -> None:
    """What other nodes have set on the patcher beside weights: sampling, guidance, attention."""
    for name, replacement in sorted(patcher.object_patches.items()):
        kinds = [kind.__qualname__ for kind in type(replacement).__mro__]
        _add_value(digest, [name, kinds])
    _add_value(digest, patcher.model_options)


def _add_value(digest: Any, value: Any) -> None:
    """Whatever a patcher keeps: nested tuples, adapters, tensors, options; of a function its name
    and what it was made with; of anything else its kind alone.
    """
    if torch.is_tensor(value):
        hash_tensor(digest, value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _add_value(digest, (str(key), value[key]))
    elif isinstance(value, (list, tuple)):
        for part in value:
            _add_value(digest, part)
    elif hasattr(value, "weights"):
        _add_value(digest, value.weights)
    elif isinstance(value, (str, int, float)):
        digest.update(repr(value).encode())
    elif inspect.isfunction(value):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
        _add_value(digest, _made_with(value))
    else:
        digest.update(type(value).__qualname__.encode())


def _made_with(function: Any) -> dict[str, Any]:
    """The plain values that a function holds from where it was made, but for those that it changes
    while it samples.
    """
    changed = {step.argval for step in get_instructions(function) if step.opname == "STORE_DEREF"}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = {name: getattr(cell, "cell_contents", None) for name, cell in cells}
    return {name: value for name, value in held.items() if name not in changed and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether it is a number, a text, or a filled container of such."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_plain, value))
    return isinstance(value, (str, int, float))
