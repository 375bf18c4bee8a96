"""A training and a sampling to measure, of real size or of the demo model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as model_management
import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.concept.file import BaseModel, Concept
from detex_pack.detex.host.demo_model import DemoModel
from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.families import attention_layers, family_of, fingerprint, unet_layout
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.towers import tower_of
from detex_pack.detex.methods import method_of
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.prompt.grammar import Named
from detex_pack.detex.toys.subjects import demo_subject
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run
from detex_pack.detex.unet.deltas import text_layers

SEED = 0
DETEX = DetexConfig.recommended()


def loaded(checkpoint: Path) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    found: Any = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    return found[:3]


def loaded_vae(checkpoint: Path) -> comfy.sd.VAE:
    """The VAE alone, of models whose UNet would not fit beside it."""
    parts = {"output_model": False, "output_clip": False}
    found: Any = comfy.sd.load_checkpoint_guess_config(str(checkpoint), **parts)
    return found[2]


def random_pictures(count: int, pixels: int) -> Tensor:
    """[count, S, S, 3]"""
    return torch.rand((count, pixels, pixels, 3), generator=torch.Generator().manual_seed(SEED))


def random_subject(photos: Tensor, encode: Callable[[Tensor], Tensor]) -> Photos:
    """The middle of each of `photos` [N, S, S, 3], with random image features."""
    count, side = photos.shape[:2]
    mask = torch.zeros(side, side)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    return make_photos(
        list(photos), [mask] * count, random_features, encode, "dog", resolution=side
    )


def random_features(photos: Tensor) -> Tensor:
    """[N, 768], as CLIP ViT-L/14 gives of N photos; the cost does not depend on the values."""
    return torch.randn(len(photos), 768, generator=torch.Generator().manual_seed(SEED))


Arm = tuple[Photos, Any]  # what is trained on, and the settings of any method


@contextmanager
def open_runs(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    arms: Mapping[str, Arm],
    prior: Tensor,
    train: TrainConfig,
) -> Iterator[tuple[dict[str, Run], ComfyDenoiser]]:
    """A run for each arm, all on one copy of the weights; its steps stand in `method.insert`."""
    scale = model.model.process_latent_in
    shape = (2 * train.batch_size, *prior.shape[1:])
    with training_session(model, clip, shape) as (denoiser, text):
        runs = {}
        for name, (photos, config) in arms.items():
            given = photos.for_training(scale), scale(prior)
            method = method_of(config)(*given, config, train, denoiser, text)
            runs[name] = Run(method, denoiser, train)
        yield runs, denoiser


@contextmanager
def open_run(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    photos: Photos,
    prior: Tensor,
    config: Any,
    train: TrainConfig,
) -> Iterator[tuple[Run, ComfyDenoiser]]:
    """A run that can take its steps one by one. config: the settings of any method."""
    with open_runs(model, clip, {"": (photos, config)}, prior, train) as (runs, denoiser):
        with runs[""].method.insert(denoiser):
            yield runs[""], denoiser


def real_inputs(options: Namespace, config: Any = DETEX) -> tuple[Any, ...]:
    """What open_run takes: the models of `options.checkpoint`, so many random photos of so many
    pixels, as many prior images, and the configuration.
    """
    model, clip, vae = loaded(options.checkpoint)
    encode = latent_encoder(vae)
    photos, priors = random_pictures(2 * options.photos, options.pixels).split(options.photos)
    subject, prior = random_subject(photos, encode), encode(priors)
    model_management.unload_all_models()
    return model, clip, subject, prior, config, TrainConfig(batch_size=options.photos, seed=SEED)


def toy_photos(demo: DemoModel, count: int = 4, pixels: int = 64) -> Photos:
    """Photos of a toy, which the demo model can learn."""
    toy = demo_subject(0, count, 0)
    see, encode = feature_encoder(demo.clip_vision), latent_encoder(demo.vae)
    pictures, masks = list(toy.images), list(toy.masks)
    return make_photos(pictures, masks, see, encode, toy.class_word, resolution=pixels)


def toy_run(
    demo: DemoModel, *, photos: int, batch: int, pixels: int
) -> AbstractContextManager[tuple[Run, ComfyDenoiser]]:
    """DETEX Train's run on a toy; the cost of a step is that of any prior images."""
    subject = toy_photos(demo, photos, pixels)
    train = TrainConfig(batch_size=batch)
    return open_run(demo.model, demo.clip, subject, subject.latents[:, 0], DETEX, train)


def random_concept(model: ModelPatcher, clip: comfy.sd.CLIP) -> Concept:
    """Deltas as a training makes them, in size; their values do not matter here."""
    rng = torch.Generator().manual_seed(SEED)
    deltas = {
        layer.path: 1e-3 * torch.randn(layer.out, layer.inp, generator=rng)
        for layer in text_layers(attention_layers(model))
    }
    base = BaseModel(
        family=family_of(model).name,
        fingerprint=fingerprint(model),
        tower=tower_of(clip),
        prediction="eps",
        unet=unet_layout(model),
    )
    return Concept(
        words={},
        deltas=deltas,
        named=(Named("V", "dog", "pose"),),
        method="DETEX",
        base=base,
        config={},
        photo_hashes=(),
        thumbnails=torch.zeros(0, 128, 128, 3, dtype=torch.uint8),
    )


def sampled(
    model: ModelPatcher, conds: Sequence[Any], pixels: int, steps: int, count: int = 1
) -> Tensor:
    """KSampler's latents [count, 4, h, w] for (positive, negative)."""
    latent = torch.zeros(count, 4, pixels // 8, pixels // 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(SEED))
    settings: Any = (steps, 7.0, "euler", "normal", *conds, latent)
    return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=SEED)


def encoded(clip: comfy.sd.CLIP, *texts: str) -> list[Any]:
    """Conditionings as CLIP Text Encode makes them."""
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
