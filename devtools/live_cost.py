"""What the live picture costs: `python -m devtools.live_cost [--steps N] [--out PICTURE.png]`.

Trains on the demo model with and without pictures, in turn, and compares the seconds; the last
picture is saved.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch
from PIL import Image

from .pack_host import enter_host

enter_host()

import comfy.utils

from detex_pack.detex.host.demo_model import DemoModel, load_demo_model
from detex_pack.detex.host.images import feature_encoder, latent_decoder, latent_encoder
from detex_pack.detex.host.progress import LiveView
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.toys.subjects import demo_subject
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run


class Measured(LiveView):
    """Counts its samples, keeps its last picture, and times the steps alone."""

    def __init__(self, steps: int, preview_every: int, decode):
        super().__init__(steps, preview_every, decode)
        self.count, self.image, self.seconds = 0, None, 0.0

    def picture(self, run: Run) -> Image.Image | None:
        image = super().picture(run)
        self.image = image or self.image
        return image

    def take_samples(self, run: Run) -> None:
        self.count += 1
        super().take_samples(run)

    def on_step(self, run: Run) -> None:
        super().on_step(run)
        self.seconds = self.drawing.elapsed()


def demo_photos(demo: DemoModel) -> Photos:
    photos = demo_subject(0, 4, 0)
    see, encode = feature_encoder(demo.clip_vision), latent_encoder(demo.vae)
    pictures, masks, word = list(photos.images), list(photos.masks), photos.class_word
    return make_photos(pictures, masks, see, encode, word, resolution=64)


def measure(demo: DemoModel, subject: Photos, steps: int, preview_every: int) -> Measured:
    view = Measured(steps, preview_every, latent_decoder(demo.vae))
    settings = DetexConfig(), TrainConfig(steps=steps, learning_rate=1e-3, mapper_rate=0.1)
    prior = subject.latents[:, 0]  # the cost of a step is that of any prior images
    train_concept(demo.model, demo.clip, subject, prior, *settings, [view])
    return view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=25, help="preview_every")
    parser.add_argument("--rounds", type=int, default=1, help="runs with and without, in turn")
    parser.add_argument("--out", type=Path, help="where to save the last picture")
    options = parser.parse_args()
    comfy.utils.PROGRESS_BAR_ENABLED = False
    demo = load_demo_model()
    subject = demo_photos(demo)
    for _ in range(options.rounds):
        start = time.perf_counter()
        shown = measure(demo, subject, options.steps, options.every)
        plain = measure(demo, subject, options.steps, 0)
        figures = {
            "steps": options.steps,
            "samples": shown.count,
            "seconds_with_pictures": round(shown.seconds, 2),
            "seconds_without": round(plain.seconds, 2),
            "share_spent_on_pictures": round(
                (shown.sampling.spent + shown.drawing.spent) / shown.seconds, 4
            ),
            "seconds_a_sample": round(shown.sampling.last, 3),
            "seconds_a_picture": round(shown.drawing.last, 4),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
            "both": round(time.perf_counter() - start, 1),
        }
        print(json.dumps(figures, indent=1))
    if options.out and shown.image:
        shown.image.save(options.out)


if __name__ == "__main__":
    main()
