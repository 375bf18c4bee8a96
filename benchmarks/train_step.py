"""Seconds and memory of one training step, beside diffusers' Custom Diffusion and Train LoRA.

    python -m benchmarks.train_step --checkpoint sd15.safetensors

Each contender is a process that holds its model; they take their steps in turn. The checkpoint is
one of python -m devtools.checkpoints FOLDER sd15, or any of Stable Diffusion 1.5.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from statistics import median
from typing import Any

from .cells import ROOT
from .machine import keep, real_size_parser

PAIRS = (  # ours, theirs; two at a time, because they hold a model each
    ("DETEX", "Custom Diffusion, diffusers"),
    ("DETEX, gradient checkpointing", "Custom Diffusion, diffusers"),
    ("Custom Diffusion, ours", "diffusers, latents kept"),
    ("DETEX", "Train LoRA, no checkpointing"),
)
APART = ("Train LoRA, no checkpointing",)  # needs too much memory to stand beside another
PACKAGES = {"diffusers": "diffusers", "Train LoRA": "av"}  # what contenders of these names import


class Worker:
    """A contender's process."""

    def __init__(self, name: str, arguments: list[str]):
        command = [sys.executable, "-m", "benchmarks.contenders", name, *arguments]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.name = name
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        self.facts: dict[str, Any] = {}
        self.steps: list[dict[str, float]] = []

    def load(self) -> None:
        """Wait until it has its model and has taken a step."""
        self.facts = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has ended; its message is above.")
        return json.loads(line)

    def step(self) -> None:
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        self.steps.append(self.read())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def result(self) -> dict[str, Any]:
        seconds = median(step["seconds"] for step in self.steps)
        facts: dict[str, Any] = {
            "seconds": round(seconds, 3),
            "peak_gb": round(max(step["peak"] for step in self.steps) / 2**30, 2),
            "of_possible": round(self.facts["flops"] / seconds / self.steps[0]["rate"], 3),
            "tera_operations": round(self.facts["flops"] / 1e12, 3),
        }
        for name in ("held", "foretold"):
            if name in self.facts:
                facts[f"{name}_gb"] = round(self.facts[name] / 2**30, 2)
        return facts


def steps_of(names: list[str], arguments: list[str], rounds: int) -> list[dict[str, Any]]:
    """The result of each, their steps in turn."""
    workers: list[Worker] = []
    try:
        for name in names:
            workers.append(Worker(name, arguments))
        for worker in workers:
            worker.load()
        for _ in range(rounds):
            for worker in workers:
                worker.step()
    finally:
        for worker in workers:
            worker.close()
    return [worker.result() for worker in workers]


def is_installed(name: str) -> bool:
    """Whether this contender's packages are there; ComfyUI alone has not all of them."""
    wanted = [package for part, package in PACKAGES.items() if part in name]
    return all(find_spec(package) for package in wanted)


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


def main() -> None:
    parser = real_size_parser(__doc__, "train_step")
    parser.add_argument("--photos", type=int, default=1, help="and as many prior images")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    arguments = [str(options.checkpoint.resolve()), str(options.pixels), str(options.photos)]
    report: dict[str, Any] = {
        "pixels": options.pixels,
        "photos": options.photos,
        "rounds": options.rounds,
        "pairs": [],
    }
    for ours, theirs in PAIRS:
        report["pairs"].append(compare(ours, theirs, arguments, options.rounds))
        keep(report, options.out)  # so that a later failure loses nothing


if __name__ == "__main__":
    main()
