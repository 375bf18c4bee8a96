"""Wall time of each stage from a checkpoint to a picture, at real size; without the live picture.

python -m benchmarks.stages --checkpoint sd15.safetensors
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import folder_paths
import torch

from detex_pack.detex.concept.file import concept_bytes, load_concept
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.images import latent_encoder
from detex_pack.detex.host.runs import ResumeStore
from detex_pack.detex.host.text import compose
from detex_pack.detex.host.towers import tower_of
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run, Watcher

from .contenders import DETEX, SEED, Setting, pictures, random_subject
from .inference import sampled
from .machine import keep, peak, real_size_parser, reset_peak, synchronize

PHOTOS = 4
PRIOR_STEPS, PICTURE_STEPS = 50, 30
SNAPSHOT_EVERY = 50  # steps, as in the node


class Clock:
    """Seconds of named stages, one after the other. tell: hears of each, so that a stop loses
    little.
    """

    def __init__(self, tell: Callable[[dict[str, float]], None] = lambda seconds: None) -> None:
        self.seconds: dict[str, float] = {}
        self.tell = tell
        self.since = time.perf_counter()

    def done(self, stage: str) -> None:
        synchronize()
        now = time.perf_counter()
        self.seconds[stage] = round(now - self.since, 2)
        self.tell(self.seconds)
        self.since = time.perf_counter()


class Stages(Watcher):
    """Tells the clock when a run's copies are ready, when its first step is over, and its last."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_start(self, run: Run) -> None:
        self.clock.done("copies of MODEL and CLIP, their hash, first maps of the words")

    def on_step(self, run: Run) -> None:
        if run.step == 1:
            self.clock.done("memory plan and first step")
        elif run.step == run.config.steps:
            self.clock.done(f"the other {run.step - 1} steps, with snapshots")


def timed_run(options: argparse.Namespace, file: Path) -> None:
    """Keeps the seconds of each stage, and the highest memory of the training."""
    side, batch = options.pixels, options.batch
    report = {"pixels": side, "batch": batch, "steps": options.steps, "peak_gb": 0.0}
    clock = Clock(lambda seconds: keep(report | {"seconds": seconds}, options.out))
    loaded: Any = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint))
    model, clip, vae, _ = loaded
    clock.done("load the checkpoint")
    photos, encode = pictures(Setting(str(options.checkpoint), side, PHOTOS)), latent_encoder(vae)
    subject = random_subject(photos[:PHOTOS], encode)
    clock.done(f"{PHOTOS} photos to latents, one blanked copy of each")
    nothing = compose(clip, "", {})
    conds = [compose(clip, "photo of a dog", {}), nothing]
    prior = sampled(model, conds, side, PRIOR_STEPS, options.priors)
    prior = encode(vae.decode(prior))
    clock.done(f"{options.priors} prior images, {PRIOR_STEPS} steps")
    model_management.unload_all_models()
    reset_peak()
    train = TrainConfig(steps=options.steps, batch_size=batch, seed=SEED)
    folder_paths.set_user_directory(str(file.parent))  # where the run is kept
    store = ResumeStore(SNAPSHOT_EVERY)
    concept, _ = train_concept(model, clip, subject, prior, DETEX, train, [Stages(clock)], store)
    clock.done("last maps of the words, the run's own file, and the copies put away")
    report["peak_gb"] = round(peak() / 2**30, 2)
    file.write_bytes(concept_bytes(concept))
    clock.done(f"write the concept, {file.stat().st_size / 1e6:.0f} MB")
    again = load_concept(file)
    learned = apply_concept(model, again, 1.0)
    conds = [compose(clip, "photo of a [V] dog", again.vectors(tower_of(clip))), nothing]
    vae.decode(sampled(learned, conds, side, PICTURE_STEPS))
    clock.done(f"load it and draw a picture, {PICTURE_STEPS} steps")


def main() -> None:
    parser = real_size_parser(__doc__, "stages")
    parser.add_argument("--batch", type=int, default=1, help="photos a step, with as many priors")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--priors", type=int, default=1)
    options = parser.parse_args()
    with torch.inference_mode(), TemporaryDirectory() as folder:
        timed_run(options, Path(folder) / "dog.safetensors")


if __name__ == "__main__":
    main()
