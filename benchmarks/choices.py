"""What each choice about a training step costs or saves: one run, its steps in turn.

    python -m benchmarks.choices --checkpoint sd15.safetensors

The predictions below were written before the first measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor

from detex_pack.detex.host.denoiser import ComfyDenoiser
from detex_pack.detex.training.loop import Run
from detex_pack.detex.unet.attention import AttentionTap
from detex_pack.detex.unet.condition import Condition

from .contenders import DETEX, Setting, our_run
from .machine import keep, peak, real_size_parser, reset_peak, timed


@dataclass(frozen=True)
class Choice:
    """A step with one thing changed. ratio: the seconds that were foretold, of a step as it is."""

    ratio: str
    why: str
    change: Callable[[Run, ComfyDenoiser], AbstractContextManager[None]]


@contextmanager
def as_it_is(_run: Run, _denoiser: ComfyDenoiser) -> Iterator[None]:
    yield


@contextmanager
def channels_last(_run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    kept = [(weight, weight.data) for weight in denoiser.unet.parameters()]  # the MODEL's own
    denoiser.unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    try:
        yield
    finally:
        for weight, data in kept:
            weight.data = data


@contextmanager
def fused(run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    fuse(run, denoiser.device, fused=True)
    try:
        yield
    finally:
        fuse(run, "cpu", fused=None)


def fuse(run: Run, counters: str, *, fused: bool | None) -> None:
    """Let AdamW be fused or not. counters: the device where its step counters must then lie."""
    for optimiser in run.optimisers.values():
        for group in optimiser.param_groups:
            group["fused"] = fused
        for state in optimiser.state.values():
            state["step"] = state["step"].to(counters)


@contextmanager
def checkpointing(_run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    denoiser.gradient_checkpointing = True
    try:
        yield
    finally:
        denoiser.gradient_checkpointing = False


@contextmanager
def two_passes(_run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    """Photos and prior images in a pass each."""
    whole = denoiser.predict

    def apart(
        noisy: Tensor, timesteps: Tensor, cond: Condition, taps: Sequence[AttentionTap]
    ) -> Tensor:
        halves = [slice(None, len(noisy) // 2), slice(len(noisy) // 2, None)]
        answers = [
            whole(noisy[rows], timesteps[rows], cond.rows(rows), seen)
            for rows, seen in zip(halves, (taps, ()), strict=True)
        ]
        return torch.cat(answers)

    denoiser.predict = apart
    try:
        yield
    finally:
        del denoiser.predict


@contextmanager
def compiled(_run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    """torch.compile of each transformer block; those of one shape share the compiled code."""
    blocks = [m for m in denoiser.unet.modules() if isinstance(m, BasicTransformerBlock)]
    for block in blocks:
        block.compile()
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


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


@dataclass
class Seen:
    """What a choice cost: seconds of its very first step, of later ones, and their peaks."""

    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def steps(self, run: Run) -> None:
        """One step that sets up, and one that counts."""
        setting_up = timed(run.take_step)[0]
        self.first = self.first or setting_up
        reset_peak()
        self.seconds.append(timed(run.take_step)[0])
        self.peaks.append(peak())


def measure(setting: Setting, rounds: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """All figures so far, after each choice of each round; of one that failed there is none."""
    found = {name: Seen() for name in names}
    with our_run(setting, DETEX) as (run, denoiser):
        run.take_step()
        for _ in range(rounds):
            for name, seen in list(found.items()):
                try:
                    with CHOICES[name].change(run, denoiser):
                        seen.steps(run)
                except RuntimeError as error:  # such as a compiler that is not there
                    if name == PLAIN:
                        raise
                    print(f"{name}: {error}", flush=True)
                    del found[name]
                    run.rewind()
                yield {n: summary(n, s, found[PLAIN]) for n, s in found.items() if s.seconds}


def summary(name: str, seen: Seen, plain: Seen) -> dict[str, Any]:
    return {
        "foretold": CHOICES[name].ratio,
        "why": CHOICES[name].why,
        "seconds": round(median(seen.seconds), 3),
        "ratio": round(median(seen.seconds) / median(plain.seconds), 3),
        "peak_gb": round(max(seen.peaks) / 2**30, 2),
        "first_seconds": round(seen.first, 1),
        "steps": len(seen.seconds),
    }


def main() -> None:
    parser = real_size_parser(__doc__, "choices")
    parser.add_argument("--photos", type=int, default=1, help="and as many prior images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CHOICES), choices=CHOICES)
    options = parser.parse_args()
    setting = Setting(str(options.checkpoint), options.pixels, options.photos)
    names = [PLAIN, *(name for name in options.only if name != PLAIN)]
    facts = {"pixels": options.pixels, "photos": options.photos}
    for found in measure(setting, options.rounds, names):
        rounds = found[PLAIN]["steps"]
        keep(facts | {"rounds": rounds, "choices": found}, options.out)  # a stop loses little


if __name__ == "__main__":
    main()
