"""Stable Diffusion XL with v-prediction and zero terminal SNR: checkpoints such as NoobAI's.

ComfyUI knows them by the keys `v_pred` and `ztsnr` beside the weights. The last timestep has
sigma 4518: alpha_bar is 4.9e-8 where plain Stable Diffusion XL ends at 0.0047.
"""

import dataclasses

import comfy.sd
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.concept.merge import check_mergeable
from detex_pack.detex.host.concepts import prediction_note
from detex_pack.detex.host.denoiser import training_session
from detex_pack.detex.host.families import SDXL, check_schedule, family_of, schedule_of
from detex_pack.detex.host.prior import PriorConfig, decode, sample_chunk
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run, accumulate
from detex_pack.detex.unet.schedules import VSchedule
from detex_pack.nodes.concept import ApplyEmbeddings

LAST = 999


def xl(*marks: str) -> ModelPatcher:
    return tiny.tiny_model(comfy.supported_models.SDXL, marks=marks)


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return xl("v_pred", "ztsnr")


@pytest.fixture(scope="module")
def clip() -> comfy.sd.CLIP:
    return tiny.tiny_sdxl_clip()


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Latents and noise [3, 4, 8, 12], and the first, a middle and the last timestep."""
    latents, noise = torch.randn(2, 3, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    return latents, noise, torch.tensor([0, 500, LAST])


def test_it_is_trained_on_with_the_sigmas_of_comfyuis_own_sampling(model: ModelPatcher):
    assert family_of(model) == SDXL
    check_schedule(model)
    schedule = schedule_of(model)
    assert isinstance(schedule, VSchedule)
    assert torch.equal(schedule.sigmas, model.get_model_object("model_sampling").sigmas)
    # alpha_bar = 4.8973451890853435e-08 there, so that sigma is (1 / alpha_bar - 1) ** 0.5
    assert schedule.sigmas[LAST].item() == pytest.approx(4518.76, abs=0.01)


def test_v_prediction_without_the_other_key_ends_as_plain_stable_diffusion():
    model = xl("v_pred")
    assert isinstance(schedule_of(model), VSchedule)
    assert schedule_of(model).sigmas[LAST].item() == pytest.approx(14.6146, abs=1e-3)


def test_noise_is_comfyuis_at_every_timestep(model: ModelPatcher):
    latents, noise, timesteps = drawn()
    sampling = model.get_model_object("model_sampling")
    sigmas = sampling.sigmas[timesteps]
    host = sampling.calculate_input(sigmas, latents + sigmas.view(-1, 1, 1, 1) * noise)
    ours = schedule_of(model).add_noise(latents, noise, timesteps)
    torch.testing.assert_close(ours, host, atol=1e-5, rtol=1e-5)
    assert (ours[2] - noise[2]).abs().max() < 1e-3  # nothing of the photo is left at the last


def test_target_is_what_comfyui_takes_back_to_the_latents(model: ModelPatcher):
    latents, noise, timesteps = drawn()
    sampling = model.get_model_object("model_sampling")
    sigmas = sampling.sigmas[timesteps].double()
    target = schedule_of(model).target(latents, noise, timesteps)
    noisy = latents + sigmas.view(-1, 1, 1, 1) * noise  # as the sampler holds it
    denoised = sampling.calculate_denoised(sigmas, target.double(), noisy.double())
    torch.testing.assert_close(denoised, latents.double(), atol=1e-4, rtol=0)
    assert (target[2] + latents[2]).abs().max() < 1e-3  # v = a eps - s z with a = 0, s = 1


def test_losses_and_gradients_are_finite_at_the_last_timestep(
    model: ModelPatcher, clip: comfy.sd.CLIP, subject: Photos, prior_latents: Tensor
):
    settings = DetexConfig(), TrainConfig(batch_size=3)
    with training_session(model, clip, (4, 4, 8, 8)) as session:
        method = Detex(subject, prior_latents, *settings, *session)
        run, batch = Run(method, session[0], method.train_config), method.draw()
        last = dataclasses.replace(batch, timesteps=torch.full_like(batch.timesteps, LAST))
        with method.insert(session[0]):
            losses = accumulate(run, last, method.turn(0))
    assert all(term.isfinite() for term in losses.values())
    grads = [p.grad for p in method.learned.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)


def test_prior_images_are_numbers(model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE):
    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a ball", "")]
    config = PriorConfig(prompt="a ball", resolution=64, steps=3)
    with torch.inference_mode():
        progress = {"done": 0, "all": 3}
        latents = sample_chunk(model, texts, config, range(1), lambda *_: None, progress)
        assert decode(vae, latents, 64).isfinite().all()


def test_concept_knows_what_its_model_predicts(concept: Concept, model: ModelPatcher):
    assert concept.base.prediction == "v"
    assert prediction_note(concept, model) == ""
    assert prediction_note(concept, xl("v_pred")) == ""  # another schedule of the same kind


def test_on_a_model_of_the_other_prediction_the_node_warns(concept: Concept, caplog):
    told = ApplyEmbeddings.execute(xl(), concept, 1.0).ui.as_dict()["text"]
    assert "trained on a model that predicts v (v-prediction); the MODEL wired here" in told[0]
    assert "predicts the noise (eps)" in told[0]
    assert told[0] in caplog.text
    other = dataclasses.replace(concept, base=dataclasses.replace(concept.base, prediction="eps"))
    assert "that predicts the noise (eps); the MODEL" in prediction_note(other, xl("v_pred"))


def test_on_its_own_model_the_node_says_nothing(concept: Concept, model: ModelPatcher, caplog):
    output = ApplyEmbeddings.execute(model, concept, 1.0)
    assert output.ui.as_dict()["text"] == ("",)
    assert not caplog.records


def test_concepts_of_both_predictions_are_not_merged(concept: Concept):
    other = dataclasses.replace(concept, base=dataclasses.replace(concept.base, prediction="eps"))
    with pytest.raises(ValueError, match="Concept 2 was trained on a model that predicts eps, the"):
        check_mergeable([concept, other])
