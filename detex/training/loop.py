"""The training loop: any method, any host."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..unet.attention import AttentionTap
from ..unet.condition import Condition
from ..unet.deltas import Deltas
from ..unet.interfaces import Denoiser
from ..unet.losses import weighted_total
from ..unet.schedules import add_noise, sample_timesteps, training_target
from ..unet.transfer import sent
from .config import TrainConfig
from .memory import way

CHECK_EVERY = 10  # steps between looks at whether the loss is still a number

log = logging.getLogger("detex")


class Method(Protocol):
    """What a training method tells the loop. `batch` is the method's own value."""

    config: Any
    deltas: Deltas
    weights: dict[str, float]

    @property
    def modules(self) -> Mapping[str, nn.Module]: ...  # all that is learned
    @property
    def generators(self) -> Mapping[str, torch.Generator]: ...  # all that `sample_batch` draws from
    def parameter_groups(self) -> list[dict]: ...
    def sample_batch(self) -> Any: ...
    def cond(self, batch: Any) -> Condition: ...
    def tap(self, batch: Any) -> AttentionTap | None: ...
    def loss_terms(
        self, batch: Any, output: Tensor, target: Tensor, tap: AttentionTap | None
    ) -> dict[str, Tensor]: ...
    def preview_conds(self) -> dict[str, Condition]: ...

    @property
    def latent_shape(self) -> tuple[int, ...]: ...


