"""Gradients of the training copy, whatever the checkpoint's precision and way of loading."""

import comfy.sd
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.host import denoiser
from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.families import fingerprint
from detex_pack.detex.host.preflight import measure
from detex_pack.detex.host.text import ComfyTextEncoder
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run, gradients
from detex_pack.detex.unet.deltas import text_layers

KINDS = {
    "1.x": (comfy.supported_models.SD15, tiny.tiny_clip),
    "2.x": (comfy.supported_models.SD20, tiny.tiny_sd2_clip),
    "XL": (comfy.supported_models.SDXL, tiny.tiny_sdxl_clip),
}
TRAIN = TrainConfig(batch_size=2, rank=4)
Gradients = dict[str, Tensor]


def built(kind: str, stored: torch.dtype) -> tuple[ModelPatcher, comfy.sd.CLIP]:
    family, clip = KINDS[kind]
    return tiny.tiny_model(family, kind == "2.x", stored=stored), clip(stored=stored)


def first_run(session: tuple, subject: Photos, prior: Tensor) -> Run:
    scale = session[0].patcher.model.process_latent_in
    scaled = subject.for_training(scale)
    method = Detex(scaled, scale(prior.clone()), DetexConfig(), TRAIN, *session)
    return Run(method, session[0], TRAIN)


def step_gradients(session: tuple, subject: Photos, prior: Tensor) -> Gradients:
    """Of every learned parameter, after the first step's backward pass."""
    run = first_run(session, subject, prior)
    with run.method.insert(session[0]):
        gradients(run, run.method.turn(0))
    learned = run.method.learned.named_parameters()
    return {name: p.grad.clone() for name, p in learned if p.grad is not None}


def reference(kind: str, stored: torch.dtype, subject: Photos, prior: Tensor) -> Gradients:
    """Of the same numbers in float32, without a training session: plain modules, plain autograd."""
    model, clip = built(kind, stored)
    for module in (model.model, clip.cond_stage_model):
        module.requires_grad_(requires_grad=False).float()
    session = ComfyDenoiser(model), ComfyTextEncoder(clip)
    return step_gradients(session, subject, prior)


def users(kind: str, stored: torch.dtype, subject: Photos, prior: Tensor, *, partly: bool):
    """Of a training session inside of a node: all that it is given was made in inference mode."""
    with torch.inference_mode():
        model, clip = built(kind, stored)
        if partly:
            model.load(torch.device("cpu"), lowvram_model_memory=20_000)
            assert model.model.model_lowvram
        with training_session(model, clip, (4, 4, 8, 8)) as session:
            return step_gradients(session, subject, prior)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradients_are_those_of_float32(
    kind: str, stored: torch.dtype, subject: Photos, prior_latents: Tensor
):
    wanted = reference(kind, stored, subject, prior_latents)
    found = users(kind, stored, subject, prior_latents, partly=False)
    assert found.keys() == wanted.keys()
    assert sum(bool(g.any()) for g in found.values()) > 20
    for name, gradient in wanted.items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * largest, rtol=1e-5)


def test_half_precision_costs_the_gradient_a_percent_at_most(
    subject: Photos, prior_latents: Tensor
):
    whole, half = (
        users("1.x", stored, subject, prior_latents, partly=False)
        for stored in (torch.float32, torch.float16)
    )
    both = [torch.cat([g.flatten() for g in found.values()]) for found in (whole, half)]
    assert (both[0] - both[1]).norm() < 0.01 * both[0].norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_autocast_keeps_no_second_copy_of_the_weights_and_finds_the_same_gradients(
    subject: Photos,
    prior_latents: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    stored: torch.dtype,
    dtype: torch.dtype,
):
    monkeypatch.setattr(denoiser, "training_dtype", lambda device: dtype)
    held, kept = autocast_step(stored, subject, prior_latents)
    monkeypatch.setattr(denoiser, "cast_frozen_weights", lambda unet, dtype: None)
    cast, kept_then = autocast_step(stored, subject, prior_latents)
    assert held.keys() == cast.keys()
    assert all(torch.equal(held[name], cast[name]) for name in cast)
    weights = sum(p.numel() for p in built("1.x", stored)[0].model.diffusion_model.parameters())
    assert kept < 0.1 * dtype.itemsize * weights
    if stored is not dtype:
        assert kept_then > 0.8 * dtype.itemsize * weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_training_copy_names_its_checkpoint_alike_in_every_precision(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
):
    monkeypatch.setattr(denoiser, "training_dtype", lambda device: dtype)
    model, clip = built("1.x", torch.float16)
    with training_session(model, clip, (4, 4, 8, 8)) as (copy, _):
        weight = copy.unet.get_submodule(text_layers(copy.layers)[0].path).weight
        assert weight.dtype is dtype and copy.fingerprint == fingerprint(model)


def autocast_step(stored: torch.dtype, subject: Photos, prior: Tensor) -> tuple[Gradients, float]:
    """A step's gradients, and the bytes that it keeps however few photos it has."""
    model, clip = built("1.x", stored)
    with training_session(model, clip, (4, 4, 8, 8)) as session:
        run = first_run(session, subject, prior)
        with run.method.insert(session[0]):
            start = measure(run, session[0]).plain.start
            run.rewind()
        return step_gradients(session, subject, prior), start


@pytest.mark.parametrize("kind", KINDS)
def test_model_that_is_partly_in_ram_trains_with_the_same_gradients(
    kind: str, subject: Photos, prior_latents: Tensor
):
    # as under --lowvram, where ComfyUI lends the weights from a buffer that it uses again
    whole = users(kind, torch.float16, subject, prior_latents, partly=False)
    partly = users(kind, torch.float16, subject, prior_latents, partly=True)
    assert whole.keys() == partly.keys()
    assert all(torch.equal(whole[name], partly[name]) for name in whole)
