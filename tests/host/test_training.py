"""Whole training runs: what changes, what never changes, and how they end."""

import dataclasses
from collections.abc import Callable, Iterator

import comfy.model_management as model_management
import comfy.sd
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.host.denoiser import training_dtype, training_session
from detex_pack.detex.host.images import check_latents, feature_encoder, latent_encoder
from detex_pack.detex.host.progress import LiveView
from detex_pack.detex.host.training import first_and_last, train_concept
from detex_pack.detex.methods import method_of
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.prompt.grammar import Named
from detex_pack.detex.prompt.words import Attributes
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Losses, Run, Watcher, predictor
from detex_pack.detex.training.loop import train as run_steps
from detex_pack.detex.unet.losses import weighted_total

SHAPE = (4, 4, 8, 8)
Train = Callable[..., tuple[Concept, Losses]]


class Cancelled(Watcher):
    """Stops the run after step 2 with ComfyUI's own interruption."""

    def __init__(self):
        self.error = model_management.InterruptProcessingException()

    def on_step(self, run: Run) -> None:
        if run.step == 2:
            raise self.error


class Broken(Watcher):
    def on_step(self, run: Run) -> None:
        raise KeyError("a bug in the middle of a run")


class Notes(Watcher):
    """Keeps what `look` says of the run after each step."""

    def __init__(self, look: Callable[[Run], object]):
        self.look, self.seen = look, []

    def on_step(self, run: Run) -> None:
        self.seen.append(self.look(run))


def runs_to_its_end(train: Train) -> None:
    train()


def is_cancelled(train: Train) -> None:
    with pytest.raises(model_management.InterruptProcessingException):
        train(None, Cancelled(), steps=5)


def fails(train: Train) -> None:
    with pytest.raises(KeyError):
        train(None, Broken())


ENDINGS = pytest.mark.parametrize("end", [runs_to_its_end, is_cancelled, fails])


@ENDINGS
def test_users_model_and_clip_keep_every_bit(
    train: Train, model: ModelPatcher, clip: comfy.sd.CLIP, weight_hash: Callable, end: Callable
):
    before = weight_hash(model.model), weight_hash(clip.cond_stage_model)
    end(train)
    assert (weight_hash(model.model), weight_hash(clip.cond_stage_model)) == before


@ENDINGS
def test_users_model_keeps_no_patch_and_no_hook(
    train: Train, model: ModelPatcher, clip: comfy.sd.CLIP, end: Callable
):
    end(train)
    assert model.patches == {} and clip.patcher.patches == {}
    assert not any(module._forward_hooks for module in model.model.modules())


@ENDINGS
@pytest.mark.parametrize("flag", [False, True])
def test_comfyuis_training_flag_is_put_back(
    train: Train, monkeypatch: pytest.MonkeyPatch, end: Callable, flag: bool
):
    monkeypatch.setattr(model_management, "in_training", flag)
    end(train)
    assert model_management.in_training is flag


def test_comfyuis_training_flag_is_up_while_training(train: Train):
    notes = Notes(lambda _: model_management.in_training)
    train(None, notes)
    assert notes.seen == [True, True]


@ENDINGS
def test_global_random_state_is_left_alone(train: Train, end: Callable):
    before = torch.random.get_rng_state()
    end(train)
    assert torch.equal(torch.random.get_rng_state(), before)


@ENDINGS
def test_inference_and_gradient_modes_are_put_back(train: Train, end: Callable):
    with torch.inference_mode():
        end(train)
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


def test_cancel_leaves_as_the_very_exception_that_came(train: Train):
    cancel = Cancelled()
    with pytest.raises(model_management.InterruptProcessingException) as caught:
        train(None, cancel, steps=5)
    assert caught.value is cancel.error


def test_cancel_button_ends_the_run_at_the_next_step(train: Train):
    class Button(Notes):
        def on_step(self, run: Run) -> None:
            super().on_step(run)
            if run.step == 2:
                model_management.interrupt_current_processing()

    button = Button(lambda run: run.step)
    view = LiveView(50, 0, lambda latents: None)
    with pytest.raises(model_management.InterruptProcessingException):
        train(None, button, view, steps=50)
    assert button.seen == [1, 2]


def test_every_step_reports_its_terms(train: Train):
    notes = Notes(lambda run: {name: len(terms) for name, terms in run.history.items()})
    _, losses = train(None, notes, steps=3)
    names = ("diffusion", "prior", "attention", "total")
    assert notes.seen == [dict.fromkeys(names, n) for n in (1, 2, 3)]
    assert {name: len(values) for name, values in losses.terms.items()} == dict.fromkeys(names, 3)


