"""How cost grows with photos, batch, resolution and loaded concepts, on the demo model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.demo_model import DemoModel, load_demo_model

from .measure import Keep, timed
from .runs import encoded, random_concept, sampled, toy_run

OPTIONS = {"rounds": 9}
USUAL = {"photos": 4, "batch": 4, "pixels": 64}
SWEPT = {
    "photos": (1, 2, 4, 8),
    "batch": (1, 2, 4, 8),
    "pixels": (64, 128, 192),
    "concepts": (0, 1, 2, 4),
}


def measure(options: argparse.Namespace, keep: Keep) -> None:
    demo = load_demo_model()
    found: dict[str, dict[int, float]] = {name: {} for name in SWEPT}
    for name, values in SWEPT.items():
        for value in values:
            if name == "concepts":
                seconds = sampling_seconds(demo, options.rounds, value)
            else:
                with toy_run(demo, **(USUAL | {name: value})) as (run, _):
                    seconds = median_seconds(run.take_step, options.rounds)
            found[name][value] = round(seconds, 4)
            keep({"seconds": {n: v for n, v in found.items() if v}})


@torch.inference_mode()
def sampling_seconds(demo: DemoModel, rounds: int, concepts: int) -> float:
    """Four sampling steps of four pictures with so many concepts loaded."""
    model, conds = demo.model, encoded(demo.clip, "photo of a ball", "")
    for _ in range(concepts):
        model = apply_concept(model, random_concept(demo.model, demo.clip), 0.5)
    return median_seconds(partial(sampled, model, conds, pixels=128, steps=4, count=4), rounds)


def median_seconds(run: Callable[[], object], rounds: int) -> float:
    """Of so many runs, after one that warms up."""
    run()
    return median(timed(run)[0] for _ in range(rounds))
