"""A small training for a process of its own, to be killed at any moment."""

import logging
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from devtools.pack_host import enter_host

enter_host(cpu=True)

import folder_paths
import tiny
import torch

from detex_pack.detex.concept.file import concept_bytes
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.runs import ResumeStore
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run, Watcher

SIDE = 32


class Counter(Watcher):
    """Tells the other process how many steps are done."""

    def __init__(self, done):
        self.done = done  # a multiprocessing.Value

    def on_start(self, run: Run) -> None:
        self.done.value = run.step

    def on_step(self, run: Run) -> None:
        self.done.value = run.step


def small_subject() -> Photos:
    generator = torch.Generator().manual_seed(0)
    photos = [torch.rand(SIDE, SIDE, 3, generator=generator) for _ in range(3)]
    mask = torch.zeros(SIDE, SIDE)
    mask[10:26, 8:24] = 1
    see, encode = feature_encoder(tiny.tiny_clip_vision()), latent_encoder(tiny.tiny_vae())
    return make_photos(photos, [mask] * 3, see, encode, "ball", resolution=SIDE)


def train_once(user: str, concept: str, steps: int, done) -> None:
    """Train `steps` steps with the runs in the folder `user`; write the concept's bytes."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # the small VAE has random weights
    folder_paths.set_user_directory(user)
    subject, models = small_subject(), (tiny.tiny_model(), tiny.tiny_clip())
    settings = DetexConfig(), TrainConfig(steps=steps, batch_size=2, learning_rate=1e-2)
    watchers, store = [Counter(done)], ResumeStore(every=2)
    learned, _ = train_concept(*models, subject, subject.latents[:, 0], *settings, watchers, store)
    Path(concept).write_bytes(concept_bytes(learned))
