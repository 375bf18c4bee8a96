"""Pictures of a training's states, kept on disk, and the scores of each."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import comfy.sd
import folder_paths
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..concept.file import Concept, load_concept
from ..evaluate.encoder import Encoder
from ..evaluate.evaluation import Evaluation
from ..evaluate.knee import Point
from ..evaluate.measures import agreement, likeness
from ..evaluate.scores import spread
from ..evaluate.scoring import Masked, Sampled, evaluate
from .deltas import apply_concept
from .digest import hash_tensor
from .prior import PriorConfig, prior_folder, prior_pictures
from .text import compose
from .towers import tower_of

FOLDER = "detex_best_step"  # below ComfyUI's output folder
SPREAD = "spread of the prompts"  # stands for editability without a text encoder

Report = Callable[[int, Tensor | None], None]  # sampling steps done, the newest picture


@dataclass(frozen=True)
class Trial:
    """What is drawn of each state: `count` pictures of each prompt, from the same seeds."""

    prompts: tuple[str, ...]
    count: int
    sampling: Mapping[str, int | float | str]  # resolution, steps, cfg, sampler_name, scheduler...

    def config(self, prompt: str) -> PriorConfig:
        return PriorConfig(prompt=prompt, **self.sampling)  # type: ignore[arg-type]

    @property
    def work(self) -> int:
        """Sampling steps of one state, all pictures together."""
        return len(self.prompts) * self.count * int(self.sampling["steps"])

    def by_prompt(self, pictures: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """The pictures of each prompt."""
        starts = range(0, len(pictures), self.count)
        return [pictures[start : start + self.count] for start in starts]


class Models(NamedTuple):
    """The checkpoint, without the concept."""

    model: ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE


class Tried(NamedTuple):
    """A state, what it draws, and its scores."""

    point: Point
    pictures: Sequence[Tensor]  # [S, S, 3], prompt by prompt
    evaluation: Evaluation


def try_states(
    states: Mapping[int, Path],
    models: Models,
    trial: Trial,
    photos: Masked,
    encoders: Sequence[Encoder],
    report: Report,
) -> list[Tried]:
    """Draw and score each state. report: sampling steps done of all states together."""
    tried = []
    for number, (step, path) in enumerate(states.items()):
        before = number * trial.work
        pictures = state_pictures(
            models,
            load_concept(path),
            trial,
            lambda done, newest, before=before: report(before + done, newest),
        )
        tried.append(scored_state(step, pictures, trial, photos, encoders))
    return tried


def state_pictures(models: Models, concept: Concept, trial: Trial, report: Report) -> list[Tensor]:
    """The pictures [S, S, 3], prompt by prompt. What is on disk is read, what is missing is made: a
    cancel loses the pictures of one prompt.
    """
    model, clip, vae = models
    patched = apply_concept(model, concept, 1.0)
    vectors = concept.vectors(tower_of(clip))
    pictures: list[Tensor] = []
    for number, prompt in enumerate(trial.prompts):
        config = trial.config(prompt)
        before = number * trial.count * config.steps
        batch, _, _ = prior_pictures(
            patched,
            clip,
            vae,
            config,
            trial.count,
            trial.count,
            lambda done, _, newest, before=before: report(before + done, newest),
            positive=compose(clip, prompt, vectors),
            folder=pictures_folder(prior_folder(patched, clip, vae, config), vectors),
        )
        pictures += list(batch)
    return pictures


def pictures_folder(plain: Path, vectors: Mapping[str, Tensor]) -> Path:
    """Where pictures of a prompt with these words lie; plain: as if it had none."""
    digest = hashlib.sha256(plain.name.encode())
    for word, vector in vectors.items():
        digest.update(word.encode())
        hash_tensor(digest, vector)
    return Path(folder_paths.get_output_directory()) / FOLDER / digest.hexdigest()[:16]


def scored_state(
    step: int,
    pictures: Sequence[Tensor],
    trial: Trial,
    photos: Masked,
    encoders: Sequence[Encoder],
) -> Tried:
    """The evaluation of a state, and the two scores that the choice is made by."""
    prompts = [prompt for prompt in trial.prompts for _ in range(trial.count)]
    sampled = Sampled(Masked(pictures, None, "picture"), prompts)
    found = evaluate(f"step {step}", "subject", sampled, photos, encoders)
    text = agreement(found)
    if text is not None:
        edits = found.estimate(text).mean
    else:
        edits = float(spread(encoders[0].see(pictures), prompts).mean())
    like = found.estimate(likeness(found)).mean
    return Tried(Point(step, like, edits), pictures, found)


def names_of(found: Evaluation) -> tuple[str, str]:
    """What likeness and editability are called."""
    text = agreement(found)
    return likeness(found).name, text.name if text else SPREAD
