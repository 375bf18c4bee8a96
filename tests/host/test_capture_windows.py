"""Capture Attention where a sampler computes the pictures of a batch in windows."""

import inspect
from collections.abc import Callable

import comfy.sd
import nodes
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from torch import Tensor

from detex_pack.nodes.attention import CaptureAttention

TEXT, WORDS = "a red ball on grass", "red ball, grass"
PICTURES, LENGTH = 5, 3


def host_windows(overlap: int, *, anchor: bool = False, dim: int = 0):
    """ComfyUI's own node. anchor: each window is computed with the picture before it, which older
    versions cannot.
    """
    execute = ContextWindowsManualNode.execute
    known = "causal_window_fix" in inspect.signature(execute).parameters
    given = {"causal_window_fix": anchor} if known else {}

    def patch(model: ModelPatcher) -> ModelPatcher:
        names = ("standard_static", 1, False, "pyramid", dim, False)
        return execute(model, LENGTH, overlap, *names, **given).args[0]

    return patch


def their_windows(model: ModelPatcher) -> ModelPatcher:
    """As AnimateDiff-Evolved computes: two windows, of which it tells in `ad_params`."""

    def windows(executor, unet, conds, x: Tensor, timestep: Tensor, options: dict):
        outs = [torch.zeros_like(x) for _ in conds]
        told = {"full_length": len(x), "context_length": LENGTH}
        for pictures in ([0, 1, 2], [2, 3, 4]):
            options["transformer_options"]["ad_params"] = told | {"sub_idxs": pictures}
            parts = executor(unet, conds, x[pictures], timestep[pictures], options)
            for out, part in zip(outs, parts, strict=True):
                out[pictures] = part
        return outs

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ADE", windows)
    return patched


def plain(model: ModelPatcher) -> ModelPatcher:
    return model


def sampled(model: ModelPatcher, clip: comfy.sd.CLIP, pictures: int = PICTURES) -> Tensor:
    positive, negative = (nodes.CLIPTextEncode().encode(clip, t)[0] for t in (TEXT, ""))
    latent = {"samples": torch.zeros(pictures, 4, 8, 8)}
    how = (3, 2, 4.0, "euler", "normal")
    return nodes.common_ksampler(model, *how, positive, negative, latent)[0]["samples"]


def maps_of(patch: Callable, model: ModelPatcher, clip: comfy.sd.CLIP, *, behind=False) -> Tensor:
    """behind: the windows come behind Capture Attention. The latents are those without it."""
    inner = plain if behind else patch
    patched, maps = CaptureAttention.execute(inner(model), clip, TEXT, WORDS).args
    latents = sampled(patch(patched) if behind else patched, clip)
    assert torch.equal(latents, sampled(patch(model), clip))
    return maps.heat_maps()


@pytest.mark.parametrize("behind", [False, True], ids=["windows first", "capture first"])
@pytest.mark.parametrize(
    "patch",
    [host_windows(0), host_windows(1), host_windows(1, anchor=True), their_windows],
    ids=["apart", "overlapping", "with the picture before", "AnimateDiff-Evolved"],
)
def test_pictures_computed_in_windows_have_the_maps_of_one_batch(
    model: ModelPatcher, clip: comfy.sd.CLIP, patch: Callable, behind: bool
):
    whole = maps_of(plain, model, clip)  # no picture of a batch sees another in this UNet
    assert whole.shape == (2, PICTURES, 8, 8)
    found = maps_of(patch, model, clip, behind=behind)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)


def test_windows_of_parts_of_a_picture_are_refused(model: ModelPatcher, clip: comfy.sd.CLIP):
    patched, _ = CaptureAttention.execute(model, clip, TEXT, WORDS).args
    with pytest.raises(ValueError, match="computes each picture in windows.*Context Windows"):
        sampled(host_windows(1, dim=2)(patched), clip, 1)
