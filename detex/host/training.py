"""From a subject to a concept, on the user's MODEL and CLIP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..concept.file import BaseModel, Concept
from ..methods.detex import Detex, attention_overlap
from ..photos.subject import Subject
from ..training.config import DetexConfig, TrainConfig, as_json
from ..training.loop import Watcher, train
from .denoiser import ComfyDenoiser, WeightsTooLarge, is_out_of_memory, training_session
from .families import check_latent_scale, unet_layout
from .preflight import Preflight
from .runs import Keeper, Losses
from .text import ComfyTextEncoder
from .towers import split_word, tower_of


def train_concept(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    subject: Subject,
    prior_latents: Tensor | None,
    config: DetexConfig,
    train_config: TrainConfig,
    watchers: Sequence[Watcher] = (),
    keeper: Keeper | None = None,
) -> tuple[Concept, Losses]:
    """Train on private copies; `model` and `clip` stay as they are, whatever happens.

    prior_latents [R, 4, h, w]: unscaled VAE latents of images of the class, or None.
    keeper: keeps the run on disk, and finds what was trained before.
    -> the concept, and each loss term's value at each step.
    """
    check_latent_scale(model, subject.resolution, subject.latents.shape[-1])
    photos = 2 * train_config.batch_size  # with the prior images
    shape = (photos, *subject.latents.shape[-3:])
    try:
        with training_session(model, clip, shape) as (denoiser, text):
            scale = model.model.process_latent_in
            method = Detex(
                scaled_subject(subject, scale),
                None if prior_latents is None else scale(prior_latents),
                config,
                train_config,
                denoiser,
                text,
            )
            if keeper is None:
                return learn(method, denoiser, text, watchers)
            found = keeper.find(method, denoiser, text)
            if found is None:
                found = learn(method, denoiser, text, [keeper, *watchers])
                keeper.finish(*found)
            return found
    except RuntimeError as error:
        if isinstance(error, WeightsTooLarge) or not is_out_of_memory(error):
            raise
        raise torch.cuda.OutOfMemoryError(
            f"Out of graphics memory, one photo at a time and {subject.resolution} pixels. Lower "
            "the resolution in Subject Images, or set lambda_pr to 0: without prior images a pass "
            f"is half as large.{remedy(keeper)}"
        ) from error
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}{remedy(keeper)}") from error


def remedy(keeper: Keeper | None) -> str:
    """How to go on from what is on disk, as the last sentence of an error."""
    return f" {keeper.remedy()}".rstrip() if keeper else ""


def learn(
    method: Detex,
    denoiser: ComfyDenoiser,
    text: ComfyTextEncoder,
    watchers: Sequence[Watcher],
) -> tuple[Concept, Losses]:
    """Train from the start, or from where a watcher puts the run; -> as `train_concept`."""
    before = attention_overlap(method, denoiser)
    history = train(method, denoiser, method.train_config, [*watchers, Preflight(denoiser)])
    overlap = {"before": before, "after": attention_overlap(method, denoiser)}
    concept = make_concept(method, denoiser, text.clip)
    report = {"losses": first_and_last(history), "overlap": overlap}
    return replace(concept, report=report), history


def make_concept(method: Detex, denoiser: ComfyDenoiser, clip: comfy.sd.CLIP) -> Concept:
    """What the method has learned on the private copies."""
    subject, words = method.subject, method.words.export()
    return Concept(
        words={name: split_word(clip, name, vector) for name, vector in words.items()},
        deltas=method.deltas.export(),
        class_word=subject.class_word,
        attribute=subject.attribute,
        method=method.config.method,
        base=BaseModel(
            family=denoiser.family.name,
            fingerprint=denoiser.fingerprint,
            tower=tower_of(clip),
            v_prediction=denoiser.v_prediction,
            unet=unet_layout(denoiser.patcher),
        ),
        config=as_json(method.train_config, method.config),
        photo_hashes=subject.photo_hashes,
        thumbnails=subject.thumbnails.clone(),
    )


def first_and_last(history: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Each term's mean over its first and its last 20 steps, or quarter of a short run."""
    means = {}
    for name, values in history.items():
        window = max(1, min(20, len(values) // 4))
        means[name] = [sum(part) / window for part in (values[:window], values[-window:])]
    return means


def scaled_subject(subject: Subject, scale: Callable[[Tensor], Tensor]) -> Subject:
    """Latents as the UNet reads them, and every tensor usable by autograd.

    Nodes make tensors in torch.inference_mode; autograd takes only copies made outside of it.
    """
    return replace(
        subject,
        features=subject.features.clone(),
        latents=scale(subject.latents.clone()),
        blanked=scale(subject.blanked.clone()),
        masks=subject.masks.clone(),
        valid=subject.valid.clone(),
        sizes=subject.sizes.clone(),
    )
