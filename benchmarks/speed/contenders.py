"""Seconds and memory of one training step, beside diffusers' Custom Diffusion and Train LoRA.

Each contender is a process that holds its model; they take their steps in turn.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from statistics import median
from typing import Any

from ..workers import Worker
from .measure import Keep, gigabytes

OPTIONS = {"checkpoint": None, "pixels": 256, "photos": 1, "rounds": 5}
PAIRS = (  # ours, theirs; two at a time, because they hold a model each
    ("DETEX", "Custom Diffusion, diffusers"),
    ("DETEX, gradient checkpointing", "Custom Diffusion, diffusers"),
    ("Custom Diffusion, ours", "diffusers, latents kept"),
    ("DETEX", "Train LoRA, no checkpointing"),
)
APART = ("Train LoRA, no checkpointing",)  # needs too much memory to stand beside another
PACKAGES = {"diffusers": "diffusers", "Train LoRA": "av"}  # what rivals of these names import


def measure(options: argparse.Namespace, keep: Keep) -> None:
    arguments = [str(options.checkpoint.resolve()), str(options.pixels), str(options.photos)]
    pairs = []
    for ours, theirs in PAIRS:
        pairs.append(compare(ours, theirs, arguments, options.rounds))
        keep({"pairs": pairs})


def compare(ours: str, theirs: str, arguments: list[str], rounds: int) -> dict[str, Any]:
    """Steps of the two in turn, or one after the other; of ours alone where theirs is missing."""
    if not is_installed(theirs):
        print(f"{theirs}: its packages are not installed.", flush=True)
        return {"ours": {"name": ours, **steps_of([ours], arguments, rounds)[0]}}
    if theirs in APART:
        one, other = (steps_of([name], arguments, 1)[0] for name in (ours, theirs))
    else:
        one, other = steps_of([ours, theirs], arguments, rounds)
    ratios = {key: round(one[key] / other[key], 2) for key in ("seconds", "peak_gb")}
    print(f"{ours} / {theirs}: {ratios}", flush=True)
    return {"ours": {"name": ours, **one}, "theirs": {"name": theirs, **other}, "ratio": ratios}


def is_installed(name: str) -> bool:
    """Whether this contender's packages are there; ComfyUI alone has not all of them."""
    wanted = [package for part, package in PACKAGES.items() if part in name]
    return all(find_spec(package) for package in wanted)


def steps_of(names: list[str], arguments: list[str], rounds: int) -> list[dict[str, Any]]:
    """The result of each, their steps in turn."""
    program = [sys.executable, "-m", "benchmarks.speed.rivals"]
    workers = [Worker([*program, name, *arguments]) for name in names]
    try:
        facts = [worker.ask("facts") for worker in workers]
        steps = [[worker.ask("step") for worker in workers] for _ in range(rounds)]
    finally:
        for worker in workers:
            worker.stop()
    return [result(*one) for one in zip(facts, zip(*steps, strict=True), strict=True)]


def result(facts: dict[str, Any], steps: tuple[dict[str, float], ...]) -> dict[str, Any]:
    seconds = median(step["seconds"] for step in steps)
    memory = {
        f"{name}_gb": gigabytes(facts[name]) for name in ("held", "foretold") if name in facts
    }
    return memory | {
        "seconds": round(seconds, 3),
        "peak_gb": gigabytes(max(step["peak"] for step in steps)),
        "of_possible": round(facts["flops"] / seconds / facts["rate"], 3),
        "tera_operations": round(facts["flops"] / 1e12, 3),
    }
