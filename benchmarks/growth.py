"""How cost grows with photos, batch, resolution and loaded concepts, on the demo model.

python -m benchmarks.growth
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

import comfy.sample
import torch

from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.demo_model import DemoModel, load_demo_model
from detex_pack.detex.host.denoiser import ComfyDenoiser
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.photos.photos import make_photos
from detex_pack.detex.toys.subjects import demo_subject
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run

from .contenders import DETEX, open_run
from .inference import random_concept
from .machine import default_file, keep, timed

USUAL = {"photos": 4, "batch": 4, "pixels": 64}
SWEPT = {
    "photos": (1, 2, 4, 8),
    "batch": (1, 2, 4, 8),
    "pixels": (64, 128, 192),
    "concepts": (0, 1, 2, 4),
}


def median_seconds(run: Callable[[], object], count: int) -> float:
    """Of `count` runs, after one that warms up."""
    run()
    return median(timed(run)[0] for _ in range(count))


def demo_run(
    demo: DemoModel, *, photos: int, batch: int, pixels: int
) -> AbstractContextManager[tuple[Run, ComfyDenoiser]]:
    """DETEX Train's run on a toy, with prior images."""
    toy = demo_subject(0, photos, 0)
    see, encode = feature_encoder(demo.clip_vision), latent_encoder(demo.vae)
    subject = make_photos(
        list(toy.images), list(toy.masks), see, encode, toy.class_word, resolution=pixels
    )
    train = TrainConfig(batch_size=batch)
    prior = subject.latents[:, 0]
    return open_run(demo.model, demo.clip, subject, prior, DETEX, train)


def sampling_seconds(demo: DemoModel, count: int, concepts: int) -> float:
    """Four sampling steps with so many concepts loaded."""
    model = demo.model
    for _ in range(concepts):
        model = apply_concept(model, random_concept(demo.model, demo.clip), 0.5)
    cond = demo.clip.encode_from_tokens_scheduled(demo.clip.tokenize("photo of a ball"))
    latent = torch.zeros(4, 4, 16, 16)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    settings = (4, 4.0, "ddim", "normal", cond, cond, latent)

    def sampled() -> None:
        comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=0)

    with torch.inference_mode():
        return median_seconds(sampled, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=9, help="steps of each setting")
    parser.add_argument("--out", type=Path, default=default_file("growth"))
    options = parser.parse_args()
    demo = load_demo_model()
    found: dict[str, dict[int, float]] = {}
    for name, values in SWEPT.items():
        found[name] = {}
        for value in values:
            if name == "concepts":
                seconds = sampling_seconds(demo, options.count, value)
            else:
                with demo_run(demo, **(USUAL | {name: value})) as (run, _):
                    seconds = median_seconds(run.take_step, options.count)
            found[name][value] = round(seconds, 4)
            keep({"count": options.count, "seconds": found}, options.out)  # a stop loses little


if __name__ == "__main__":
    main()
