"""The training loop: any method, any host."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..methods.base import Batch, Method, Predict, Prediction
from ..unet.condition import Condition
from ..unet.interfaces import Denoiser, Tap
from ..unet.losses import weighted_total
from ..unet.transfer import to_device
from .average import Average
from .config import TrainConfig
from .memory import describe_passes

CHECK_EVERY = 10  # steps between looks at whether the loss is still a number

log = logging.getLogger("detex")


class Run:
    """A training in progress: everything that its steps change."""

    def __init__(self, method: Method, denoiser: Denoiser, config: TrainConfig):
        self.method, self.denoiser, self.config = method, denoiser, config
        self.optimisers = {
            name: torch.optim.AdamW(groups, weight_decay=config.weight_decay)
            for name, groups in method.optimisers().items()
        }
        averaged = config.averaged_steps
        self.average = Average(method.learned, averaged) if averaged else None
        self.scaler = denoiser.grad_scaler()
        self.predict = predictor(denoiser)
        self.rngs = dict(method.rngs)
        self.step = 0  # how many are done
        self.passes = 1  # of a step: more than one where the card is small
        self.history: dict[str, list[Tensor]] = {}  # each loss term, and "total", at each step
        self.steady: dict[int, float] = {}  # the steady loss after so many steps
        self.scores: dict[int, dict[str, float]] = {}  # of the live samples after so many, by name
        self.mark_between_steps()

    def mark_between_steps(self) -> None:
        """The state now is that between two steps: what a snapshot may hold."""
        self.between_steps = True
        self._marks = {name: rng.get_state() for name, rng in self.rngs.items()}

    def rewind(self) -> None:
        """Undo the step that an exception broke off before it changed a weight."""
        self.forget_gradients()
        for name, state in self._marks.items():
            self.rngs[name].set_state(state)

    def forget_gradients(self) -> None:
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

    def take_step(self) -> None:
        """Draw, forward, backward, update. Raises FloatingPointError for a loss that is no number,
        which is looked at now and then.
        """
        turn = self.method.turn(self.step)
        terms = gradients(self, turn)
        self.between_steps = False
        for name in turn:
            optimiser = self.optimisers[name]
            self.scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(parameters_of(optimiser), self.config.gradient_clip)
            self.scaler.step(optimiser)
        self.scaler.update()
        self.forget_gradients()
        self.step += 1
        if self.average:
            self.average.add(self.step)
        self.remember(terms)
        if self.step % CHECK_EVERY == 0 or self.step == self.config.steps:
            check_finite({f"{name} loss": term for name, term in terms.items()}, self.step)
        self.mark_between_steps()

    def remember(self, terms: Mapping[str, Tensor]) -> None:
        """Each term of this step; a term that a step leaves out is no number there."""
        for name in {**self.history, **terms}:
            values = self.history.setdefault(name, [])
            absent = torch.full((), math.nan, device=self.denoiser.device)
            values += [absent] * (self.step - 1 - len(values))
            values.append(terms.get(name, absent))

    def averaged(self) -> AbstractContextManager[None]:
        """While what is learned is shown or kept: its average, where there is one."""
        return self.average.in_place() if self.average else nullcontext()

    def check_weights(self) -> None:
        """Raise FloatingPointError where a learned weight is no number."""
        learned = [p for optimiser in self.optimisers.values() for p in parameters_of(optimiser)]
        check_finite(
            {"learned weights": torch.stack([p.detach().sum() for p in learned])}, self.step
        )


class Watcher:
    """Someone who follows a run; nothing happens at an event that a subclass leaves out."""

    def on_start(self, run: Run) -> None:
        """Before the first step; may put an earlier state of the run back."""

    def on_step(self, run: Run) -> None:
        """After each step; an exception (a cancel) ends the run."""

    def on_stop(self, run: Run, error: BaseException) -> None:
        """On the way out, with the state between two steps where `run.between_steps`."""


class Losses(NamedTuple):
    """What a training cost: plain numbers, so that they can be kept as JSON."""

    terms: dict[str, list[float]]  # each loss term at each step, and "total" as it was weighed
    steady: dict[str, float]  # the steady loss after so many steps, "0" before the first
    scores: dict[str, dict[str, float]] = {}  # of the live samples after so many steps, by name


def train(
    method: Method, denoiser: Denoiser, config: TrainConfig, watchers: Sequence[Watcher] = ()
) -> Losses:
    """Run up to `config.steps` steps; what the method has learned is in it.

    Randomness comes from private generators alone: the same seed gives the same bytes on a CPU,
    and on a GPU as far as its kernels repeat themselves.
    Raises FloatingPointError where a loss or a weight is not finite.
    """
    run = Run(method, denoiser, config)
    with method.insert(denoiser):
        try:
            for watcher in watchers:
                watcher.on_start(run)
            while run.step < config.steps:
                run.take_step()
                for watcher in watchers:
                    watcher.on_step(run)
            run.check_weights()
            if run.average:
                run.average.settle()
        except BaseException as error:
            run.rewind()
            for watcher in watchers:
                watcher.on_stop(run, error)
            raise
    terms = {name: torch.stack(values).cpu().tolist() for name, values in run.history.items()}
    steady = {str(step): loss for step, loss in sorted(run.steady.items())}
    scores = {str(step): found for step, found in sorted(run.scores.items())}
    return Losses(terms, steady, scores)


def predictor(denoiser: Denoiser) -> Predict:
    """How a method asks the UNet: noise on the latents, one pass, and what it should answer."""

    def predict(batch: Batch, condition: Condition, taps: Sequence[Tap]) -> Prediction:
        schedule, device = denoiser.schedule, batch.latents.device
        given = batch.latents, batch.noise, batch.timesteps
        times = to_device(batch.timesteps.float(), device)
        output = denoiser.predict(schedule.add_noise(*given), times, condition, taps)
        return Prediction(output, schedule.target(*given))

    return predict


def gradients(run: Run, turn: Sequence[str]) -> dict[str, Tensor]:
    """Add up the gradients of one step -> its loss terms.

    Where the card is full, the same step is computed again in twice as many passes, whose gradients
    add up to the same; where a pass has one photo, with gradient checkpointing.
    """
    batch = run.method.draw()
    while True:
        try:
            return accumulate(run, batch, turn)
        except RuntimeError as error:
            smallest = run.passes >= batch.count and run.denoiser.gradient_checkpointing
            if smallest or not run.denoiser.is_out_of_memory(error):
                raise
        run.forget_gradients()  # here, where no traceback holds the tensors
        run.denoiser.free_memory()
        reduce_memory(run, batch.count)


def reduce_memory(run: Run, photos: int) -> None:
    """Compute the steps to come with less memory."""
    if run.passes < photos:
        run.passes = min(2 * run.passes, photos)
    else:
        run.denoiser.gradient_checkpointing = True
    log.warning(
        "Out of graphics memory: from step %d on, each step is computed in %s. "
        "The result is the same, but for rounding.",
        run.step + 1,
        describe_passes(run.passes, checkpointing=run.denoiser.gradient_checkpointing),
    )


def accumulate(run: Run, batch: Batch, turn: Sequence[str]) -> dict[str, Tensor]:
    """Backward through each part of the step -> the loss terms and their total, detached."""
    sums: dict[str, Tensor] = {}
    for share, part in batch.split(run.passes):
        terms = run.method.losses(part, run.predict, turn)
        total = weighted_total(terms, run.method.weights)
        run.scaler.scale(share * total).backward()
        for name, term in {**terms, "total": total}.items():
            sums[name] = sums.get(name, 0) + share * term.detach()
    return sums


def parameters_of(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    broken = [name for name, term in terms.items() if not torch.isfinite(term).all()]
    if broken:
        raise FloatingPointError(
            f"The {', '.join(broken)} is no number at step {step}. Lower the learning rate; "
            "on a card without bfloat16, start ComfyUI with --force-fp32. Your MODEL is unchanged."
        )
