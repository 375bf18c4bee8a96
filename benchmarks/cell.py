"""Runs cells: trains one arm on one subject, draws every request, and reads the pictures.

As a program it is a worker (benchmarks.workers), which is asked for cells.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import date
from functools import cache
from typing import Any

import torch
from torch import Tensor

from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.demo_model import DemoModel, load_demo_model
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.text import compose
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.photos.photos import make_photos
from detex_pack.detex.photos.places import Places
from detex_pack.detex.photos.recipe import with_composites
from detex_pack.detex.toys.subjects import DemoSubject, demo_places
from detex_pack.detex.toys.world import HEADS
from detex_pack.detex.training.loop import Watcher
from detex_pack.pretraining.judge import load_judge
from detex_pack.pretraining.sampling import sample, sample_conditions
from devtools.machine import commit

from . import reader
from .arms import TUNED, Arm, arm_named
from .cells import SAMPLER, STRIPS, Cell, store
from .prompts import Request, requests
from .references import reference_photos
from .workers import serve, take_stdout

_PRIOR_SEED = 500
_STRIP = {"neutral": 4, "background": 4, "both": 4, "P": 4, "B": 4}  # pictures to look at

demo_model = cache(load_demo_model)
judge = cache(load_judge)


def run(cell: Cell) -> dict[str, Any]:
    """The cell's result: judged and read indices as digits, one a picture, and what it cost."""
    arm, started = arm_named(cell.arm), time.monotonic()
    with torch.inference_mode():
        photos = reference_photos(cell.identity, cell.photos, cell.rho, cell.seed)
        concept = learn(arm, photos, cell)
        trained = time.monotonic()
        asked = requests(photos.scenes, photos.class_word, words=arm.words)
        images = draw(concept, asked, seed=10_000 * (cell.seed + 1))
        drawn = time.monotonic()
        result = look(images, photos, asked)
    keep_strip(cell, images, asked)
    seconds = {
        "train": round(trained - started, 1),
        "draw": round(drawn - trained, 1),
        "look": round(time.monotonic() - drawn, 1),
    }
    learned = {} if concept is None else dict(concept.report)
    where = {"device": device_name(), "date": date.today().isoformat(), "commit": commit()}
    return result | {"report": learned, "seconds": seconds} | where


def learn(
    arm: Arm, photos: DemoSubject, cell: Cell, watchers: Sequence[Watcher] = ()
) -> Concept | None:
    """Trains the arm on the photos; None for the base model."""
    if arm.config is None:
        return None
    demo = demo_model()
    encode = latent_encoder(demo.vae)
    pictures, masks = list(photos.images), list(photos.masks)
    subject = make_photos(
        pictures,
        masks,
        feature_encoder(demo.clip_vision),
        encode,
        photos.class_word,
        resolution=64,
        blank=None if arm.places else arm.blank,
        scaled_copies=arm.scaled_copies,
        seed=cell.seed,
    )
    if arm.places:
        where, sizes = Places(*demo_places()), (1.0, 1.0)  # in this world size is an attribute
        subject = with_composites(
            subject, pictures, masks, where, encode, seed=cell.seed, sizes=sizes
        )
    train = arm.train_config(cell.steps, cell.seed)
    prior = prior_latents(photos.class_word)
    return train_concept(demo.model, demo.clip, subject, prior, arm.config, train, watchers)[0]


@cache
def prior_latents(class_word: str) -> Tensor:
    """Latents of what the base model itself calls by the class word, [TUNED.priors, 4, h, w]."""
    captions = [f"photo of a {class_word}"] * TUNED.priors
    pictures = sample(demo_model(), captions, _PRIOR_SEED, SAMPLER["steps"], SAMPLER["cfg"])
    return latent_encoder(demo_model().vae)(pictures)


def draw(
    concept: Concept | None, asked: Sequence[Request], seed: int, strength: float = 1.0
) -> Tensor:
    """One picture a request, [N,64,64,3]; the base model reads the prompts without [V]."""
    demo = demo_model()
    model, vectors = demo.model, {}
    if concept is not None:
        model, vectors = apply_concept(demo.model, concept, strength), concept.vectors("l")
    learned = DemoModel(model, demo.clip, demo.vae, demo.clip_vision)
    texts = [r.text if vectors else r.text.replace("[V] ", "") for r in asked]
    encoded = {text: compose(demo.clip, text, vectors)[0] for text in set(texts)}
    empty = compose(demo.clip, "", {})
    conditions = [encoded[text] for text in texts]
    steps, cfg = SAMPLER["steps"], SAMPLER["cfg"]
    return sample_conditions(learned, conditions, empty, seed, steps, cfg)


def look(images: Tensor, photos: DemoSubject, asked: Sequence[Request]) -> dict[str, Any]:
    """What the judge and the exact reader see, and how alike the photos the pictures are."""
    images = images.float().cpu()
    judged, read = judge()(images), reader.read(images)
    see = feature_encoder(demo_model().clip_vision)
    generated, references = (
        torch.nn.functional.normalize(see(pictures), dim=1) for pictures in (images, photos.images)
    )
    alike = (generated @ references.T).mean(1)
    kinds = [request.kind for request in asked]
    return {
        "judge": {name: digits(judged[name]) for name in HEADS},
        "reader": {name: digits(read[name]) for name in reader.FACTORS},
        "plain": digits(reader.plain_background(images)),
        "similarity": {
            kind: round(float(alike[[k == kind for k in kinds]].mean()), 5)
            for kind in dict.fromkeys(kinds)
        },
    }


def digits(indices: Tensor) -> str:
    """Indices below ten as one digit each."""
    return "".join(str(int(i)) for i in indices)


def keep_strip(cell: Cell, images: Tensor, asked: Sequence[Request]) -> None:
    """The first pictures of each kind in a row, for the report's page of pictures."""
    left, chosen = dict(_STRIP), []
    for number, request in enumerate(asked):
        if left.get(request.kind, 0):
            left[request.kind] -= 1
            chosen.append(images[number])
    STRIPS.mkdir(parents=True, exist_ok=True)
    as_picture(torch.cat(chosen, 1)).save(STRIPS / f"{cell.key}.png")


def device_name() -> str:
    """What the cell ran on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, 1 thread"


def run_and_store(fields: dict[str, Any]) -> dict[str, Any]:
    """A worker's answer: the seconds that the cell took, or its error."""
    fields["identity"] = tuple(fields["identity"])
    cell = Cell(**fields)
    try:
        result = run(cell)
        store(cell, result)
    except Exception as error:  # noqa: BLE001  (one cell's failure is reported, not the grid's)
        logging.getLogger(__name__).exception("%s", cell)
        return {"error": f"{type(error).__name__}: {error}"}
    return {"seconds": result["seconds"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(run_and_store, take_stdout())
