"""Which models are taken, by which name, and how a base is recognised."""

from collections.abc import Callable

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

from detex_pack.detex.host.export import kohya_names
from detex_pack.detex.host.families import (
    DEMO,
    SD1,
    SD2,
    SDXL,
    Family,
    attention_layers,
    check_schedule,
    check_text_to_image,
    cross_attentions,
    family_of,
    fingerprint,
    schedule_of,
    training_side,
    unet_layout,
)
from detex_pack.detex.unet.deltas import text_layers
from detex_pack.detex.unet.schedules import EpsSchedule, Schedule, VSchedule


def patcher_of(config) -> ModelPatcher:
    """A MODEL of this configuration without weights in memory."""
    with torch.device("meta"):
        model = config.get_model({}, "", torch.device("meta"))
    model.model_sampling = comfy.model_base.model_sampling(config, model.model_type)
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


def test_training_side_is_that_of_the_pictures_which_the_model_was_made_for():
    v, eps = comfy.model_base.ModelType.V_PREDICTION, comfy.model_base.ModelType.EPS
    assert training_side(sd15(model_channels=320)) == 512
    assert training_side(of_kind(comfy.supported_models.SD20, v)) == 768
    assert training_side(of_kind(comfy.supported_models.SD20, eps)) == 512
    assert training_side(of_kind(comfy.supported_models.SDXL)) == 1024
    assert training_side(of_kind(comfy.supported_models.SD15)) == 64  # small: the demo model


def of_kind(kind: type, model_type: object = None, **unet) -> ModelPatcher:
    """A MODEL of one of ComfyUI's kinds, at the size of tiny.py's, without weights in memory."""
    config = kind({**tiny.UNETS.get(kind, tiny.UNET), **unet})
    config.set_inference_dtype(torch.float32, None)
    if model_type is not None:
        config.model_type = lambda state_dict, prefix="": model_type
    return patcher_of(config)


INPAINTING = [
    (comfy.supported_models.SD15, DEMO),
    (comfy.supported_models.SD20, SD2),
    (comfy.supported_models.SDXL, SDXL),
]


@pytest.mark.parametrize(("kind", "family"), INPAINTING, ids=["1.x", "2.x", "XL"])
def test_inpainting_model_is_of_its_bases_family_but_not_trained_on(kind: type, family: Family):
    model = of_kind(kind, in_channels=9)
    assert family_of(model) == family
    with pytest.raises(ValueError, match=f"is an inpainting .* on {family} without such inputs"):
        check_text_to_image(model)


@pytest.mark.parametrize(("kind", "_family"), INPAINTING, ids=["1.x", "2.x", "XL"])
def test_plain_model_is_trained_on(kind: type, _family: Family):
    model = of_kind(kind)
    check_text_to_image(model)
    check_schedule(model)


def test_sdxl_is_stable_diffusion_xl():
    assert family_of(of_kind(comfy.supported_models.SDXL)) == SDXL


