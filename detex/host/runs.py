"""Training runs on disk: snapshots to go on from, and finished concepts to find again.

A run is known by all that decides its result except the number of steps, so that the same run can
be left early, gone on with, or made longer. It has one folder:

    ComfyUI/user/__detex/runs/<key>/step_000350.safetensors     the state after 350 steps
                                   /finished_000600.safetensors the concept after 600 steps
                                   /finished_000600.json        its losses
                                   /samples_000350.safetensors  its live samples at that step
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy.model_management import InterruptProcessingException
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..canvas.filmstrip import Samples, small
from ..concept.file import Concept, concept_bytes, load_concept
from ..methods.base import Method
from ..training.loop import Losses, Run, Watcher
from ..training.snapshot import read_snapshot, snapshot_bytes
from .denoiser import ComfyDenoiser
from .digest import hash_tensor, hash_weights
from .paths import write_new, write_set
from .text import ComfyTextEncoder

VERSION = 5  # raise it when the same photos and settings come to train differently
SNAPSHOTS = 2  # kept of a run
RUNS_WITH_SNAPSHOTS = 5  # the latest; older ones keep their finished concept and samples alone
RUNS = 20

log = logging.getLogger("detex")


def runs_folder() -> Path:
    return Path(folder_paths.get_system_user_directory("detex")) / "runs"


def run_key(method: Method, denoiser: ComfyDenoiser, text: ComfyTextEncoder) -> str:
    """A hash of all that decides the result but the number of steps: what the method says of itself
    and its photos, the schedule, and every weight that is read of the private UNet and text towers,
    LoRAs and clip skip included.
    """
    facts = [VERSION, denoiser.schedule.prediction, text.clip.layer_idx]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for part in (*method.key(), denoiser.schedule.sigmas):
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            hash_tensor(digest, part)
    for module in (denoiser.unet, *(part for tower in text.towers for part in tower.walked)):
        hash_weights(digest, module)
    return digest.hexdigest()[:24]


def numbered_files(folder: Path, kind: str) -> dict[int, Path]:
    """Step -> file, the first step first: of kind "step", "step_000350.safetensors"."""
    name = re.compile(rf"{kind}_(\d+)\.safetensors")
    named = ((name.fullmatch(path.name), path) for path in folder.glob(f"{kind}_*"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))


class RunFolder:
    """The files of one run."""

    def __init__(self, key: str):
        self.path = runs_folder() / key

    def open(self, *, empty: bool) -> None:
        """Make it the latest of all, free of half-written files; `empty`: of all files.

        Raises OSError where a file cannot be deleted, such as one that Windows holds open.
        """
        if empty and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        for half in self.path.glob(".*.part"):
            half.unlink(missing_ok=True)
        os.utime(self.path)  # the folder's time orders the runs

    def snapshots(self) -> dict[int, Path]:
        """Step -> file, the latest first."""
        return dict(reversed(numbered_files(self.path, "step").items()))

    def save_snapshot(self, run: Run) -> None:
        """Write the run's state, unless it is there, and let older ones go."""
        if run.step not in self.snapshots():
            write_new(self.path / f"step_{run.step:06d}.safetensors", snapshot_bytes(run))
        self._thin_out(run.step, SNAPSHOTS)

    def samples(self, steps: int) -> dict[int, Samples]:
        """The samples up to this step that are readable, by step."""
        found = {}
        for step, path in numbered_files(self.path, "samples").items():
            if step > steps:
                break
            with contextlib.suppress(OSError, SafetensorError):
                numbered = sorted(load(path.read_bytes()).items())
                found[step] = {name.partition(" ")[2]: image for name, image in numbered}
        return found

    def save_samples(self, step: int, samples: Samples) -> None:
        path = self.path / f"samples_{step:06d}.safetensors"
        path.unlink(missing_ok=True)
        numbered = {f"{i:02d} {name}": image for i, (name, image) in enumerate(samples.items())}
        write_new(path, save(numbered))

    def finished(self, steps: int) -> tuple[Concept, Losses] | None:
        """The concept after so many steps and its losses, where they are here and readable."""
        concept, losses = self._finished_files(steps)
        try:
            kept = json.loads(losses.read_text(encoding="utf-8"))
            return load_concept(concept), Losses(**kept)
        except (ValueError, TypeError, OSError):  # not there, or damaged
            return None

    def save_finished(self, concept: Concept, losses: Losses) -> None:
        """Keep the concept, and of the snapshots only the last: longer runs start from it."""
        files = self._finished_files(concept.config["steps"])
        contents = concept_bytes(concept), json.dumps(losses._asdict()).encode()
        for file in files:
            file.unlink(missing_ok=True)
        write_set(dict(zip(files, contents, strict=True)))
        self._thin_out(concept.config["steps"], 1)

    def _thin_out(self, step: int, keep: int) -> None:
        """Delete all but the latest snapshots up to `step`; those of a longer run stay."""
        reached = [path for number, path in self.snapshots().items() if number <= step]
        for old in reached[keep:]:
            with contextlib.suppress(OSError):  # Windows holds it open; the next run tries again
                old.unlink()

    def _finished_files(self, steps: int) -> tuple[Path, Path]:
        stem = f"finished_{steps:06d}"
        return self.path / f"{stem}.safetensors", self.path / f"{stem}.json"


