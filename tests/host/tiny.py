"""Small real host models with random, seeded weights: MODEL, CLIP, VAE, CLIP_VISION."""

from typing import Any

import comfy.clip_vision
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.sd2_clip
import torch

from detex_pack.detex.host.demo_model import build_vision
from detex_pack.detex.unet.condition import Condition
from devtools.checkpoints import SD15_UNET

WIDTH = 32  # of the text tower and the UNet's context
WIDTHS = {"l": WIDTH, "g": 40}  # of SDXL's two
UNET = {
    **SD15_UNET,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": WIDTH,
    "num_heads": 2,
}
SD20_UNET = {**UNET, "model_channels": 64}  # heads of 64
SDXL_UNET = {
    **UNET,
    "transformer_depth": [0, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 2, 2],
    "context_dim": sum(WIDTHS.values()),
    "num_heads": -1,
    "num_head_channels": 32,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": WIDTHS["g"] + 6 * 256,
}
UNETS = {
    comfy.supported_models.SD15: UNET,
    comfy.supported_models.SD20: SD20_UNET,
    comfy.supported_models.SDXL: SDXL_UNET,
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
DEEP = {**TEXT["clip_l_model_config"], "num_hidden_layers": 3}
CLIP_OPTIONS = {
    comfy.sd1_clip.SD1ClipModel: TEXT,
    comfy.text_encoders.sd2_clip.SD2ClipModel: {"clip_h_model_config": DEEP},
    comfy.sdxl_clip.SDXLClipModel: {
        "clip_l_model_config": DEEP,
        "clip_g_model_config": {**DEEP, "hidden_size": WIDTHS["g"]},
    },
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


def tiny_model(
    family=comfy.supported_models.SD15,
    v_prediction=False,  # noqa: FBT002
    disable_dynamic=False,  # noqa: FBT002
    stored=torch.float32,
    marks=(),
):
    """stored: the precision of the weights; they are computed with in float32, as on a CPU.
    marks: keys of the checkpoint that ComfyUI reads the kind of prediction from.
    """
    config = family(dict(UNETS[family]))
    config.set_inference_dtype(stored, None if stored is torch.float32 else torch.float32)
    if v_prediction:
        config.model_type = lambda state_dict, prefix="": comfy.model_base.ModelType.V_PREDICTION
    model = config.get_model(dict.fromkeys(marks, torch.zeros(0)), "", torch.device("cpu"))
    model.latent_format.spacial_downscale_ratio = 4  # as tiny_vae
    seeded(model.diffusion_model.float(), 1)
    model.diffusion_model.to(stored)
    kind = comfy.model_patcher.ModelPatcher
    patcher = kind(model, torch.device("cpu"), torch.device("cpu"))
    patcher.cached_patcher_init = (_again, (tiny_model, family, v_prediction, False, stored, marks))
    return patcher


def tiny_inpainting_model(family=comfy.supported_models.SD15):
    """Nine channels in: the latents, a mask and the masked picture."""
    config = family({**UNETS[family], "in_channels": 9})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", torch.device("cpu"))
    model.latent_format.spacial_downscale_ratio = 4
    seeded(model.diffusion_model, 7)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def _again(build, *args, disable_dynamic=False):  # noqa: FBT002
    return build(*args)


def tiny_clip(embedding_directory=None, stored=torch.float32) -> comfy.sd.CLIP:
    module = comfy.sd1_clip
    return built_clip(module.SD1Tokenizer, module.SD1ClipModel, embedding_directory, stored)


def tiny_sd2_clip(embedding_directory=None, stored=torch.float32) -> comfy.sd.CLIP:
    """SD 2.x's tower "h": pads with 0 and stops before its last layer."""
    module = comfy.text_encoders.sd2_clip
    return built_clip(module.SD2Tokenizer, module.SD2ClipModel, embedding_directory, stored)


def tiny_sdxl_clip(embedding_directory=None, stored=torch.float32) -> comfy.sd.CLIP:
    """SDXL's towers "l" and "g", of different widths."""
    module = comfy.sdxl_clip
    return built_clip(module.SDXLTokenizer, module.SDXLClipModel, embedding_directory, stored)


def built_clip(tokenizer, model, embedding_directory, stored) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(tokenizer, model)
    options = {**CLIP_OPTIONS[model], "dtype": torch.float32, "load_device": torch.device("cpu")}
    clip = comfy.sd.CLIP(
        target, embedding_directory=embedding_directory, model_options=options, disable_dynamic=True
    )
    seeded(clip.cond_stage_model, 2)
    clip.cond_stage_model.to(stored)
    for name, width in WIDTHS.items():  # embedding files are checked against it
        if model is comfy.sdxl_clip.SDXLClipModel:
            getattr(clip.tokenizer, f"clip_{name}").embedding_size = width
    again = (_clip_patcher, tokenizer, model, embedding_directory, stored)
    clip.patcher.cached_patcher_init = (_again, again)
    return clip


def _clip_patcher(*args):
    return built_clip(*args).patcher


def condition(context: torch.Tensor) -> Condition:
    """Text features [B, T, C] alone, as SD 1.x takes them."""
    return Condition(context, context[:, 0, :0])


def tiny_vae() -> comfy.sd.VAE:
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": VAE_CONFIG, "embed_dim": 4}})
    seeded(vae.first_stage_model, 3)
    return vae


def tiny_clip_vision(**changes: Any) -> comfy.clip_vision.ClipVisionModel:
    vision = build_vision(VISION | changes, {})
    seeded(vision.model, 4)
    return vision