def flux() -> ModelPatcher:
    unet = {"image_model": "flux", "in_channels": 16, "vec_in_dim": 8, "context_in_dim": 8}
    unet |= {"hidden_size": 16, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "out_channels": 16}
    unet |= {"depth_single_blocks": 1, "axes_dim": [2, 2, 4], "theta": 10, "patch_size": 2}
    unet |= {"qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
    return patcher_of(comfy.supported_models.Flux(unet))


def stable_diffusion_3() -> ModelPatcher:
    unet = {"in_channels": 16, "depth": 1, "patch_size": 2, "pos_embed_scaling_factor": None}
    unet |= {"adm_in_channels": 16, "input_size": None, "pos_embed_max_size": 8}
    unet |= {"context_embedder_config": CONTEXT, "num_patches": 64}
    return patcher_of(comfy.supported_models.SD3(unet))


CONTEXT = {
    "target": "torch.nn.Linear",
    "params": {"in_features": 32, "out_features": 64},
}


def video() -> ModelPatcher:
    kind = comfy.supported_models.SVD_img2vid
    return of_kind(kind, in_channels=8, adm_in_channels=768, num_classes="sequential")


def refiner() -> ModelPatcher:
    kind = comfy.supported_models.SDXLRefiner
    return of_kind(kind, adm_in_channels=2560, num_classes="sequential")


@pytest.mark.parametrize("other", [flux, stable_diffusion_3, video, refiner])
def test_other_kinds_are_refused_in_a_sentence_that_names_what_works(other: Callable):
    model = other()
    works = "Stable Diffusion 1.x, Stable Diffusion 2.x and Stable Diffusion XL models"
    kind = type(model.model.model_config).__name__
    with pytest.raises(ValueError, match=f"DETEX works on {works}; the MODEL .* is of kind {kind}"):
        check_text_to_image(model)


@pytest.mark.parametrize("kind", ["EDM", "V_PREDICTION_EDM"])
def test_model_of_another_noise_schedule_is_not_trained_on(kind: str):
    model = of_kind(comfy.supported_models.SDXL, comfy.model_base.ModelType[kind])
    with pytest.raises(ValueError, match="has another noise schedule than Stable Diffusion's"):
        check_schedule(model)


def test_lcm_patch_is_not_trained_on():
    (patched,) = ModelSamplingDiscrete().patch(of_kind(comfy.supported_models.SD20), "lcm", False)
    with pytest.raises(ValueError, match="without Model Sampling nodes before the training"):
        check_schedule(patched)


@pytest.mark.parametrize("zsnr", [False, True])
def test_v_prediction_patch_is_trained_on(zsnr: bool):
    plain = of_kind(comfy.supported_models.SD20)
    (patched,) = ModelSamplingDiscrete().patch(plain, "v_prediction", zsnr)
    check_schedule(patched)
    assert isinstance(schedule_of(patched), VSchedule)


@pytest.mark.parametrize(("v_prediction", "kind"), [(False, EpsSchedule), (True, VSchedule)])
def test_prediction_kind_is_the_models(v_prediction: bool, kind: type[Schedule]):
    assert type(schedule_of(tiny.tiny_model(v_prediction=v_prediction))) is kind


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
    layers = {layer.path: (layer.out, layer.inp) for layer in text_layers(attention_layers(model))}
    assert len(layers) == 14
    assert layers["input_blocks.1.1.transformer_blocks.0.attn2.to_k"] == (32, tiny.WIDTH)
    assert layers["middle_block.1.transformer_blocks.0.attn2.to_v"] == (64, tiny.WIDTH)


def test_layers_that_may_be_changed_are_q_k_v_and_out_of_all_attention(model: ModelPatcher):
    layers = {layer.path: layer for layer in attention_layers(model)}
    assert len(layers) == 7 * 2 * 4  # transformers, self- and cross-attention, matrices
    stem = "middle_block.1.transformer_blocks.0"
    assert layers[f"{stem}.attn1.to_k"] == (f"{stem}.attn1.to_k", 64, 64, False)
    assert layers[f"{stem}.attn2.to_out.0"] == (f"{stem}.attn2.to_out.0", 64, 64, False)
    assert layers[f"{stem}.attn2.to_q"] == (f"{stem}.attn2.to_q", 64, 64, False)
    reading = {path.rpartition(".")[2] for path, layer in layers.items() if layer.text}
    assert reading == {"to_k", "to_v"}


def test_every_matrix_has_a_kohya_name(model: ModelPatcher):
    assert set(kohya_names(unet_layout(model))) >= {layer.path for layer in attention_layers(model)}


def test_fingerprint_is_the_same_for_a_second_load(model: ModelPatcher):
    assert fingerprint(model) == fingerprint(tiny.tiny_model())


def first_text_layer(model: ModelPatcher) -> str:
    return text_layers(attention_layers(model))[0].path


def test_fingerprint_sees_a_changed_matrix(model: ModelPatcher):
    other = tiny.tiny_model()
    layer = other.model.diffusion_model.get_submodule(first_text_layer(other))
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert fingerprint(other) != fingerprint(model)


def test_fingerprint_is_the_bases_even_while_patches_are_loaded(model: ModelPatcher):
    plain = fingerprint(model)
    name = first_text_layer(model)
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