class Run:
    """A training in progress: everything that its steps change."""

    def __init__(self, method: Method, denoiser: Denoiser, config: TrainConfig):
        self.method, self.denoiser, self.config = method, denoiser, config
        self.optimizer = torch.optim.AdamW(
            method.parameter_groups(), weight_decay=config.weight_decay
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = denoiser.grad_scaler()
        self.rng = torch.Generator().manual_seed(config.seed + 3)
        self.generators = {"noise": self.rng, **method.generators}
        self.step = 0  # how many are done
        self.parts = 1  # passes a step: more than one where the card is small
        self.history: dict[str, list[Tensor]] = {}  # each loss term at each step
        self.mark_whole()

    def mark_whole(self) -> None:
        """The state now is that between two steps: what a snapshot may hold."""
        self.whole = True
        self._marks = {name: rng.get_state() for name, rng in self.generators.items()}

    def rewind(self) -> None:
        """Undo the step that an exception broke off before it changed a weight."""
        self.optimizer.zero_grad(set_to_none=True)
        for name, state in self._marks.items():
            self.generators[name].set_state(state)

    def take_step(self) -> None:
        """Draw, forward, backward, update. Raises FloatingPointError for a loss that is no number,
        which is looked at now and then.
        """
        terms = gradients(self)
        self.whole = False
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        for name, term in terms.items():
            self.history.setdefault(name, []).append(term)
        if self.step % CHECK_EVERY == 0 or self.step == self.config.steps:
            check_finite({f"{name} loss": term for name, term in terms.items()}, self.step)
        self.mark_whole()

    def check_weights(self) -> None:
        """Raise FloatingPointError where a learned weight is no number."""
        sums = torch.stack([p.detach().sum() for p in self.parameters])
        check_finite({"learned weights": sums}, self.step)


class Watcher:
    """Someone who follows a run; nothing happens at an event that a subclass leaves out."""

    def on_start(self, run: Run) -> None:
        """Before the first step; may put an earlier state of the run back."""

    def on_step(self, run: Run) -> None:
        """After each step; an exception (a cancel) ends the run."""

    def on_stop(self, run: Run, error: BaseException) -> None:
        """On the way out, with the state between two steps where `run.whole`."""


def train(
    method: Method, denoiser: Denoiser, config: TrainConfig, watchers: Sequence[Watcher] = ()
) -> dict[str, list[float]]:
    """Run up to `config.steps` steps; the method's parameters hold the result. -> each term's
    history.

    Randomness comes from private generators alone: the same seed gives the same bytes on a CPU,
    and on a GPU as far as its kernels repeat themselves.
    Raises FloatingPointError where a loss or a weight is not finite.
    """
    run = Run(method, denoiser, config)
    with denoiser.with_deltas(method.deltas, detach_start_token=method.config.detach_start_token):
        try:
            for watcher in watchers:
                watcher.on_start(run)
            while run.step < config.steps:
                run.take_step()
                for watcher in watchers:
                    watcher.on_step(run)
            run.check_weights()
        except BaseException as error:
            run.rewind()
            for watcher in watchers:
                watcher.on_stop(run, error)
            raise
    return {name: torch.stack(values).cpu().tolist() for name, values in run.history.items()}


class Draw(NamedTuple):
    """All that is random in one step, drawn before anything is computed."""

    batch: Any
    timesteps: Tensor  # [B + R]
    noise: Tensor  # [B + R, 4, h, w]

    def split(self, parts: int) -> Iterator[tuple[float, "Draw"]]:
        """(share of the step, draw) of each part."""
        for rows, batch in self.batch.split(parts):
            part = Draw(batch, self.timesteps[rows], self.noise[rows])
            yield batch.count / self.batch.count, part


def draw(method: Method, denoiser: Denoiser, config: TrainConfig, rng: torch.Generator) -> Draw:
    batch = method.sample_batch()
    count, total = len(batch.latents), len(denoiser.sigmas)
    timesteps = sample_timesteps(count, total, rng, stratified=config.stratified_timesteps)
    return Draw(batch, timesteps, torch.randn(batch.latents.shape, generator=rng))


def gradients(run: Run) -> dict[str, Tensor]:
    """Add up the gradients of one step -> its loss terms.

    Where the card is full, the same step is computed again in twice as many passes, whose gradients
    add up to the same; where a pass has one photo, with gradient checkpointing.
    """
    drawn = draw(run.method, run.denoiser, run.config, run.rng)
    while True:
        try:
            return accumulate(run, drawn)
        except RuntimeError as error:
            smallest = run.parts >= drawn.batch.count and run.denoiser.gradient_checkpointing
            if smallest or not run.denoiser.is_out_of_memory(error):
                raise
        run.optimizer.zero_grad(set_to_none=True)  # here, where no traceback holds the tensors
        run.denoiser.free_memory()
        use_less(run, drawn.batch.count)


def use_less(run: Run, photos: int) -> None:
    """Compute the steps to come with less memory."""
    if run.parts < photos:
        run.parts = min(2 * run.parts, photos)
    else:
        run.denoiser.gradient_checkpointing = True
    log.warning(
        "Out of graphics memory: from step %d on, each step is computed in %s. "
        "The result is the same, but for rounding.",
        run.step + 1,
        way(run.parts, checkpointing=run.denoiser.gradient_checkpointing),
    )


def accumulate(run: Run, drawn: Draw) -> dict[str, Tensor]:
    """Backward through each part of the step -> the loss terms, detached."""
    totals: dict[str, Tensor] = {}
    for share, part in drawn.split(run.parts):
        terms = step_terms(run.method, run.denoiser, part)
        run.scaler.scale(share * weighted_total(terms, run.method.weights)).backward()
        for name, term in terms.items():
            totals[name] = totals.get(name, 0) + share * term.detach()
    return totals


def step_terms(method: Method, denoiser: Denoiser, drawn: Draw) -> dict[str, Tensor]:
    """One forward pass: batch -> noisy latents -> UNet -> the method's loss terms."""
    batch, timesteps = drawn.batch, drawn.timesteps
    latents, device = batch.latents, batch.latents.device
    noise, sigmas = sent(drawn.noise, device), sent(denoiser.sigmas[timesteps], device)
    target = training_target(latents, noise, sigmas, v_prediction=denoiser.v_prediction)
    tap = method.tap(batch)
    noisy = add_noise(latents, noise, sigmas)
    output = denoiser.predict(noisy, sent(timesteps.float(), device), method.cond(batch), tap)
    return method.loss_terms(batch, output, target, tap)


def check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    broken = [name for name, term in terms.items() if not torch.isfinite(term).all()]
    if broken:
        raise FloatingPointError(
            f"The {', '.join(broken)} is no number at step {step}. Lower the learning rate; "
            "on a card without bfloat16, start ComfyUI with --force-fp32. Your MODEL is unchanged."
        )
