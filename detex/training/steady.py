"""The steady loss: the photos' diffusion loss on the same draws each time.

A training loss jumps with the timesteps that are drawn, so that it may rise while the training goes
well. Here photos, timesteps and noise are fixed, and nothing is learned.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..methods.base import Batch, Predict
from .loop import Run, Watcher

DRAWS = 16  # photos, noise and timesteps, spread evenly over the schedule
SEED = 0
SHARE = 0.02  # of the time, at most, beside the first measurement and the last


def fixed_batches(run: Run) -> Iterator[Batch]:
    """`DRAWS` photos, one at a time, so that the sum does not depend on the passes of a step; the
    run's own generators stay where they are.
    """
    states = {name: rng.get_state() for name, rng in run.rngs.items()}
    try:
        for rng in run.rngs.values():
            rng.manual_seed(SEED)
        drawn = []
        while sum(batch.count for batch in drawn) < DRAWS:
            drawn.append(run.method.draw().without_prior())
    finally:
        for name, state in states.items():
            run.rngs[name].set_state(state)
    total, done = sum(batch.count for batch in drawn), 0
    for batch in drawn:
        places = (torch.arange(done, done + batch.count) + 0.5) / total
        times = (places * len(run.denoiser.schedule)).long()
        yield from (part for _, part in replace(batch, timesteps=times).split(batch.count))
        done += batch.count


@torch.no_grad()
def steady_loss(run: Run, predict: Predict) -> float:
    """The mean diffusion loss of the fixed draws, of all optimisers' parts: whose turn it is would
    change what is measured.
    """
    turn = tuple(run.optimisers)
    with run.averaged():
        each = [run.method.losses(one, predict, turn)["diffusion"] for one in fixed_batches(run)]
    return torch.stack(each).mean().item()


class SteadyLoss(Watcher):
    """Measures it before the first step and after the last, and whenever a picture asks."""

    def on_start(self, run: Run) -> None:
        if run.step in (0, run.config.steps):  # else the snapshot has it, or a step is to come
            self.measure(run)

    def on_step(self, run: Run) -> None:
        if run.step == run.config.steps:
            self.measure(run)

    @staticmethod
    def measure(run: Run) -> None:
        if run.step not in run.steady:
            run.steady[run.step] = steady_loss(run, run.predict)
