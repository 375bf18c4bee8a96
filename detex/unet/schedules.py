"""The forward diffusion: timesteps, noisy latents, training target."""

import torch
from torch import Tensor


def sample_timesteps(
    count: int, total: int, generator: torch.Generator, *, stratified: bool
) -> Tensor:
    """[count] integers below `total`; stratified: one from each of `count` equal ranges."""
    if not stratified:
        return torch.randint(total, (count,), generator=generator)
    order = torch.randperm(count, generator=generator)
    position = (order + torch.rand(count, generator=generator)) / count
    return (position * total).long().clamp(max=total - 1)


def signal_and_noise(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """a = 1 / sqrt(1 + sigma^2) = sqrt(alpha_bar) and s = sigma a, shaped to scale [B, C, h, w]."""
    signal = (1 + sigmas.float() ** 2).rsqrt()
    return signal.view(-1, 1, 1, 1), (sigmas.float() * signal).view(-1, 1, 1, 1)


def add_noise(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """z_t = a z_0 + s eps.  latents, noise [B, 4, h, w]; sigmas [B]."""
    signal, spread = signal_and_noise(sigmas)
    return signal * latents + spread * noise


def training_target(
    latents: Tensor, noise: Tensor, sigmas: Tensor, *, v_prediction: bool
) -> Tensor:
    """What the UNet should answer: eps, or v = a eps - s z_0 (arXiv 2202.00512)."""
    if not v_prediction:
        return noise
    signal, spread = signal_and_noise(sigmas)
    return signal * noise - spread * latents
