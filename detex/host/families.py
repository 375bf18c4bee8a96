"""Which models DETEX works on, and how a concept recognises them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management as model_management
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import EPS, V_PREDICTION
from torch import Tensor

from ..unet.condition import Condition
from ..unet.deltas import Layer, text_layers
from ..unet.schedules import EpsSchedule, Schedule, VSchedule
from .demo_model import DemoSD15

# A BaseModel of ComfyUI, B conditions with their sizes -> what the UNet takes as `y` [B, D].
Vector = Callable[[Any, Condition], Tensor | None]


def no_vector(_model: Any, _cond: Condition) -> None:
    """Stable Diffusion 1.x and 2.x take the text features alone."""


def sdxl_vector(model: Any, cond: Condition) -> Tensor:
    """The prompt as a whole and six sizes, each as 256 sines: [B, 1280 + 6 * 256], as ComfyUI's
    SDXL.encode_adm has it.
    """
    size_ids: Any = cond.size_ids
    sines = model.embedder(size_ids.flatten().float()).view(len(size_ids), -1)
    return torch.cat([cond.pooled, sines.to(cond.pooled)], dim=1)


@dataclass(frozen=True)
class Family:
    """How the models of one kind differ from those of another."""

    name: str
    rank: int | None = None  # of the K, V deltas where the settings name none; None: full matrices
    side: int = 512  # pixels of its pictures
    vector: Vector = no_vector

    def __str__(self) -> str:
        return self.name


SD1 = Family("Stable Diffusion 1.x")
SD2 = Family("Stable Diffusion 2.x")
SDXL = Family("Stable Diffusion XL", rank=16, side=1024, vector=sdxl_vector)
DEMO = Family("the DETEX demo model", side=64)
WORKING = f"{SD1}, {SD2} and {SDXL}"

KNOWN_ANSWERS = (EPS.calculate_denoised, V_PREDICTION.calculate_denoised)

KINDS = {
    comfy.supported_models.SD15: SD1,
    DemoSD15: DEMO,
    comfy.supported_models.SD20: SD2,
    comfy.supported_models.SDXL: SDXL,
}


@dataclass(frozen=True)
class CrossAttention:
    """One attn2 of the UNet: its path, and ComfyUI's patch key (block, number, transformer)."""

    path: str  # "input_blocks.1.1.transformer_blocks.0.attn2"
    block: str  # "input", "middle" or "output"
    number: int
    transformer: int
    level: int  # how many times the latents were halved on the way to it

    @property
    def key(self) -> tuple[str, int, int]:
        return self.block, self.number, self.transformer


def family_of(model: ModelPatcher) -> Family:
    """The model's family, inpainting models included. Raises ValueError for all that DETEX does not
    work on.
    """
    config = model.model.model_config
    family = KINDS.get(type(config))  # exactly: subclasses are made for other inputs
    if family is None:
        raise ValueError(
            f"DETEX works on {WORKING} models; the MODEL wired here is of kind "
            f"{type(config).__name__}. Load such a checkpoint with Load Checkpoint."
        )
    small = config.unet_config["model_channels"] != 320
    return DEMO if family is SD1 and small else family


def check_text_to_image(model: ModelPatcher) -> None:
    """Raise ValueError for models that a concept may be applied to but not trained on."""
    family = family_of(model)
    if model.model.model_config.unet_config.get("in_channels", 4) != 4:
        raise ValueError(
            "The MODEL wired here is an inpainting or image-conditioned model. Train the concept "
            f"on {family} without such inputs; what it learns there can be applied here."
        )


def check_schedule(model: ModelPatcher) -> None:
    """Raise ValueError unless the UNet answers with noise or v at Stable Diffusion's timesteps."""
    sampling: Any = model.get_model_object("model_sampling")
    answers = type(sampling).calculate_denoised in KNOWN_ANSWERS
    steps = torch.arange(len(sampling.sigmas))
    if not answers or not torch.equal(sampling.timestep(sampling.sigmas).long().cpu(), steps):
        raise ValueError(
            "The MODEL wired here has another noise schedule than Stable Diffusion's, as EDM and "
            "LCM models have, or a sampling patch that gives it one. Train on "
            f"{family_of(model)} as it is, without Model Sampling nodes before the training."
        )