def test_total_is_the_sum_of_the_terms_by_their_weights(train: Train):
    _, losses = train(DetexConfig(prior_weight=0.5, attention_weight=0.25), steps=3)
    terms = (losses.terms[name] for name in ("diffusion", "prior", "attention"))
    wanted = [d + 0.5 * p + 0.25 * a for d, p, a in zip(*terms, strict=True)]
    assert losses.terms["total"] == pytest.approx(wanted, rel=1e-6)


def test_same_seed_gives_the_same_bytes(train: Train):
    first, second = (concept_bytes(train(seed=5)[0]) for _ in range(2))
    assert first == second


def test_another_seed_gives_another_concept(train: Train):
    first, second = (train(seed=seed)[0].deltas for seed in (5, 6))
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_same_seed_gives_the_same_bytes_whatever_the_global_random_state(train: Train):
    torch.manual_seed(1)
    first = concept_bytes(train(seed=5)[0])
    torch.manual_seed(2)
    assert concept_bytes(train(seed=5)[0]) == first


def test_attention_loss_falls(train: Train):
    # the blanked photos of this VAE with random weights look much like the others: gamma 0
    config = DetexConfig(attention_weight=10.0, gamma=0)
    _, losses = train(config, steps=30, batch_size=3, prior=None)
    first, last = first_and_last(losses.terms)["attention"]
    assert last < 0.8 * first


def test_loss_that_is_no_number_says_what_to_do(train: Train, prior_latents: Tensor):
    with pytest.raises(
        FloatingPointError, match=r"prior.* loss .* at step 2\. Lower the learning rate"
    ):
        train(prior=prior_latents * torch.nan)


def test_reported_losses_are_means_of_first_and_last_steps():
    assert first_and_last({"prior": [1.0, 3.0, 0, 0, 0, 0, 5.0, 7.0]}) == {"prior": [2.0, 6.0]}


def test_concept_records_what_it_was_made_of(concept: Concept, subject: Photos):
    assert concept.named == (Named("V", "ball", "view", (1, 2, 3)),)
    assert (concept.class_word, concept.method) == ("ball", "DETEX")
    assert concept.photo_hashes == subject.hashes
    assert concept.word_names == ("V", "P1", "P2", "P3", "B1", "B2", "B3")
    assert concept.config["steps"] == 3
    assert concept.base.family == "the DETEX demo model"
    assert set(concept.report["overlap"]["before"]) == {"pose", "background"}


def test_custom_diffusion_learns_the_subject_word_alone(train: Train):
    learned, losses = train(CustomDiffusionConfig())
    assert (learned.word_names, learned.method) == (("V",), "Custom Diffusion")
    assert learned.named == (Named("V", "ball", "view", ()),)
    assert set(losses.terms) == {"diffusion", "prior", "total"}


@pytest.fixture(scope="module")
def session(model: ModelPatcher, clip: comfy.sd.CLIP) -> Iterator[tuple]:
    with training_session(model, clip, SHAPE) as opened:
        yield opened


CONFIGS = (
    DetexConfig(gamma=0),
    DetexConfig(gamma=0, attributes=Attributes.VECTORS),
    CustomDiffusionConfig(),
)


