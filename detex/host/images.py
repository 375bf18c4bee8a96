"""ComfyUI's VAE and CLIP vision as plain functions of pixels."""

from collections.abc import Callable, Sequence

import torch
from comfy.clip_vision import ClipVisionModel
from comfy.sd import VAE
from torch import Tensor


def latent_encoder(vae: VAE) -> Callable[[Tensor], Tensor]:
    """pixels [B, S, S, 3] in [0, 1] -> latents [B, 4, h, w] on the CPU, float32.

    As ComfyUI's LATENT: the posterior mean, not yet scaled for a UNet.
    """

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return torch.cat([vae.encode(pixel[None]) for pixel in pixels]).float().cpu()

    return encode


@torch.no_grad()
def image_features(clip_vision: ClipVisionModel, photos: Sequence[Tensor]) -> Tensor:
    """Projected CLIP image embeddings, float32: N photos [H, W, 3] of any sizes -> [N, F]."""
    embeds = [clip_vision.encode_image(photo[None])["image_embeds"] for photo in photos]
    return torch.cat(embeds).float().cpu()
