"""Samples of a model in training, with ComfyUI's own sampler."""

from collections.abc import Mapping

import comfy.k_diffusion.sampling
import comfy.samplers
import numpy as np
import psutil
import torch
from comfy.model_patcher import ModelPatcher
from latent_preview import Latent2RGBPreviewer
from torch import Tensor

from ..canvas.units import gigabytes
from ..photos.photos import Decode
from ..unet.condition import Condition, joined
from .denoiser import ComfyDenoiser

STEPS, CFG = 10, 5.0
SAMPLER, SCHEDULER = comfy.k_diffusion.sampling.sample_dpmpp_2m, "karras"


@torch.no_grad()
def sample(
    denoiser: ComfyDenoiser, conds: Mapping[str, Condition], shape: tuple[int, ...], seed: int
) -> Tensor:
    """Latents [n, 4, h, w], as the UNet reads them, of n prompts from the same noise.

    conds: by caption, one prompt each, "" the empty one beside the n others; shape (4, h, w).
    Sampler, sigmas and their arithmetic are ComfyUI's; the UNet is asked directly, so that nothing
    is loaded, unloaded or patched in the middle of a training, and no shared generator is touched.
    """
    model = denoiser.sampling
    sigmas = comfy.samplers.calculate_sigmas(model, SCHEDULER, STEPS).to(denoiser.device)
    wanted = joined(*(cond for caption, cond in conds.items() if caption))
    both = joined(wanted, conds[""].expand(len(wanted)))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    noise = noise.to(denoiser.device).repeat(len(wanted), 1, 1, 1)

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        scaled, timesteps = model.calculate_input(sigma, x), model.timestep(sigma).float()
        output = denoiser.predict(scaled.repeat(2, 1, 1, 1), timesteps.repeat(2), both)
        cond, uncond = (model.calculate_denoised(sigma, part, x) for part in output.chunk(2))
        return uncond + CFG * (cond - uncond)

    start = model.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), max_denoise=True)
    return SAMPLER(denoised, start, sigmas, disable=True)


@torch.no_grad()
def pixels_of(latents: Tensor, model: ModelPatcher, decode: Decode) -> Tensor:
    """Latents [n, 4, h, w] of a UNet -> pictures [n, H, W, 3] in [0, 1], on the CPU.

    By the VAE where it has room, else by ComfyUI's quick latent preview: one pixel a cell.
    """
    pictures = decode(model.model.process_latent_out(latents))
    if pictures is not None:
        return pictures
    known = model.model.latent_format
    quick = Latent2RGBPreviewer(known.latent_rgb_factors, known.latent_rgb_factors_bias)
    images = [quick.decode_latent_to_preview(latent[None].cpu()) for latent in latents]
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]) / 255


def memory_in_use(device: str) -> str:
    """ "5.1 of 24 GB" of graphics memory at the peak, or "2.1 GB" of RAM on a CPU."""
    kind = torch.device(device)
    if kind.type != "cuda":
        return gigabytes(psutil.Process().memory_info().rss)
    peak, (_, total) = torch.cuda.max_memory_reserved(kind), torch.cuda.mem_get_info(kind)
    return f"{peak / 2**30:.1f} of {total / 2**30:.0f} GB"
