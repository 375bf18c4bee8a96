"""From photos to a concept, on the user's MODEL and CLIP."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..concept.file import CLIP_SKIP, BaseModel, Concept
from ..methods import method_of
from ..methods.base import Method
from ..photos.photos import Photos
from ..training.config import TrainConfig, as_json
from ..training.loop import Losses, Watcher, predictor, train
from ..training.steady import SteadyLoss
from .denoiser import ComfyDenoiser, WeightsTooLarge, is_out_of_memory, training_session
from .families import check_latent_scale, unet_layout
from .preflight import Preflight
from .runs import ResumeStore
from .states import StateKeeper
from .text import ComfyTextEncoder
from .towers import split_word, tower_of


def train_concept(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    photos: Photos,
    prior_latents: Tensor | None,
    config: Any,
    train_config: TrainConfig,
    watchers: Sequence[Watcher] = (),
    store: ResumeStore | None = None,
    keep_every: int = 0,
) -> tuple[Concept, Losses]:
    """Train on private copies; `model` and `clip` stay as they are, whatever happens.

    prior_latents [R, 4, h, w]: unscaled VAE latents of images of the class, or None.
    config: the settings of a method in the register, which says which method it is.
    store: keeps the run on disk, and finds what was trained before.
    keep_every: with a store, steps between states that are kept of the run; 0 keeps none.
    -> the concept, and what each step cost.
    """
    check_latent_scale(model, photos.resolution, photos.latents.shape[-1])
    rows = 2 * train_config.batch_size  # with the prior images
    try:
        with training_session(model, clip, (rows, *photos.latents.shape[-3:])) as (denoiser, text):
            scale = model.model.process_latent_in
            method = method_of(config)(
                photos.for_training(scale),
                None if prior_latents is None else scale(prior_latents),
                config,
                train_config,
                denoiser,
                text,
            )
            if store is None:
                return learn(method, denoiser, text, watchers)
            found = store.find(method, denoiser, text)
            if found is None:
                make = partial(make_concept, method, denoiser, text.clip)
                keeper = [StateKeeper(keep_every, store, make)] if keep_every else []
                found = learn(method, denoiser, text, [store, *keeper, *watchers])
                store.finish(*found)
            return found
    except RuntimeError as error:
        if isinstance(error, WeightsTooLarge) or not is_out_of_memory(error):
            raise
        raise torch.cuda.OutOfMemoryError(
            f"Out of graphics memory, one photo at a time and {photos.resolution} pixels. Lower "
            "the resolution of the photos, or set lambda_pr to 0: without prior images a pass "
            f"is half as large.{remedy(store)}"
        ) from error
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}{remedy(store)}") from error


def remedy(store: ResumeStore | None) -> str:
    """How to go on from what is on disk, as the last sentence of an error."""
    return f" {store.remedy()}".rstrip() if store else ""


def learn(
    method: Method,
    denoiser: ComfyDenoiser,
    text: ComfyTextEncoder,
    watchers: Sequence[Watcher],
) -> tuple[Concept, Losses]:
    """Train from the start, or from where a watcher puts the run; -> as `train_concept`."""
    before = scores(method, denoiser)
    last = [Preflight(denoiser), SteadyLoss()]
    losses = train(method, denoiser, method.train_config, [*watchers, *last])
    after = scores(method, denoiser)
    report: dict[str, Any] = {
        kind: {"before": values, "after": after[kind]} for kind, values in before.items()
    }
    report["losses"] = first_and_last(losses.terms)
    report["steady"] = [losses.steady["0"], losses.steady[str(method.train_config.steps)]]
    return replace(make_concept(method, denoiser, text.clip), report=report), losses


def scores(method: Method, denoiser: ComfyDenoiser) -> dict[str, dict[str, float]]:
    """What the method reports of its words at this moment."""
    with method.insert(denoiser):
        return method.report(predictor(denoiser))


def make_concept(method: Method, denoiser: ComfyDenoiser, clip: comfy.sd.CLIP) -> Concept:
    """What the method has learned on the private copies."""
    learned, photos = method.export(), method.photos
    return Concept(
        words={name: split_word(clip, name, vector) for name, vector in learned.words.items()},
        deltas=learned.deltas,
        varied=learned.varied,
        codes=learned.codes,
        named=method.named(),
        method=method.name,
        base=BaseModel(
            family=denoiser.family.name,
            fingerprint=denoiser.fingerprint,
            tower=tower_of(clip),
            prediction=denoiser.schedule.prediction,
            unet=unet_layout(denoiser.patcher),
        ),
        config=as_json(method.train_config, method.config) | clip_skip(clip),
        photo_hashes=photos.hashes,
        thumbnails=photos.thumbnails.clone(),
    )


def clip_skip(clip: comfy.sd.CLIP) -> dict[str, int]:
    """The layer that CLIP stops at, where a node has set one."""
    return {} if clip.layer_idx is None else {CLIP_SKIP: clip.layer_idx}


def first_and_last(terms: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Each term's mean over its first and its last 20 steps, or quarter of a short run."""
    means = {}
    for name, values in terms.items():
        window = max(1, min(20, len(values) // 4))
        means[name] = [sum(part) / window for part in (values[:window], values[-window:])]
    return means
