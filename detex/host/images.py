"""ComfyUI's VAE and CLIP vision as plain functions of pixels."""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.sd import VAE
from torch import Tensor

CLIP_KIND = "clip_vision_model"  # ComfyUI's name


def latent_encoder(vae: VAE) -> Callable[[Tensor], Tensor]:
    """pixels [B, S, S, 3] in [0, 1] -> latents [B, 4, h, w] on the CPU, float32.

    As ComfyUI's LATENT: the posterior mean, not yet scaled for a UNet.
    """

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        latents = torch.cat([vae.encode(pixel[None]) for pixel in pixels]).float().cpu()
        check_latents(latents)
        return latents

    return encode


def latent_decoder(vae: VAE) -> Callable[[Tensor], Tensor | None]:
    """latents [B, 4, h, w] -> pixels [B, H, W, 3] in [0, 1] on the CPU, while a training runs.

    None where the VAE has no room beside the model in training, which must not be unloaded for it;
    so also under --disable-smart-memory, where ComfyUI unloads all else for each model.
    """

    @torch.inference_mode()  # as ComfyUI's nodes, which use what the VAE's weights become here
    def decode(latents: Tensor) -> Tensor | None:
        needed = vae.memory_used_decode(latents.shape, vae.vae_dtype) + vae.patcher.model_size()
        return vae.decode(latents).float().cpu() if has_room(needed, vae.device) else None

    return decode


def has_room(needed: float, device: torch.device) -> bool:
    """Whether so many bytes are surely free beside a model in training, so that ComfyUI will not
    unload it.
    """
    free: Any = model_management.get_free_memory(device)  # a tuple only where asked for
    reserve = model_management.minimum_inference_memory()
    return not model_management.DISABLE_SMART_MEMORY and free >= 2 * needed + reserve


def check_latents(latents: Tensor) -> None:
    """Raise ValueError for latents [B, C, h, w] that no Stable Diffusion can be fed."""
    if latents.ndim != 4 or latents.shape[1] != 4:
        raise ValueError(
            f"This VAE makes latents of {latents.shape[1]} channels; Stable Diffusion 1.x, 2.x and "
            "XL have 4. Wire the VAE of the checkpoint you train on."
        )
    if not torch.isfinite(latents).all():
        raise ValueError(
            "The VAE answered with NaN, as some do in half precision. Start ComfyUI with "
            "--fp32-vae."
        )


def rgb(pictures: Tensor) -> Tensor:
    """Grey, RGB or RGBA [..., C] -> [..., 3]; transparency is ignored."""
    if pictures.shape[-1] == 1:
        return pictures.expand(*pictures.shape[:-1], 3)
    return pictures[..., :3]


def photos_of(images: Sequence[Tensor]) -> list[Tensor]:
    """Each photo [H, W, 3] of a list of IMAGEs, on the CPU."""
    return [rgb(photo).cpu() for batch in images for photo in batch]


def planes_of(masks: Sequence[Tensor]) -> list[Tensor]:
    """Each mask [H, W] of a list of MASKs, on the CPU."""
    batches = (batch.reshape(-1, *batch.shape[-2:]) for batch in masks)
    return [plane.cpu() for batch in batches for plane in batch]


def feature_encoder(clip_vision: ClipVisionModel) -> Callable[[Tensor], Tensor]:
    """pixels [N, S, S, 3] in [0, 1] -> projected CLIP image embeddings [N, F], CPU float32.

    Raises ValueError for an encoder of another kind, and while encoding where it gives NaN.
    """
    if getattr(clip_vision, "model_type", CLIP_KIND) != CLIP_KIND:
        raise ValueError(
            "The CLIP_VISION wired here is of another kind than CLIP, such as SigLIP or DINO; the "
            "words cannot be learned from what it sees. Wire CLIP ViT-L/14."
        )

    @torch.no_grad()
    def see(pixels: Tensor) -> Tensor:
        features = clip_vision.encode_image(pixels)["image_embeds"].float().cpu()
        if not torch.isfinite(features).all():
            raise ValueError(
                "The CLIP_VISION wired here answered with NaN. Load its file again, or another "
                "one of CLIP ViT-L/14."
            )
        return features

    return see
