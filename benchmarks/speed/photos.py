"""What real photos cost at real size: places, composites, and DisenDiff beside DETEX.

Needs google/dreambooth's folder dataset; its photos get the rough masks of benchmarks.real_photos.
Of the places one is drawn, in few steps. All composites are cut out, some of them encoded. Then the
methods take their steps in turn, in one session, on random latents: no figure depends on them. With
0 rounds no UNet is loaded, and the composites alone are measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import comfy.model_management as model_management
import folder_paths
import torch
from torch import Tensor

from detex_pack.detex.evaluate.dreambench import BenchSubject, read_bench
from detex_pack.detex.host.denoiser import ComfyDenoiser
from detex_pack.detex.host.images import latent_encoder
from detex_pack.detex.host.places import PROMPT, drawn_places
from detex_pack.detex.host.preflight import count
from detex_pack.detex.host.prior import PriorConfig
from detex_pack.detex.methods.disendiff import DisenDiffConfig
from detex_pack.detex.photos.concepts import make_concepts, make_scene, named_concepts
from detex_pack.detex.photos.folder import read_photo
from detex_pack.detex.photos.photos import Encode, Photos, make_photos
from detex_pack.detex.photos.places import DEFAULT_PLACES, Places, square_middle
from detex_pack.detex.photos.recipe import COMPOSITES, with_composites
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run
from detex_pack.detex.training.memory import bytes_of

from ..real_photos import encoders, rough_mask
from .measure import Keep, gigabytes, memory_now, now, peak, reset_peak, timed
from .runs import DETEX, SEED, Arm, loaded, loaded_vae, open_runs, random_features, random_pictures

OPTIONS = {
    "checkpoint": None, "bench": None, "pixels": 512, "photos": 1,
    "steps": 4, "encoded": 4, "rounds": 3,
}  # fmt: skip
PHOTOS = 5  # of the subject
SIDE = 512  # pixels of DreamBench's photos here
BLANKS = "DETEX on blanks"


class Masked(NamedTuple):
    """Photos of one subject, as squares [S, S, 3], and their masks [S, S]."""

    class_word: str
    squares: list[Tensor]
    masks: list[Tensor]


def masked_subjects(folder: Path, count: int) -> Callable[[int], Masked]:
    """Reads the subject of a number in the list, and so many of its photos."""
    look, *_ = encoders().values()
    subjects: Sequence[BenchSubject] = read_bench(folder, references=count).subjects

    def read(number: int) -> Masked:
        name, word, _, files = subjects[number % len(subjects)]
        squares = [square_middle(read_photo(file).pixels, name, SIDE) for file in files]
        return Masked(word, squares, [rough_mask(look, square) for square in squares])

    return read


def side_by_side(subjects: Sequence[Masked], pixels: int, encode: Encode) -> Photos:
    """The first photos of subjects as one photo, a concept each."""
    picture = torch.cat([subject.squares[0] for subject in subjects], dim=1)
    wide = [torch.zeros(picture.shape[:2]) for _ in subjects]
    for i, (plane, subject) in enumerate(zip(wide, subjects, strict=True)):
        plane[:, i * SIDE : (i + 1) * SIDE] = subject.masks[0]
    named = named_concepts(", ".join(subject.class_word for subject in subjects))
    scene = make_scene(picture, wide, named, pixels)
    return make_concepts(picture, scene, named, encode, scaled_copies=2)


@torch.inference_mode()
def measure(options: argparse.Namespace, keep: Keep) -> None:
    """The figures of each stage, as soon as it is over."""
    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    read, side = masked_subjects(options.bench, PHOTOS), options.pixels
    if not options.rounds:
        encode = latent_encoder(loaded_vae(options.checkpoint))
        keep(found | {"composites": composed(read(0), side, encode, options.encoded)[2]})
        return
    model, clip, vae = loaded(options.checkpoint)
    found["drawing"] = drawing((model, clip, vae), side, options.steps)
    keep(found)
    blanks, placed, found["composites"] = composed(
        read(0), side, latent_encoder(vae), options.encoded
    )
    keep(found)
    del vae
    model_management.unload_all_models()
    moved = replace(DETEX, center_poses=False)  # as DETEX Train does where there are composites
    arms: dict[str, Arm] = {BLANKS: (blanks, DETEX), "DETEX on places": (placed, moved)}
    for name, numbers in (("two", (0, 12)), ("three", (0, 8, 16))):
        scene = side_by_side([read(number) for number in numbers], side, unseen)
        arms[f"DisenDiff, {name} concepts"] = scene, DisenDiffConfig.recommended()
    prior = unseen(random_pictures(options.photos, side))
    train = TrainConfig(batch_size=options.photos, seed=SEED)
    with open_runs(model, clip, arms, prior, train) as (runs, denoiser):
        in_turn(runs, denoiser, options.rounds, lambda told: keep(found | told))


def in_turn(runs: dict[str, Run], denoiser: ComfyDenoiser, rounds: int, keep: Keep) -> None:
    """Each round's steps, after a forward pass that warms up; all figures so far after each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    peaks, kept = dict.fromkeys(runs, 0), {}
    for number in range(rounds + 1):
        for name, run in runs.items():
            with run.method.insert(denoiser):
                if number == 0:
                    kept[name] = count(run, denoiser, run.method.draw()).kept
                    run.rewind()
                    continue
                reset_peak()
                seconds[name].append(timed(run.take_step)[0])
                peaks[name] = max(peaks[name], peak())
        if number:
            told = [
                {
                    "name": name,
                    "seconds": round(median(spent), 2),
                    "ratio": round(median(spent) / median(seconds[BLANKS]), 3),
                    "peak_gb": gigabytes(peaks[name]),
                    "kept_mb": round(kept[name] / 2**20, 1),
                }
                for name, spent in seconds.items()
            ]
            keep({"rounds": number, "methods": told})