def prune_runs() -> None:
    """Delete the oldest runs, and the snapshots and states of all but the latest few."""
    folders = [path for path in runs_folder().iterdir() if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in folders[RUNS:]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folders[RUNS_WITH_SNAPSHOTS:RUNS]:
        for old in (*RunFolder(path.name).snapshots().values(), *path.glob("state_*")):
            old.unlink(missing_ok=True)


class ResumeStore(Watcher):
    """Keeps a run on disk while it trains, and finds what an earlier one has left.

    every: steps between snapshots; 0 writes one only where the run is stopped. say: tells the
    person at the canvas. A full or read-only disk does not end the training: it is logged, once.
    """

    def __init__(
        self, every: int, *, start_over: bool = False, say: Callable[[str], None] = log.info
    ):
        self.every, self.start_over, self.say = every, start_over, say
        self.note = ""  # what was found, for the person at the canvas
        self.last_good = 0  # the latest step that was written or found
        self.samples: dict[int, Samples] = {}  # of the live view, by step
        self._disk_failed = False

    def find(
        self, method: Method, denoiser: ComfyDenoiser, text: ComfyTextEncoder
    ) -> tuple[Concept, Losses] | None:
        """Open the run's folder -> the concept and its losses where it was trained before."""
        self.folder = RunFolder(run_key(method, denoiser, text))
        self.trying(lambda: self.folder.open(empty=self.start_over))
        with contextlib.suppress(OSError):  # Windows holds a file open; the next run tries again
            prune_runs()
        if self.start_over:  # whatever is left of the folder
            return None
        self.samples = self.folder.samples(method.train_config.steps)
        found = self.folder.finished(method.train_config.steps)
        if found:
            self.note = (
                "Found on disk, not trained again: the same photos, settings and seed have been "
                "trained before. To train anew choose another seed, or resume: start over."
            )
        return found

    def on_start(self, run: Run) -> None:
        """Put the latest usable snapshot back that is not beyond the wanted number of steps."""
        if self.start_over:
            return
        for step, path in self.folder.snapshots().items():
            if step > run.config.steps:
                continue
            try:
                read_snapshot(path).apply(run)
            except ValueError as error:
                log.warning("Snapshot skipped: %s", error)
                with contextlib.suppress(OSError):  # else its step would count as kept
                    path.unlink()
                continue
            self.last_good = step
            self.note = f"Continued after step {step}."
            self.say(self.note)
            return

    def on_step(self, run: Run) -> None:
        last = run.step == run.config.steps
        if self.every and (run.step % self.every == 0 or last):
            run.check_weights()
            self.save(run)

    def on_stop(self, run: Run, error: BaseException) -> None:
        """After a cancel or a full card the state is good: keep it, and say how to go on."""
        cancelled = isinstance(error, InterruptProcessingException | KeyboardInterrupt)
        if not cancelled and not run.denoiser.is_out_of_memory(error):
            return
        if run.between_steps and run.step > self.kept():
            with contextlib.suppress(FloatingPointError):
                run.check_weights()
                self.save(run)
        if cancelled:
            where = f"Stopped after step {run.step} of {run.config.steps}."
            again = "Set resume to auto and run again" if self.start_over else "Run again"
            on = f"{again} to go on." if self.kept() else "Nothing of it is kept on disk."
            self.say(f"{where} {on} {self.remedy()}".strip())

    def keep_samples(self, step: int, pictures: dict[str, Tensor]) -> None:
        """What the live view has drawn after this step: caption -> [H, W, 3] in [0, 1]."""
        self.samples[step] = small(pictures)
        self.trying(lambda: self.folder.save_samples(step, self.samples[step]))

    def kept(self) -> int:
        """The step that one can go on from, by what is on disk; 0 where nothing is."""
        return max((step for step in self.folder.snapshots() if step <= self.last_good), default=0)

    def save(self, run: Run) -> None:
        if self.trying(lambda: self.folder.save_snapshot(run)):
            self.last_good = run.step

    def finish(self, concept: Concept, losses: Losses) -> None:
        if not self.trying(lambda: self.folder.save_finished(concept, losses)):
            lost = f"The training cannot be kept in {runs_folder()}: save the concept."
            self.note = f"{self.note} {lost}".strip()

    def trying(self, write: Callable[[], None]) -> bool:
        """Whether `write` went well; a disk that is full or read-only is told of once."""
        try:
            write()
        except OSError as error:
            if not self._disk_failed:
                log.warning("The training cannot be kept in %s (%s).", runs_folder(), error)
            self._disk_failed = True
            return False
        return True

    def remedy(self) -> str:
        """What can be done with the state that is on disk; "" without one."""
        step, resume = self.kept(), "resume to auto and " if self.start_over else ""
        if not step:
            return ""
        return f"Step {step} is kept: set {resume}steps to {step} to use what was learned by then."
