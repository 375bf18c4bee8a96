"""What each choice about a training step costs or saves: one run, its steps in turn.

    python -m benchmarks.choices --checkpoint sd15.safetensors

The predictions below were written before the first measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor

from detex_pack.detex.attention import AttentionTap
from detex_pack.detex.condition import Condition
from detex_pack.detex.host.denoiser import ComfyDenoiser
from detex_pack.detex.trainer import Run

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
    denoiser.unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    yield
    denoiser.unet.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


@contextmanager
def fused(run: Run, _denoiser: ComfyDenoiser) -> Iterator[None]:
    for group in run.optimizer.param_groups:
        group["fused"] = True
    yield
    for group in run.optimizer.param_groups:
        group["fused"] = None


@contextmanager
def checkpointing(_run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    denoiser.gradient_checkpointing = True
    yield
    denoiser.gradient_checkpointing = False


@contextmanager
def two_passes(_run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    """Photos and prior images in a pass each."""
    whole = denoiser.predict

    def apart(
        noisy: Tensor, timesteps: Tensor, cond: Condition, tap: AttentionTap | None
    ) -> Tensor:
        halves = [slice(None, len(noisy) // 2), slice(len(noisy) // 2, None)]
        answers = [
            whole(noisy[rows], timesteps[rows], part_of(cond, rows), seen)
            for rows, seen in zip(halves, (tap, None), strict=True)
        ]
        return torch.cat(answers)

    denoiser.predict = apart
    yield
    del denoiser.predict


def part_of(cond: Condition, rows: slice) -> Condition:
    return replace(cond, context=cond.context[rows], pooled=cond.pooled[rows])


@contextmanager
def compiled(_run: Run, denoiser: ComfyDenoiser) -> Iterator[None]:
    """torch.compile of each transformer block; those of one shape share the compiled code."""
    blocks = [m for m in denoiser.unet.modules() if isinstance(m, BasicTransformerBlock)]
    for block in blocks:
        block.compile()
    yield
    for block in blocks:
        block._compiled_call_impl = None


CHOICES = {
    "as it is": Choice("1.00", "", as_it_is),
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


def measure(setting: Setting, rounds: int, names: list[str]) -> dict[str, Any]:
    """Each choice's first step, its further steps' median, and peak."""
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "peak": []} for name in names}
    with our_run(setting, DETEX) as (run, denoiser):
        run.take_step()
        for _ in range(rounds):
            for name in names:
                with CHOICES[name].change(run, denoiser):
                    first = timed(run.take_step)[0]
                    reset_peak()
                    found[name]["seconds"].append(timed(run.take_step)[0])
                    found[name]["peak"].append(peak())
                    found[name].setdefault("first", [first])
    return {name: summary(name, seen, found["as it is"]) for name, seen in found.items()}


def summary(
    name: str, seen: dict[str, list[float]], plain: dict[str, list[float]]
) -> dict[str, Any]:
    seconds, usual = median(seen["seconds"]), median(plain["seconds"])
    return {
        "foretold": CHOICES[name].ratio,
        "why": CHOICES[name].why,
        "seconds": round(seconds, 3),
        "ratio": round(seconds / usual, 3),
        "peak_gb": round(max(seen["peak"]) / 2**30, 2),
        "first_seconds": round(seen["first"][0], 1),
    }


def main() -> None:
    parser = real_size_parser(__doc__, "choices")
    parser.add_argument("--photos", type=int, default=1, help="and as many prior images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CHOICES), choices=CHOICES)
    options = parser.parse_args()
    setting = Setting(str(options.checkpoint), options.pixels, options.photos)
    names = ["as it is", *(name for name in options.only if name != "as it is")]
    facts = {"pixels": options.pixels, "photos": options.photos, "rounds": options.rounds}
    keep(facts | {"choices": measure(setting, options.rounds, names)}, options.out)


if __name__ == "__main__":
    main()
