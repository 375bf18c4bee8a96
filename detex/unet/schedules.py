"""The noise of a diffusion model at each timestep, and what its UNet answers: one class a kind."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .transfer import to_device


@dataclass(frozen=True)
class Schedule:
    """The timesteps of a training schedule: z_t = signal z_0 + spread eps.

    sigmas [T], on the CPU: the noise at each timestep, as ComfyUI's model sampling has it.
    """

    sigmas: Tensor
    prediction: ClassVar[str]  # what the UNet answers

    def __len__(self) -> int:
        return len(self.sigmas)

    def sample(self, count: int, generator: torch.Generator, *, stratified: bool = False) -> Tensor:
        """[count] timesteps, on the CPU; stratified: one from each of `count` equal ranges."""
        if not stratified:
            return torch.randint(len(self), (count,), generator=generator)
        order = torch.randperm(count, generator=generator)
        position = (order + torch.rand(count, generator=generator)) / count
        return (position * len(self)).long().clamp(max=len(self) - 1)

    def noisier(self, timesteps: Tensor, root: int = 2) -> Tensor:
        """t = T u^(1 / root) in place of T u: with root 2 three in four lie in the noisier half,
        with 4 fifteen in sixteen. There a picture's layout is decided.
        """
        drawn = (timesteps + 0.5) / len(self)
        return (len(self) * drawn ** (1 / root)).long().clamp(max=len(self) - 1)

    def sigmas_at(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """The noise at timesteps [B] of the CPU, shaped to scale `like` [B, C, h, w]."""
        return to_device(self.sigmas[timesteps], like.device).float().view(-1, 1, 1, 1)

    def scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal a = 1 / sqrt(1 + sigma^2) = sqrt(alpha_bar), and spread s = sigma a."""
        sigmas = self.sigmas_at(timesteps, like)
        signal = (1 + sigmas**2).rsqrt()
        return signal, sigmas * signal

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t. latents, noise [B, 4, h, w]; timesteps [B], on the CPU."""
        signal, spread = self.scales(timesteps, latents)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet should answer, [B, 4, h, w]."""
        raise NotImplementedError


class EpsSchedule(Schedule):
    """The UNet answers with the noise: Stable Diffusion 1.x, XL and most of 2.x."""

    prediction = "eps"

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise


class VSchedule(Schedule):
    """The UNet answers with v = a eps - s z_0 (arXiv 2202.00512)."""

    prediction = "v"

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal, spread = self.scales(timesteps, latents)
        return signal * noise - spread * latents


class FlowSchedule(Schedule):
    """Straight paths z_t = (1 - sigma) z_0 + sigma eps, sigma in [0, 1]; the network answers with
    the velocity eps - z_0 (arXiv 2210.02747, section 4.1). For model families to come.
    """

    prediction = "flow"

    def scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        sigmas = self.sigmas_at(timesteps, like)
        return 1 - sigmas, sigmas

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents


SCHEDULES = {kind.prediction: kind for kind in (EpsSchedule, VSchedule, FlowSchedule)}
