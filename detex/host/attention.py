"""The one file that replaces ComfyUI's cross-attention: taps for training, capture for viewing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.model_patcher import ModelPatcher, set_model_options_patch_replace
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key, get_wrappers_with_key
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor, nn
from torch.nn.functional import pad

from ..unet.attention import AttentionMaps, AttentionTap, attend, attention_probs
from ..unet.features import FeatureTap
from ..unet.interfaces import Tap
from ..unet.transfer import to_device
from .families import CrossAttention, cross_attentions
from .passes import Area, Passes, Reading

CAPTURE_KEY = "detex_capture"
MAX_POSITIONS = 32 * 32  # at once; larger grids cost much and look the same once drawn


def training_options(layers: Sequence[CrossAttention], taps: Sequence[Tap]) -> dict:
    """transformer_options of one training forward.

    All attention runs on torch's own kernel: others a user may have chosen (sage, flash) have no
    backward. The layers on the grid of an attention tap compute their softmax in the open.
    """
    options: dict = {"optimized_attention_override": _pytorch_attention}
    maps = {tap.grid: tap for tap in taps if isinstance(tap, AttentionTap)}
    if maps:
        replace = _tapping(maps)
        options["patches_replace"] = {"attn2": {layer.key: replace for layer in layers}}
    features = [tap for tap in taps if isinstance(tap, FeatureTap)]
    if features:
        options["patches"] = {"output_block_patch": [_feature_patch(features)]}
    return options


def _feature_patch(taps: Sequence[FeatureTap]) -> Callable:
    """What reaches an output block is its input, before the skip connection joins it."""

    def patch(hidden: Tensor, skip: Tensor, _options: dict) -> tuple[Tensor, Tensor]:
        for tap in taps:
            tap.add(hidden)
        return hidden, skip

    return patch


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
    model: ModelPatcher,
    maps: AttentionMaps,
    positions: Sequence[Sequence[int]],
    encodings: Sequence[Reading] = (),
) -> ModelPatcher:
    """A clone of `model` that adds the maps of the passes that carry the watched prompt to `maps`
    while it samples.

    positions: the token positions of each of `maps.words` in a prompt of which nothing is known;
    encodings: how the prompt may look, by which it is found in whichever branch it stands. The
    sampled image does not change by a bit: the attention itself is whatever it was, another pack's
    patch included. Layers of more than 32x32 positions are left alone, unless they are on the
    model's coarsest grid, which in a large picture of SDXL has more. Each sampling run starts with
    empty maps; only then are the layers replaced, in the run's own options, around whatever other
    nodes have put there, before this one or behind it.
    """
    patched = model.clone()
    readings = tuple(encodings) or (Reading(positions),)
    layers = cross_attentions(patched)
    deepest = max((layer.level for layer in layers), default=0)

    def watched(executor: Any, *args, **kwargs):
        maps.reset()
        guider = executor.class_obj
        options = guider.model_options  # a copy for this run
        check_not_compiled(guider.model_patcher, options)
        passes = Passes(guider, readings)
        for kind, wrapper in (
            (WrappersMP.PREDICT_NOISE, passes.step),
            (WrappersMP.CALC_COND_BATCH, passes.batch),
        ):
            add_wrapper_with_key(kind, CAPTURE_KEY, wrapper, options, is_model_options=True)
        taken = options["transformer_options"].get("patches_replace", {}).get("attn2", {})
        for layer in layers:
            inner = taken.get(layer.key) or taken.get(layer.key[:2])
            inner = inner or _own_attention(patched, layer)
            capturing = _capturing(inner, maps, passes, coarsest=layer.level == deepest)
            set_model_options_patch_replace(options, capturing, "attn2", *layer.key)
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CAPTURE_KEY, watched)
    return patched


def check_not_compiled(model: ModelPatcher, options: dict[str, Any]) -> None:
    """Raise ValueError for a UNet that is compiled, whole or in part: what was recorded of it runs
    without the capture.
    """
    wrappers = get_wrappers_with_key(
        WrappersMP.APPLY_MODEL, COMPILE_KEY, options, is_model_options=True
    )
    unet = model.get_model_object("diffusion_model")
    modules = [unet, *model.object_patches.values()]
    modules += unet.modules() if isinstance(unet, nn.Module) else []
    if wrappers or any(map(_is_compiled, modules)):
        raise ValueError(
            "The MODEL is compiled, and a compiled MODEL does not show its attention. Take the "
            "Torch Compile Model node out, or bypass it (Ctrl+B), while you capture."
        )


def _is_compiled(module: Any) -> bool:
    """By torch.compile(module), or by module.compile()."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _own_attention(model: ModelPatcher, layer: CrossAttention) -> Callable:
    """What the layer computes by itself, to the bit. Its precision is asked of it: another pack's
    block does not tell.
    """
    precision = model.get_model_object(f"diffusion_model.{layer.path}").attn_precision

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        heads = options["n_heads"]
        settings = {"attn_precision": precision, "transformer_options": options}
        return optimized_attention(q, k, v, heads, **settings)

    return attention


def _capturing(inner: Callable, maps: AttentionMaps, passes: Passes, *, coarsest: bool) -> Callable:
    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        out = inner(q, k, v, options)
        if coarsest or q.shape[1] <= MAX_POSITIONS:
            _collect(q, k, options, maps, passes)
        return out

    return attention


def _collect(q: Tensor, k: Tensor, options: dict, maps: AttentionMaps, passes: Passes) -> None:
    """Add the watched columns of the watched rows: ComfyUI stacks what it computes together."""
    grid = tuple(options["activations_shape"][-2:])
    for number, reading, area, shape, window in passes.rows(options):
        rows = len(options["uuids"])
        q_rows, k_rows = q.chunk(rows)[number], k.chunk(rows)[number]
        columns = [to_device(torch.tensor(p), q.device) for p in reading.positions]
        words = [
            _word_maps(part, k_rows, options["n_heads"], columns)
            for part in q_rows.split(MAX_POSITIONS, dim=1)
        ]
        seen = torch.cat(words, dim=2).unflatten(2, grid)  # [b, words, h, w]
        whole = seen if area is None else in_whole_picture(seen, area, shape)
        pictures, count, before = window or (None, None, 0)
        shown = whole[before:].flatten(2)
        maps.add(shown, (whole.shape[-2], whole.shape[-1]), pictures, count)


def in_whole_picture(seen: Tensor, area: Area, shape: tuple[int, int]) -> Tensor:
    """Maps [b, words, h, w] of an area of the latents of `shape`, zero outside it."""
    places = []
    for part, side, start, whole in zip(seen.shape[-2:], area[:2], area[2:], shape, strict=True):
        scale = max(round(side / part), 1)  # cells of the latents to one of the map
        length = -(-whole // scale)
        places.append((min(start // scale, max(length - part, 0)), max(length, part), part))
    (top, height, h), (left, width, w) = places
    return pad(seen, (left, width - w - left, top, height - h - top))


def _word_maps(q: Tensor, k: Tensor, heads: int, columns: list[Tensor]) -> Tensor:
    """The chosen columns of these positions, mean over heads: [b, words, L]."""
    probs = attention_probs(q, k, heads).mean(dim=1)  # [b, L, T]
    return torch.stack([probs[:, :, c].mean(dim=-1) for c in columns], dim=1)
