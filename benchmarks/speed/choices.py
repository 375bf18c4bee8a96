"""What each choice about a training step costs or saves: one run, its steps in turn.

The predictions below were written before the first measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor

from detex_pack.detex.host.denoiser import ComfyDenoiser
from detex_pack.detex.training.loop import Run
from detex_pack.detex.unet.attention import AttentionTap
from detex_pack.detex.unet.condition import Condition

from .measure import Keep, gigabytes, peak, reset_peak, timed
from .runs import open_run, real_inputs

OPTIONS = {"checkpoint": None, "pixels": 256, "photos": 1, "rounds": 5}


Undo = Callable[..., Any]  # takes a function and its arguments, to be called after the step


def as_it_is(_run: Run, _denoiser: ComfyDenoiser, _undo: Undo) -> None:
    pass


def channels_last(_run: Run, denoiser: ComfyDenoiser, undo: Undo) -> None:
    for weight in denoiser.unet.parameters():
        undo(setattr, weight, "data", weight.data)  # the MODEL's own
    denoiser.unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def fused(run: Run, denoiser: ComfyDenoiser, undo: Undo) -> None:
    fuse(run, denoiser.device, fused=True)
    undo(fuse, run, "cpu", fused=None)


def fuse(run: Run, counters: str, *, fused: bool | None) -> None:
    """Let AdamW be fused or not. counters: the device where its step counters must then lie."""
    for optimiser in run.optimisers.values():
        for group in optimiser.param_groups:
            group["fused"] = fused
        for state in optimiser.state.values():
            state["step"] = state["step"].to(counters)


def two_passes(_run: Run, denoiser: ComfyDenoiser, undo: Undo) -> None:
    """Photos and prior images in a pass each."""
    whole = denoiser.predict

    def apart(
        noisy: Tensor, timesteps: Tensor, cond: Condition, taps: Sequence[AttentionTap]
    ) -> Tensor:
        half = len(noisy) // 2
        answers = [
            whole(noisy[rows], timesteps[rows], cond.rows(rows), seen)
            for rows, seen in ((slice(None, half), taps), (slice(half, None), ()))
        ]
        return torch.cat(answers)

    denoiser.predict = apart
    undo(delattr, denoiser, "predict")


def checkpointing(_run: Run, denoiser: ComfyDenoiser, undo: Undo) -> None:
    denoiser.gradient_checkpointing = True
    undo(setattr, denoiser, "gradient_checkpointing", False)  # noqa: FBT003


def compiled(_run: Run, denoiser: ComfyDenoiser, undo: Undo) -> None:
    """torch.compile of each transformer block; those of one shape share the compiled code."""
    for block in denoiser.unet.modules():
        if isinstance(block, BasicTransformerBlock):
            undo(setattr, block, "_compiled_call_impl", None)
            block.compile()


class Choice(NamedTuple):
    """A step with one thing changed. ratio: the seconds that were foretold, of a step as it is."""

    ratio: str
    why: str
    change: Callable[[Run, ComfyDenoiser, Undo], None]

    @contextmanager
    def made(self, run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
        with ExitStack() as stack:
            self.change(run, denoiser, stack.callback)
            yield


PLAIN = "as it is"
CHOICES = {
    PLAIN: Choice("1.00", "", as_it_is),
    "channels last": Choice(
        "0.90 to 0.95",
        "convolutions are half of a step and need no reordering then",
        channels_last,
    ),
    "fused AdamW": Choice("1.00", "the optimiser takes 0.3 % of a step", fused),
    "photos and prior images in two passes": Choice(
        "1.05", "smaller matrices; on a card twice the launches", two_passes
    ),
    "gradient checkpointing": Choice(
        "1.3", "a step is three forward passes' work, and computes one again", checkpointing
    ),
    "torch.compile of transformer blocks": Choice(
        "0.95 after minutes of compiling", "it fuses only what lies between the products", compiled
    ),
}


def measure(options: argparse.Namespace, keep: Keep) -> None:
    with open_run(*real_inputs(options)) as (run, denoiser):
        in_turn(run, denoiser, options.rounds, keep)


def in_turn(
    run: Run, denoiser: ComfyDenoiser, rounds: int, keep: Keep, names: Sequence[str] = ()
) -> None:
    """Keeps all figures so far, after each choice of each round; of one that failed there is none.
    names: of the choices, all by default.
    """
    found: dict[str, list[Cost]] = {name: [] for name in names or CHOICES}
    run.take_step()
    for number in range(rounds):
        for name in list(found):
            try:
                with CHOICES[name].made(run, denoiser):
                    found[name].append(cost(run))
            except RuntimeError as error:  # such as a compiler that is not there
                if name == PLAIN:
                    raise
                print(f"{name}: {error}", flush=True)
                del found[name]
                run.rewind()
            told = {n: summary(n, costs, found[PLAIN]) for n, costs in found.items() if costs}
            keep({"rounds": number + 1, "choices": told})


class Cost(NamedTuple):
    first: float  # seconds of a step that sets up
    seconds: float  # of one that counts
    peak: int  # bytes


def cost(run: Run) -> Cost:
    first = timed(run.take_step)[0]
    reset_peak()
    return Cost(first, timed(run.take_step)[0], peak())


def summary(name: str, costs: Sequence[Cost], plain: Sequence[Cost]) -> dict[str, Any]:
    seconds = median(one.seconds for one in costs)
    return {
        "foretold": CHOICES[name].ratio,
        "why": CHOICES[name].why,
        "seconds": round(seconds, 3),
        "ratio": round(seconds / median(one.seconds for one in plain), 3),
        "peak_gb": gigabytes(max(one.peak for one in costs)),
        "first_seconds": round(costs[0].first, 1),
        "steps": len(costs),
    }
