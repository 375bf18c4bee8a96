"""Which models are taken, by which name, and how a base is recognised."""

from collections.abc import Callable

import comfy.model_management
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher

from detex_pack.detex.host.export import kohya_names
from detex_pack.detex.host.families import (
    DEMO,
    SD1,
    SD2,
    cross_attentions,
    family_of,
    fingerprint,
    is_v_prediction,
    kv_shapes,
    unet_layout,
)


def patcher_of(config) -> ModelPatcher:
    """A MODEL of this configuration without weights in memory."""
    with torch.device("meta"):
        model = config.get_model({}, "", torch.device("meta"))
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def sd15(**changes) -> ModelPatcher:
    config = comfy.supported_models.SD15({**tiny.UNET, **changes})
    config.set_inference_dtype(torch.float32, None)
    return patcher_of(config)


def test_small_model_is_the_demo_model(model: ModelPatcher):
    assert family_of(model) == DEMO


def test_sd1_layout_at_its_real_width_is_stable_diffusion_1():
    assert family_of(sd15(model_channels=320)) == SD1


def test_sd20_is_stable_diffusion_2():
    assert family_of(tiny.tiny_model(comfy.supported_models.SD20)) == SD2


def test_inpainting_model_is_refused():
    with pytest.raises(ValueError, match="is an inpainting or image-conditioned model. Train"):
        family_of(sd15(in_channels=9))


def test_sdxl_is_refused_by_name():
    config = comfy.supported_models.SDXL(
        {**tiny.UNET, "adm_in_channels": 2816, "model_channels": 64, "num_classes": "sequential"}
    )
    config.set_inference_dtype(torch.float32, None)
    with pytest.raises(ValueError, match="MODEL wired here is .*SDXL. Load such a checkpoint"):
        family_of(patcher_of(config))


@pytest.mark.parametrize("v_prediction", [False, True])
def test_prediction_kind_is_the_models(v_prediction: bool):
    assert is_v_prediction(tiny.tiny_model(v_prediction=v_prediction)) is v_prediction


def test_every_cross_attention_is_found_with_comfyuis_key(model: ModelPatcher):
    keys = [layer.key for layer in cross_attentions(model)]
    assert keys == [
        ("input", 1, 0),
        ("input", 3, 0),
        ("middle", 0, 0),
        ("output", 0, 0),
        ("output", 1, 0),
        ("output", 2, 0),
        ("output", 3, 0),
    ]


def test_comfyui_itself_uses_these_keys(model: ModelPatcher):
    called = []

    def at(key: tuple[str, int, int]) -> Callable:
        def replace(q, k, v, options):
            called.append((key, (*options["block"], options["block_index"])))
            return torch.zeros_like(q)

        return replace

    replace = {layer.key: at(layer.key) for layer in cross_attentions(model)}
    options = {"patches_replace": {"attn2": replace}}
    with torch.no_grad():
        model.model.diffusion_model(
            torch.zeros(1, 4, 8, 8),
            torch.zeros(1),
            context=torch.zeros(1, 77, tiny.WIDTH),
            transformer_options=options,
        )
    assert len(called) == 7
    assert all(ours == theirs for ours, theirs in called)


def test_shapes_are_out_times_context_width(model: ModelPatcher):
    shapes = kv_shapes(model)
    assert len(shapes) == 14
    assert shapes["input_blocks.1.1.transformer_blocks.0.attn2.to_k"] == (32, tiny.WIDTH)
    assert shapes["middle_block.1.transformer_blocks.0.attn2.to_v"] == (64, tiny.WIDTH)


def test_every_matrix_has_a_kohya_name(model: ModelPatcher):
    assert set(kohya_names(unet_layout(model))) >= set(kv_shapes(model))


def test_fingerprint_is_the_same_for_a_second_load(model: ModelPatcher):
    assert fingerprint(model) == fingerprint(tiny.tiny_model())


def test_fingerprint_sees_a_changed_matrix(model: ModelPatcher):
    other = tiny.tiny_model()
    layer = other.model.diffusion_model.get_submodule(next(iter(kv_shapes(other))))
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert fingerprint(other) != fingerprint(model)


def test_fingerprint_is_the_bases_even_while_patches_are_loaded(model: ModelPatcher):
    plain = fingerprint(model)
    name = next(iter(kv_shapes(model)))
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{name}.weight": ("diff", (torch.ones(32, tiny.WIDTH),))})
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    try:
        assert fingerprint(patched) == plain
    finally:
        comfy.model_management.unload_all_models()


def test_fingerprint_is_the_same_in_half_precision(model: ModelPatcher):
    half = tiny.tiny_model()
    half.model.diffusion_model.half()
    assert fingerprint(half) == fingerprint(model)