@pytest.mark.parametrize("config", CONFIGS)
def test_only_declared_parameters_get_gradients(
    session: tuple, subject: Photos, prior_latents: Tensor, config: object
):
    denoiser, text = session
    train_config = TrainConfig(batch_size=3)
    given = subject, prior_latents, config, train_config
    method = method_of(config)(*given, denoiser, text)
    with method.insert(denoiser):
        terms = method.losses(method.draw(), predictor(denoiser), method.turn(0))
        weighted_total(terms, method.weights).backward()
    frozen = [*denoiser.unet.parameters(), *text.clip.cond_stage_model.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    trained = [p for group in method.optimisers()["all"] for p in group["params"]]
    declared = [*method.deltas.parameters(), *method.words.parameters()]
    assert {id(p) for p in trained} == {id(p) for p in declared}
    assert all(p.grad is not None and p.grad.any() for p in trained)


def test_private_copies_keep_their_weights_too(
    session: tuple, subject: Photos, weight_hash: Callable
):
    denoiser, text = session
    modules = denoiser.unet, text.clip.cond_stage_model
    before = [weight_hash(module) for module in modules]
    train_config = TrainConfig(steps=2, batch_size=2, learning_rate=1e-2)
    method = Detex(subject, None, DetexConfig(), train_config, denoiser, text)
    run_steps(method, denoiser, train_config)
    assert [weight_hash(module) for module in modules] == before


def test_private_text_tower_is_the_one_that_is_encoded_with(session: tuple, clip: comfy.sd.CLIP):
    _, text = session
    assert text.clip.cond_stage_model is text.clip.patcher.model
    assert text.clip.cond_stage_model is not clip.cond_stage_model


def test_latents_are_scaled_for_the_unet_once(subject: Photos, model: ModelPatcher):
    scaled = subject.for_training(model.model.process_latent_in)
    torch.testing.assert_close(scaled.latents, 0.18215 * subject.latents)
    torch.testing.assert_close(scaled.blanked, 0.18215 * subject.blanked)


def test_everything_may_come_from_inference_mode(photos: list[Tensor], masks: list[Tensor]):
    with torch.inference_mode():  # as the executor runs loaders and nodes
        model, clip, vae = tiny.tiny_model(), tiny.tiny_clip(), tiny.tiny_vae()
        pictures = [photo.clone() for photo in photos]
        see, encode = feature_encoder(tiny.tiny_clip_vision()), latent_encoder(vae)
        made = make_photos(pictures, masks, see, encode, "ball", resolution=32)
        assert made.latents.is_inference() and made.features.is_inference()
        settings = DetexConfig(), TrainConfig(steps=2, batch_size=2, learning_rate=1e-2)
        learned, _ = train_concept(model, clip, made, made.latents[:, 0], *settings)
    assert all(delta.any() for delta in learned.deltas.values())


def test_image_encoder_of_another_kind_is_refused():
    siglip = tiny.tiny_clip_vision(model_type="siglip_vision_model")
    with pytest.raises(ValueError, match="CLIP_VISION wired here.*Wire CLIP ViT-L/14"):
        feature_encoder(siglip)


def test_image_features_that_are_no_numbers_are_refused():
    broken = tiny.tiny_clip_vision()
    with torch.no_grad():
        broken.model.visual_projection.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="answered with NaN.*Load its file again"):
        feature_encoder(broken)(torch.rand(1, 32, 32, 3))


def test_encoding_outside_of_inference_mode_builds_no_graph(vae: comfy.sd.VAE):
    with torch.enable_grad():
        latents = latent_encoder(vae)(torch.rand(1, 32, 32, 3))
    assert not latents.requires_grad


def test_vae_of_another_family_or_without_numbers_is_refused():
    with pytest.raises(ValueError, match="16 channels.*2.x and XL have 4. Wire the VAE of"):
        check_latents(torch.zeros(1, 16, 4, 4))
    with pytest.raises(ValueError, match="NaN.* Start ComfyUI with --fp32-vae"):
        check_latents(torch.full((1, 4, 4, 4), torch.nan))


def test_force_fp32_trains_in_float32_on_any_card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_management, "FORCE_FP32", True)
    assert training_dtype(torch.device("cuda")) is torch.float32


def test_half_precision_checkpoint_trains_in_float32_on_a_cpu(train: Train, subject: Photos):
    def half_model() -> ModelPatcher:
        made = tiny.tiny_model()
        made.model.diffusion_model.half()
        made.cached_patcher_init = (lambda disable_dynamic=False: half_model(), ())
        return made

    model, clip = half_model(), tiny.tiny_clip()
    settings = DetexConfig(), TrainConfig(steps=2, batch_size=2, learning_rate=1e-2)
    learned, losses = train_concept(model, clip, subject, None, *settings)
    assert {delta.dtype for delta in learned.deltas.values()} == {torch.float32}
    assert {p.dtype for p in model.model.diffusion_model.parameters()} == {torch.float16}
    assert training_dtype(torch.device("cpu")) is torch.float32
    assert torch.tensor(losses.terms["diffusion"]).isfinite().all()


def test_exported_tensors_are_contiguous_and_their_own(concept: Concept):
    tensors = [*concept.deltas.values(), *(t["l"] for t in concept.words.values())]
    assert all(tensor.is_contiguous() for tensor in tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


def test_single_photo_and_larger_batch_train(train: Train, subject: Photos):
    one = dataclasses.replace(
        subject,
        named=(subject.named[0]._replace(photos=(1,)),),
        **{name: tensor[:1] for name, tensor in subject.tensors()},
        prefixes=subject.prefixes[:1],
        hashes=subject.hashes[:1],
    )
    assert train(photos=one)[0].word_names == ("V", "P1", "B1")


def test_subject_of_another_checkpoints_vae_is_refused(train: Train, subject: Photos):
    foreign = dataclasses.replace(subject, resolution=2 * subject.resolution)
    with pytest.raises(ValueError, match="cell of 8 pixels.*cells of 4.*Subject Images"):
        train(photos=foreign)
