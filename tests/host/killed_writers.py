"""All that writes, for processes of their own, to be killed at any moment or to lose their disk.

Each works in `folder` until `work` pieces are there, goes on where an earlier process has left it,
and counts in `done` what it has made.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "batch"))

import folder_paths
import killed_run
import tiny
import torch
from simulated import Simulated

from detex_pack.detex.batch.job import Job, key_of, with_settings
from detex_pack.detex.batch.run import Run
from detex_pack.detex.batch.server import Ending
from detex_pack.detex.batch.store import JobStore
from detex_pack.detex.batch.view import View
from detex_pack.detex.concept.file import load_concept
from detex_pack.detex.host.export import Export, plan, write_planned
from detex_pack.detex.host.places import drawn_places
from detex_pack.detex.host.prior import PriorConfig, prior_pictures

MODELS = ("detex", "loras", "embeddings", "diffusers")
SIDE = 64
PAINTERS = tiny.tiny_model(), tiny.tiny_clip(), tiny.tiny_vae()  # once for all processes
BASE = {"1": {"class_type": "Sampler", "inputs": {"seed": 0}}}


def save(folder: Path, work: int, done) -> None:
    """Save Decoupled Embeddings with all exports: concept 0, 1, 2...; needs concept.safetensors."""
    use_models(folder)
    concept = load_concept(folder / "concept.safetensors")
    for number in range(work):
        if not list((folder / "detex").glob(f"toy{number}[._]*")):
            write_planned(partial(plan, concept, f"toy{number}", list(Export)))
            done.value += 1


def use_models(folder: Path) -> None:
    for name in MODELS:
        entry = ([str(folder / name)], {".safetensors"})
        folder_paths.folder_names_and_paths[name] = entry


def snapshot(folder: Path, work: int, done) -> None:
    """A training with a snapshot every other step, and the concept as it ends."""
    killed_run.train_once(str(folder), str(folder / "concept.bytes"), work, done)


@torch.no_grad()
def prior(folder: Path, work: int, done) -> None:
    config = ready(folder)
    prior_pictures(*PAINTERS, config, work, 1, lambda *_: count(done))


@torch.no_grad()
def places(folder: Path, work: int, done) -> None:
    config = ready(folder, "photo of {place}")
    names = [f"place {number}" for number in range(work)]
    drawn_places(*PAINTERS, names, 2, config, lambda *_: count(done))


def ready(folder: Path, prompt: str = "photo of a ball") -> PriorConfig:
    folder_paths.set_output_directory(str(folder))
    return PriorConfig(prompt=prompt, resolution=SIDE, steps=2)


def batch(folder: Path, work: int, done) -> None:
    """The batch's store, its pictures and its lists, with a server that answers at once."""

    def painted(prompt: dict) -> Ending:
        count(done)
        content = f"seed {prompt['1']['inputs']['seed']}".encode() * 5000
        return Ending("done", "", 1.0, (("1.png", content),))

    settings = [{("1", "seed"): seed} for seed in range(work)]
    jobs = [
        Job(row, "", f"{row:04d}", key_of(with_settings(BASE, values)), values)
        for row, values in enumerate(settings, 1)
    ]
    with JobStore(folder / ".jobs") as store:
        view = View(folder, store, jobs)
        view.arrange()
        Run(BASE, jobs, store, view, Simulated({"A": [painted]})).go(view.write_results)


def count(done) -> None:
    done.value += 1


WRITERS = {"save": save, "snapshot": snapshot, "prior": prior, "places": places, "batch": batch}


def work_in(writer: str, folder: str, work: int, done) -> None:
    """What a process of its own does."""
    torch.set_num_threads(1)
    WRITERS[writer](Path(folder), work, done)