def drawing(models: tuple[Any, ...], pixels: int, steps: int) -> dict[str, float]:
    """Seconds of Place Pictures for a sampling step of one picture, and for what follows: the VAE
    and the file.
    """
    at: list[float] = []

    def told(*_: Any) -> None:
        at.append(now())

    config = PriorConfig(prompt=PROMPT, resolution=pixels, steps=steps)
    reset_peak()
    with TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        drawn_places(*models, DEFAULT_PLACES[:1], 1, config, told)
    gaps = [after - before for before, after in zip(at, at[1:], strict=False)]
    return {
        "seconds_a_step": round(median(gaps[:-1]), 2),
        "seconds_after": round(gaps[-1], 2),
        "peak_gb": gigabytes(peak()),
    }


def composed(
    subject: Masked, pixels: int, encode: Encode, encoded: int
) -> tuple[Photos, Photos, dict[str, Any]]:
    """A subject on blanks, and on places of random pixels; what the composites cost."""
    places = Places(random_pictures(len(DEFAULT_PLACES), pixels), DEFAULT_PLACES)
    given, made = (subject.squares, subject.masks), []

    def noted(pictures: Tensor) -> Tensor:
        made.extend(pictures[: encoded - len(made)])
        return unseen(pictures)

    held = memory_now()
    reset_peak()
    blanks = make_photos(*given, random_features, unseen, subject.class_word, resolution=pixels)
    cutting, placed = timed(partial(with_composites, blanks, *given, places, noted))
    cut = peak() - held
    held = memory_now()
    reset_peak()
    encoding = [timed(partial(encode, picture[None]))[0] for picture in made]
    told = {
        "subject_photos": len(subject.squares),
        "of_each": COMPOSITES,
        "cutting_seconds": round(cutting, 2),
        "cutting_gb": gigabytes(cut),
        "encoding_seconds": round(median(encoding), 2),  # a picture
        "encoding_gb": gigabytes(peak() - held),
        "kept_mb": round(bytes_of(t for _, t in placed.composites.tensors()) / 2**20, 2),
        "places_mb": round(bytes_of([places.pictures]) / 2**20),
    }
    return blanks, replace(placed, blanked=None), told


def unseen(pictures: Tensor) -> Tensor:
    """Random latents in place of those of pictures [B, S, S, 3]."""
    count, side = len(pictures), pictures.shape[1] // 8
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(SEED))
