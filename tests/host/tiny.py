"""Small real host models with random, seeded weights: MODEL, CLIP, VAE, CLIP_VISION."""

import comfy.clip_vision
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

WIDTH = 32  # of the text tower and the UNet's context
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": WIDTH,
    "num_heads": 2,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
TEXT = {
    "clip_l_model_config": {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_positions": 77,
    }
}
VAE_CONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
VISION = {
    "num_channels": 3,
    "hidden_act": "quick_gelu",
    "hidden_size": 32,
    "image_size": 32,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-5,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 8,
    "projection_dim": 24,
}


@torch.no_grad()
def seeded(module: torch.nn.Module, seed: int) -> None:
    """Reasonable random weights: some host modules come uninitialised or zeroed."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            scale = 0.02 if "embed" in name else parameter[0].numel() ** -0.5
            parameter.normal_(0, scale, generator=generator)


def tiny_model(family=comfy.supported_models.SD15, v_prediction=False, disable_dynamic=False):  # noqa: FBT002
    wide = {"model_channels": 64} if family is comfy.supported_models.SD20 else {}  # heads of 64
    config = family({**UNET, **wide})
    config.set_inference_dtype(torch.float32, None)
    if v_prediction:
        config.model_type = lambda state_dict, prefix="": comfy.model_base.ModelType.V_PREDICTION
    model = config.get_model({}, "", torch.device("cpu"))
    model.latent_format.spacial_downscale_ratio = 4  # as tiny_vae
    seeded(model.diffusion_model, 1)
    kind = comfy.model_patcher.ModelPatcher
    patcher = kind(model, torch.device("cpu"), torch.device("cpu"))
    patcher.cached_patcher_init = (_again, (tiny_model, family, v_prediction))
    return patcher


def _again(build, *args, disable_dynamic=False):  # noqa: FBT002
    return build(*args)


def tiny_clip(embedding_directory=None) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(
        comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    )
    options = {**TEXT, "dtype": torch.float32, "load_device": torch.device("cpu")}
    clip = comfy.sd.CLIP(
        target, embedding_directory=embedding_directory, model_options=options, disable_dynamic=True
    )
    seeded(clip.cond_stage_model, 2)
    clip.patcher.cached_patcher_init = (_again, (_clip_patcher, embedding_directory))
    return clip


def _clip_patcher(embedding_directory):
    return tiny_clip(embedding_directory).patcher


def tiny_vae() -> comfy.sd.VAE:
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": VAE_CONFIG, "embed_dim": 4}})
    seeded(vae.first_stage_model, 3)
    return vae


def tiny_clip_vision() -> comfy.clip_vision.ClipVisionModel:
    vision = comfy.clip_vision.ClipVisionModel(VISION)
    seeded(vision.model, 4)
    return vision
