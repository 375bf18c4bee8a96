"""Seconds of each stage from a checkpoint to a picture, at real size; without the live picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import comfy.model_management as model_management
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

from .measure import Keep, gigabytes, now, peak, reset_peak
from .runs import DETEX, SEED, loaded, random_pictures, random_subject, sampled

OPTIONS = {"checkpoint": None, "pixels": 256, "photos": 1, "steps": 8, "priors": 1}
PHOTOS = 4
PRIOR_STEPS, PICTURE_STEPS = 50, 30
SNAPSHOT_EVERY = 50  # steps, as in the node


class Clock(Watcher):
    """Seconds of named stages, one after the other; of a run, when its copies are ready, when its
    first step is over, and its last. tell: hears of each, so that a stop loses little.
    """

    def __init__(self, tell: Callable[[dict[str, float]], None] = lambda seconds: None) -> None:
        self.seconds: dict[str, float] = {}
        self.tell = tell
        self.since = now()

    def done(self, stage: str) -> None:
        self.seconds[stage] = round(now() - self.since, 2)
        self.tell(self.seconds)
        self.since = now()

    def on_start(self, run: Run) -> None:
        self.done("copies of MODEL and CLIP, their hash, first maps of the words")

    def on_step(self, run: Run) -> None:
        if run.step == 1:
            self.done("memory plan and first step")
        elif run.step == run.config.steps:
            self.done(f"the other {run.step - 1} steps, with snapshots")


@torch.inference_mode()
def measure(options: argparse.Namespace, keep: Keep) -> None:
    """The seconds of each stage, and the highest memory of the training."""
    side, highest = options.pixels, {"peak_gb": 0.0}
    clock = Clock(lambda seconds: keep(highest | {"seconds": seconds}))
    model, clip, vae = loaded(options.checkpoint)
    clock.done("load the checkpoint")
    encode = latent_encoder(vae)
    subject = random_subject(random_pictures(PHOTOS, side), encode)
    clock.done(f"{PHOTOS} photos to latents, one blanked copy of each")
    nothing = compose(clip, "", {})
    conds = [compose(clip, "photo of a dog", {}), nothing]
    prior = encode(vae.decode(sampled(model, conds, side, PRIOR_STEPS, options.priors)))
    clock.done(f"{options.priors} prior images, {PRIOR_STEPS} steps")
    model_management.unload_all_models()
    reset_peak()
    train = TrainConfig(steps=options.steps, batch_size=options.photos, seed=SEED)
    with TemporaryDirectory() as folder:
        folder_paths.set_user_directory(folder)  # where the run is kept
        store = ResumeStore(SNAPSHOT_EVERY)
        concept, _ = train_concept(model, clip, subject, prior, DETEX, train, [clock], store)
        clock.done("last maps of the words, the run's own file, and the copies put away")
        highest["peak_gb"] = gigabytes(peak())
        file = Path(folder) / "dog.safetensors"
        file.write_bytes(concept_bytes(concept))
        clock.done(f"write the concept, {file.stat().st_size / 1e6:.0f} MB")
        again = load_concept(file)
    learned = apply_concept(model, again, 1.0)
    conds = [compose(clip, "photo of a [V] dog", again.vectors(tower_of(clip))), nothing]
    vae.decode(sampled(learned, conds, side, PICTURE_STEPS))
    clock.done(f"load it and draw a picture, {PICTURE_STEPS} steps")
