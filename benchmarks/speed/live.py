"""What the live picture costs: trainings on the demo model with and without it, in turn."""

from __future__ import annotations

import argparse

import comfy.utils

from detex_pack.detex.host.demo_model import DemoModel, load_demo_model
from detex_pack.detex.host.images import latent_decoder
from detex_pack.detex.host.progress import LiveView
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run

from .measure import Keep
from .runs import toy_photos

OPTIONS = {"steps": 600, "every": 25, "rounds": 1}


class Counted(LiveView):
    """Counts its samples, and times the steps alone."""

    count, seconds = 0, 0.0

    def take_samples(self, run: Run) -> None:
        self.count += 1
        super().take_samples(run)

    def on_step(self, run: Run) -> None:
        super().on_step(run)
        self.seconds = self.drawing.elapsed()


def measure(options: argparse.Namespace, keep: Keep) -> None:
    comfy.utils.PROGRESS_BAR_ENABLED = False
    demo = load_demo_model()
    photos = toy_photos(demo)
    for _ in range(options.rounds):
        shown, plain = (watched(demo, photos, options.steps, e) for e in (options.every, 0))
        found = {
            "samples": shown.count,
            "seconds_with_pictures": round(shown.seconds, 2),
            "seconds_without": round(plain.seconds, 2),
            "share_spent_on_pictures": round(
                (shown.sampling.spent + shown.drawing.spent) / shown.seconds, 4
            ),
            "seconds_a_sample": round(shown.sampling.last, 3),
            "seconds_a_picture": round(shown.drawing.last, 4),
        }
        keep(found)


def watched(demo: DemoModel, photos: Photos, steps: int, preview_every: int) -> Counted:
    view = Counted(steps, preview_every, latent_decoder(demo.vae))
    settings = DetexConfig(), TrainConfig(steps=steps, learning_rate=1e-3, mapper_rate=0.1)
    prior = photos.latents[:, 0]  # the cost of a step is that of any prior images
    train_concept(demo.model, demo.clip, photos, prior, *settings, [view])
    return view
