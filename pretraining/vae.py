"""Trains the AutoencoderKL: 64x64 pictures to 16x16 latents of four channels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch.nn import functional as F

from .common import (
    Average,
    Clock,
    Team,
    device,
    initialise,
    learning_rate,
    load,
    restore,
    save,
    sheet,
)
from .worlds import Run

# GroupNorm has 32 groups: with 32 channels it would be an instance norm, which erases every
# picture's mean colour just before the output. Hence 64 channels at the full resolution. Every
# block begins as the identity, so that training can go on from weights of fewer blocks.
CHECKPOINT = "vae.pt"
ENCODER = ("encoder", "quant_conv")
LATENT_SCALE = 0.18215
_DD = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 64,
    "ch_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
CONFIG: dict[str, Any] = {
    "params": {"ddconfig": _DD, "embed_dim": 4},
    "downscale_ratio": 4,
}
_BATCH = 12
PEAK = 2e-3
_LATENT_NOISE = 0.08

log = logging.getLogger(__name__)


def build() -> AutoencoderKL:
    """An AutoencoderKL with starting values: a residual block adds nothing yet."""
    model = AutoencoderKL(**CONFIG["params"])
    initialise(model, seed=11)
    for name, p in model.named_parameters():
        if name.endswith("conv2.weight"):
            torch.nn.init.zeros_(p)
    return model.to(device())


def as_input(images: torch.Tensor) -> torch.Tensor:
    """Pictures [B,64,64,3] in 0..1 as the VAE wants them, [B,3,64,64] in -1..1."""
    return (images * 2 - 1).permute(0, 3, 1, 2).contiguous().to(device())


@torch.no_grad()
def coded(model: AutoencoderKL, images: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
    """Pictures [B,64,64,3] as the VAE gives them back, their latents so noisy."""
    pieces = []
    for part in images.split(64):
        z = model.encode(as_input(part))
        y = model.decode(z + noise * torch.randn_like(z)).clamp(-1, 1)
        pieces.append((y.permute(0, 2, 3, 1) / 2 + 0.5).cpu())
    return torch.cat(pieces)


def loss(
    model: torch.nn.Module,
    images: torch.Tensor,
    subject: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """L1 at full, quarter and eighth resolution, plus a pull of the latents to unit size.

    The subject is a seventh of the picture and carries all the colours, so it counts more.
    """
    x, subject = as_input(images), subject.unsqueeze(1).to(device())
    weight = 0.3 + 5.0 * F.max_pool2d(subject, 5, stride=1, padding=2)
    z = model.encode(x)
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    error = weight * (model.decode(z + _LATENT_NOISE * noise) - x)
    terms = error.abs().mean() + 0.25 * error.square().mean()
    for side in (4, 8):
        terms = terms + 1.5 * F.avg_pool2d(error, side).abs().mean()
    pull = (z.square().mean((0, 2, 3)) - 1).square().mean() + z.mean((0, 2, 3)).square().mean()
    return terms + 0.02 * pull


def train(
    run: Run, minutes: float, steps: int, peak: float = PEAK, frozen: Sequence[str] = ()
) -> None:
    """Trains or goes on training; the averaged weights end up in the checkpoint.

    It sees every identity, as Stable Diffusion's VAE has seen everything: only the denoiser must
    not know those held out. With the `ENCODER` parts frozen, cached latents stay true.
    """
    team = Team()
    model = build().to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    for name in frozen:
        getattr(model, name).requires_grad_(requires_grad=False)
    learned = [p for p in parameters if p.requires_grad]
    average = Average(parameters, 0.995)
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=1e-4)
    clock, step = Clock(minutes, steps), 0
    if held := load(run.file(CHECKPOINT)):
        model.load_state_dict(held["model"])
        average.values = held["average"]
        if "optimiser" in held:
            optimiser.load_state_dict(held["optimiser"])
        clock.spent, step = held["seconds"], held["step"]
    generator = torch.Generator().manual_seed(21 + 1000 * step + team.rank)
    while (progress := team.agree(clock.progress(step))) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(peak, step, progress, 50, 0.35)
        scenes = run.world.any_scenes(_BATCH // team.size, generator)
        value = loss(model, *run.world.render(scenes), generator)
        optimiser.zero_grad()
        value.backward()
        team.average_gradients(learned)
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        step += 1
        average.update(parameters, step)
        if team.leads and step % 50 == 0:
            log.info("vae step %d, %.0f s, loss %.4f", step, clock.seconds(), value.item())
        if team.leads and step % 250 == 0:
            _keep(run, model, average, optimiser, clock, step)
    if team.leads:
        _keep(run, model, average, optimiser, clock, step)


def _keep(run: Run, model: Any, average: Average, optimiser: Any, clock: Clock, step: int) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.values,
        "optimiser": optimiser.state_dict(),
        "seconds": clock.seconds(),
        "step": step,
    }
    save(run.file(CHECKPOINT), state)
    log.info("vae step %d: %.2f dB on new pictures", step, psnr(run, trained(run)))


def trained(run: Run) -> AutoencoderKL:
    """The averaged model of the checkpoint."""
    held = load(run.file(CHECKPOINT), made_by="vae")
    model = build()
    restore(model.parameters(), held["average"])
    return model.eval()


def psnr(run: Run, model: AutoencoderKL, count: int = 48) -> float:
    """Reconstruction quality on new pictures in dB; also writes vae.png."""
    x = run.world.render(run.world.any_scenes(count, torch.Generator().manual_seed(31)))[0]
    y = coded(model, x)
    sheet(torch.stack((x, y), 1).flatten(0, 1)[:48], run.file("vae.png"), scale=3)
    error = (y - x).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())
