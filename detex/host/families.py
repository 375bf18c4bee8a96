"""Which models DETEX works on, and how a concept recognises them."""

import hashlib
from dataclasses import dataclass

import comfy.model_sampling
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from .demo_model import DemoSD15

SD1 = "Stable Diffusion 1.x"
SD2 = "Stable Diffusion 2.x"
DEMO = "the DETEX demo model"


@dataclass(frozen=True)
class CrossAttention:
    """One attn2 of the UNet: its path, and ComfyUI's patch key (block, number, transformer)."""

    path: str  # "input_blocks.1.1.transformer_blocks.0.attn2"
    block: str  # "input", "middle" or "output"
    number: int
    transformer: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.block, self.number, self.transformer


def family_of(model: ModelPatcher) -> str:
    """The model's family by name. Raises ValueError for what DETEX does not work on."""
    config = model.model.model_config
    unet = config.unet_config
    kind = type(config)  # exactly: subclasses are image-conditioned variants
    if unet.get("in_channels", 4) != 4:
        raise ValueError(
            "The MODEL wired here is an inpainting or image-conditioned model. Train the concept "
            f"on a plain {SD1} or {SD2} checkpoint."
        )
    if kind in (comfy.supported_models.SD15, DemoSD15):
        return SD1 if unet["model_channels"] == 320 else DEMO
    if kind is comfy.supported_models.SD20:
        return SD2
    raise ValueError(
        f"DETEX works on {SD1} and {SD2} models; the MODEL wired here is of kind "
        f"{kind.__name__}. Load such a checkpoint with Load Checkpoint."
    )


def check_latent_scale(model: ModelPatcher, pixels: int, latents: int) -> None:
    """Raise ValueError where a VAE that makes `latents` cells of `pixels` a side is not MODEL's."""
    scale = model.model.latent_format.spacial_downscale_ratio
    if latents * scale != pixels:
        raise ValueError(
            f"The subject's VAE makes one latent cell of {pixels // max(latents, 1)} pixels, the "
            f"MODEL wired here works on cells of {scale}: they are not of the same checkpoint. "
            "Wire this checkpoint's VAE into Subject Images."
        )


def is_v_prediction(model: ModelPatcher) -> bool:
    return isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)


def cross_attentions(model: ModelPatcher) -> list[CrossAttention]:
    """Every attn2 of the UNet, in the order of the forward pass."""
    layers = []
    for path, module in model.model.diffusion_model.named_modules():
        if not path.endswith(".attn2") or not hasattr(module, "to_k"):
            continue
        parts = path.split(".")
        block = parts[0].removesuffix("_blocks").removesuffix("_block")
        number = 0 if block == "middle" else int(parts[1])
        layers.append(CrossAttention(path, block, number, int(parts[-2])))
    return layers


def kv_shapes(model: ModelPatcher) -> dict[str, tuple[int, int]]:
    """ "….attn2.to_k" and "….attn2.to_v" -> (out, in) of every cross-attention."""
    unet = model.model.diffusion_model
    return {
        name: tuple(unet.get_submodule(name).weight.shape)
        for layer in cross_attentions(model)
        for name in (f"{layer.path}.to_k", f"{layer.path}.to_v")
    }


def unet_layout(model: ModelPatcher) -> dict:
    """The part of the UNet's configuration that names its layers."""
    config = model.model.model_config.unet_config
    keys = ("num_res_blocks", "channel_mult", "transformer_depth", "transformer_depth_output")
    layout = {key: list(config[key]) for key in keys}
    return layout | {"transformer_depth_middle": config["transformer_depth_middle"]}


def fingerprint(model: ModelPatcher) -> str:
    """A hash of the base K and V matrices, the same for half- and full-precision copies."""
    digest = hashlib.sha256()
    for name in kv_shapes(model):
        weight = base_weight(model, f"diffusion_model.{name}.weight")
        digest.update(weight.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def hash_tensor(digest, tensor: torch.Tensor | None) -> None:
    """Add a tensor's type, shape and bytes to a hash."""
    if tensor is None:
        digest.update(b"none")
        return
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    plain = tensor.detach().cpu().contiguous().flatten()
    digest.update(plain.view(torch.uint8).numpy())


def base_weight(model: ModelPatcher, key: str) -> torch.Tensor:
    """A weight as the checkpoint has it, whether or not ComfyUI has patched it by now."""
    if key in model.backup:
        return model.backup[key].weight
    return model.model_state_dict(key)[key]
