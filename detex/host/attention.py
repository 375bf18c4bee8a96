"""The one file that replaces ComfyUI's cross-attention: taps for training, capture for viewing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.model_patcher import ModelPatcher, set_model_options_patch_replace
from torch import Tensor

from ..unet.attention import AttentionMaps, AttentionTap, attend, attention_probs
from ..unet.transfer import to_device
from .families import CrossAttention, cross_attentions

CAPTURE_KEY = "detex_capture"
MAX_POSITIONS = 32 * 32  # at once; larger grids cost much and look the same once drawn


def training_options(layers: Sequence[CrossAttention], taps: Sequence[AttentionTap]) -> dict:
    """transformer_options of one training forward.

    All attention runs on torch's own kernel: others a user may have chosen (sage, flash) have no
    backward. The layers on the grid of a tap compute their softmax in the open.
    """
    options: dict = {"optimized_attention_override": _pytorch_attention}
    if taps:
        replace = _tapping({tap.grid: tap for tap in taps})
        options["patches_replace"] = {"attn2": {layer.key: replace for layer in layers}}
    return options


def _pytorch_attention(_chosen: Callable, *args, **kwargs) -> Tensor:
    kwargs.pop("transformer_options", None)
    return attention_pytorch(*args, **kwargs)


def _tapping(taps: Mapping[tuple[int, ...], AttentionTap]) -> Callable:
    """taps: by their grids."""

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        heads = options["n_heads"]
        tap = taps.get(tuple(options["activations_shape"][-2:]))
        if tap is None:
            return attention_pytorch(q, k, v, heads)
        rows = tap.rows
        with torch.autocast("cuda", enabled=False):  # it would take the scores in half precision
            probs = attention_probs(q[:rows], k[:rows], heads)
        tap.add(probs)
        out = attend(probs, v[:rows])
        if len(q) == rows:
            return out
        return torch.cat([out, attention_pytorch(q[rows:], k[rows:], v[rows:], heads).to(out)])

    return attention


def capture_attention(
    model: ModelPatcher, maps: AttentionMaps, positions: Sequence[Sequence[int]]
) -> ModelPatcher:
    """A clone of `model` that adds the maps of its conditioned passes to `maps` while it samples.

    positions: the token positions of each of `maps.words`. The sampled image does not change by a
    bit: the attention itself is whatever it was, another pack's patch included. Layers of more
    than 32x32 positions are left alone, unless they are on the model's coarsest grid, which in a
    large picture of SDXL has more. Each sampling run starts with empty maps; only then are the
    layers replaced, in the run's own options, around whatever other nodes have put there, before
    this one or behind it.
    """
    patched = model.clone()
    last = max(max(p) for p in positions)
    layers = cross_attentions(patched)
    deepest = max((layer.level for layer in layers), default=0)

    def watched(executor: Any, *args, **kwargs):
        maps.reset()
        options = executor.class_obj.model_options  # the guider's: a copy for this run
        device = executor.class_obj.model_patcher.load_device
        taken = options["transformer_options"].get("patches_replace", {}).get("attn2", {})
        columns = [to_device(torch.tensor(p), device) for p in positions]
        for layer in layers:
            inner = taken.get(layer.key) or taken.get(layer.key[:2])
            capturing = _capturing(inner, maps, columns, last, coarsest=layer.level == deepest)
            set_model_options_patch_replace(options, capturing, "attn2", *layer.key)
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, CAPTURE_KEY, watched
    )
    return patched


def _capturing(
    inner: Callable | None,
    maps: AttentionMaps,
    columns: list[Tensor],
    last: int,
    *,
    coarsest: bool,
) -> Callable:
    """columns: of each word; last: the highest of them."""

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        if inner is not None:
            out = inner(q, k, v, options)
        else:
            out = optimized_attention(
                q,
                k,
                v,
                options["n_heads"],
                attn_precision=options["attn_precision"],
                transformer_options=options,
            )
        if last < k.shape[1] and (coarsest or q.shape[1] <= MAX_POSITIONS):
            _collect(q, k, options, maps, columns)
        return out

    return attention


def _collect(
    q: Tensor, k: Tensor, options: dict, maps: AttentionMaps, columns: list[Tensor]
) -> None:
    """Add the chosen columns of the conditioned rows: ComfyUI stacks [cond, uncond] in a batch."""
    kinds = options.get("cond_or_uncond", [0])
    grid = tuple(options["activations_shape"][-2:])
    q_of, k_of = q.chunk(len(kinds)), k.chunk(len(kinds))
    for kind, q_rows, k_rows in zip(kinds, q_of, k_of, strict=True):
        if kind == 0:
            words = [
                _word_maps(part, k_rows, options["n_heads"], columns)
                for part in q_rows.split(MAX_POSITIONS, dim=1)
            ]
            maps.add(torch.cat(words, dim=2), (grid[0], grid[1]))


def _word_maps(q: Tensor, k: Tensor, heads: int, columns: list[Tensor]) -> Tensor:
    """The chosen columns of these positions, mean over heads: [b, words, L]."""
    probs = attention_probs(q, k, heads).mean(dim=1)  # [b, L, T]
    return torch.stack([probs[:, :, c].mean(dim=-1) for c in columns], dim=1)