def check_latent_scale(model: ModelPatcher, pixels: int, latents: int) -> None:
    """Raise ValueError where a VAE that makes `latents` cells of `pixels` a side is not MODEL's."""
    scale = model.model.latent_format.spacial_downscale_ratio
    if latents * scale != pixels:
        raise ValueError(
            f"The VAE of the photos makes one latent cell of {pixels // max(latents, 1)} pixels, "
            f"the MODEL wired here works on cells of {scale}: they are not of the same checkpoint. "
            "Wire this checkpoint's VAE into Subject Images, or into Concepts in One Photo."
        )


def schedule_of(model: ModelPatcher) -> Schedule:
    """The noise schedule the UNet was trained with, a patch of it included."""
    sampling: Any = model.get_model_object("model_sampling")
    return schedule_kind(model)(sampling.sigmas.detach().float().cpu().clone())


def schedule_kind(model: ModelPatcher) -> type[Schedule]:
    """By what the UNet answers, a patch of it included."""
    is_v = isinstance(model.get_model_object("model_sampling"), V_PREDICTION)
    return VSchedule if is_v else EpsSchedule


def training_side(model: ModelPatcher) -> int:
    """Pixels a side of the pictures that the model was made for: 2.x answers with v at 768."""
    family = family_of(model)
    return 768 if family is SD2 and schedule_kind(model) is VSchedule else family.side


def restore_unet(patcher: ModelPatcher) -> None:
    """Have ComfyUI put the model's own UNet back: what another node puts in its place, such as a
    compiled one with other names, stays there until ComfyUI unloads it.
    """
    if any(name.startswith("diffusion_model") for name in patcher.object_patches_backup):
        model_management.unload_all_models()


def cross_attentions(model: ModelPatcher) -> list[CrossAttention]:
    """Every attn2 of the UNet, in the order of the forward pass."""
    restore_unet(model)
    layers, level = [], 0
    for path, module in model.model.diffusion_model.named_modules():
        level += isinstance(module, Downsample) - isinstance(module, Upsample)
        if not path.endswith(".attn2") or not hasattr(module, "to_k"):
            continue
        parts = path.split(".")
        block = parts[0].removesuffix("_blocks").removesuffix("_block")
        number = 0 if block == "middle" else int(parts[1])
        layers.append(CrossAttention(path, block, number, int(parts[-2]), level))
    return layers


def attention_layers(model: ModelPatcher) -> tuple[Layer, ...]:
    """The linear layers of all attention, in the order of the forward pass. Those of an attn2 that
    read text are its K and V.
    """
    restore_unet(model)
    found = []
    for path, module in model.model.diffusion_model.named_modules():
        kind = path.rpartition(".")[2]
        if kind not in ("attn1", "attn2") or not hasattr(module, "to_k"):
            continue
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            out, inp = module.get_submodule(part).weight.shape
            text = kind == "attn2" and part in ("to_k", "to_v")
            found.append(Layer(f"{path}.{part}", out, inp, text))
    return tuple(found)


def unet_layout(model: ModelPatcher) -> dict:
    """The part of the UNet's configuration that names its layers."""
    config = model.model.model_config.unet_config
    keys = ("num_res_blocks", "channel_mult", "transformer_depth", "transformer_depth_output")
    layout = {key: list(config[key]) for key in keys}
    return layout | {"transformer_depth_middle": config["transformer_depth_middle"]}


def fingerprint(model: ModelPatcher) -> str:
    """A hash of the base K and V matrices, the same for half- and full-precision copies."""
    digest, weights = hashlib.sha256(), base_weights(model)
    for layer in text_layers(attention_layers(model)):
        weight = weights[f"diffusion_model.{layer.path}.weight"]
        digest.update(weight.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def base_weights(patcher: ModelPatcher) -> dict[str, Tensor]:
    """All weights as the checkpoint has them, whether or not ComfyUI has patched them by now."""
    restore_unet(patcher)
    unpatched = {key: entry.weight for key, entry in patcher.backup.items()}
    return {**patcher.model_state_dict(), **unpatched}
