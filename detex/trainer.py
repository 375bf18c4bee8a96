"""The training loop: any method, any host."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .attention import AttentionTap
from .config import TrainConfig
from .interfaces import Denoiser, OnStep
from .kv import KVDeltas
from .losses import weighted_total
from .noise import add_noise, sample_timesteps, training_target

CHECK_EVERY = 10  # steps between looks at whether the loss is still a number


class Method(Protocol):
    """What a training method tells the loop. `batch` is the method's own value."""

    config: Any
    deltas: KVDeltas
    weights: dict[str, float]

    def parameter_groups(self) -> list[dict]: ...
    def sample_batch(self) -> Any: ...
    def cond(self, batch: Any) -> Tensor: ...
    def tap(self, batch: Any) -> AttentionTap | None: ...
    def loss_terms(
        self, batch: Any, output: Tensor, target: Tensor, tap: AttentionTap | None
    ) -> dict[str, Tensor]: ...


def train(
    method: Method, denoiser: Denoiser, config: TrainConfig, on_step: OnStep
) -> dict[str, list[float]]:
    """Run `config.steps` steps; the method's parameters hold the result. -> each term's history.

    Randomness comes from private generators alone: the same seed gives the same bytes on a CPU,
    and on a GPU as far as its kernels repeat themselves. An exception from `on_step` (a cancel)
    ends the run at once.
    Raises FloatingPointError where the loss is not finite.
    """
    optimizer = torch.optim.AdamW(method.parameter_groups(), weight_decay=config.weight_decay)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scaler = denoiser.grad_scaler()
    rng = torch.Generator().manual_seed(config.seed + 3)
    history: dict[str, list[Tensor]] = {}
    with denoiser.with_deltas(method.deltas, detach_start_token=method.config.detach_start_token):
        for step in range(1, config.steps + 1):
            terms = step_terms(method, denoiser, config, rng)
            scaler.scale(weighted_total(terms, method.weights)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            detached = {name: term.detach() for name, term in terms.items()}
            for name, term in detached.items():
                history.setdefault(name, []).append(term)
            if step % CHECK_EVERY == 0 or step == config.steps:
                check_finite({f"{name} loss": term for name, term in detached.items()}, step)
            on_step(step, detached)
    check_finite({"learned weights": torch.stack([p.sum() for p in parameters])}, config.steps)
    return {name: torch.stack(values).cpu().tolist() for name, values in history.items()}


def step_terms(
    method: Method, denoiser: Denoiser, config: TrainConfig, rng: torch.Generator
) -> dict[str, Tensor]:
    """One forward pass: batch -> noisy latents -> UNet -> the method's loss terms."""
    batch = method.sample_batch()
    latents = batch.latents
    timesteps = sample_timesteps(
        len(latents), len(denoiser.sigmas), rng, stratified=config.stratified_timesteps
    )
    noise = torch.randn(latents.shape, generator=rng).to(latents)
    sigmas = denoiser.sigmas[timesteps.to(denoiser.sigmas.device)].to(latents)
    target = training_target(latents, noise, sigmas, v_prediction=denoiser.v_prediction)
    tap = method.tap(batch)
    noisy = add_noise(latents, noise, sigmas)
    output = denoiser.predict(noisy, timesteps.to(latents), method.cond(batch), tap)
    return method.loss_terms(batch, output, target, tap)


def check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    broken = [name for name, term in terms.items() if not torch.isfinite(term).all()]
    if broken:
        raise FloatingPointError(
            f"The {', '.join(broken)} is no number at step {step}. Lower the learning rate; "
            "on a card without bfloat16, start ComfyUI with --force-fp32. Your MODEL is unchanged."
        )
