"""What a training had learned after every so many steps, kept beside its snapshots.

A state is a concept file, words and deltas without the optimiser, so that it can be tried:

    ComfyUI/user/__detex/runs/<key>/state_000100.safetensors
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..concept.file import Concept, concept_bytes
from ..training.loop import Run, Watcher
from .paths import write_new
from .runs import ResumeStore, numbered_files, runs_folder


class StateKeeper(Watcher):
    """Writes the state after every `every` steps, and after the last. A full disk is told of by the
    store, and does not end the training.
    """

    def __init__(self, every: int, store: ResumeStore, make: Callable[[], Concept]):
        self.every, self.store, self.make = every, store, make

    def on_step(self, run: Run) -> None:
        if run.step % self.every and run.step != run.config.steps:
            return
        run.check_weights()
        path = self.store.folder.path / f"state_{run.step:06d}.safetensors"
        if not path.exists():
            with torch.no_grad(), run.averaged():
                made = self.make()
            made = replace(made, config={**made.config, "steps": run.step})
            self.store.trying(lambda: write_new(path, concept_bytes(made)))


def states_in(folder: Path) -> dict[int, Path]:
    """Step -> file, the first step first."""
    return numbered_files(folder, "state")


def states_of(concept: Concept) -> dict[int, Path]:
    """The states of the run that this concept came from, up to its own, the first step first.

    A run is known by its state after as many steps as the concept has, whose [V] is the same to the
    bit. Raises ValueError where there are fewer than two.
    """
    last = concept.config.get("steps", 0)
    for folder in latest_runs():
        states = {step: path for step, path in states_in(folder).items() if step <= last}
        if last in states and len(states) > 1 and has_words(states[last], concept):
            return states
    raise ValueError(
        "No earlier states of this concept are on this disk. Set keep_every of DETEX Train to 100, "
        "resume to start over, run it once, and wire its concept here."
    )


def latest_runs() -> Iterator[Path]:
    folder = runs_folder()
    if folder.is_dir():
        runs = [path for path in folder.iterdir() if path.is_dir()]
        yield from sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)


def has_words(path: Path, concept: Concept) -> bool:
    """Whether the file's [V] is the concept's; False for a damaged file."""
    own = concept.words.get("V", {})
    try:
        with safe_open(path, framework="pt") as file:
            return bool(own) and all(
                torch.equal(file.get_tensor(f"words.V.{tower}"), vector.cpu())
                for tower, vector in own.items()
            )
    except (SafetensorError, OSError):
        return False
