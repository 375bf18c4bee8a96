"""The live picture on the real models: what it shows, what it costs, and what it never changes."""

from collections.abc import Callable
from itertools import combinations

import comfy.utils
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.evaluate.live_scores import Judge
from detex_pack.detex.evaluate.scores import caption_similarity, photo_similarity
from detex_pack.detex.host import progress, sampling
from detex_pack.detex.host.encoders import looks_of
from detex_pack.detex.host.images import latent_decoder
from detex_pack.detex.host.progress import Budget, LiveView
from detex_pack.detex.host.sampling import pixels_of
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.photos.photos import Looks
from detex_pack.detex.training.loop import Losses, Run
from detex_pack.detex.unet.condition import Condition

Train = Callable[..., tuple[Concept, Losses]]


def no_room(_latents: Tensor) -> None:
    return None


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Eager(LiveView):
    """A view with all the time in the world, that keeps its samples' latents."""

    def on_start(self, run: Run) -> None:
        super().on_start(run)
        self.sampling.share = self.drawing.share = 1e9
        self.pictures: list[Image.Image] = []

    def on_step(self, run: Run) -> None:
        self.drawn = -1e9
        super().on_step(run)

    def picture(self, run: Run) -> Image.Image | None:
        image = super().picture(run)
        self.pictures.append(image)
        return image


def test_pictures_change_no_bit_of_what_is_learned(train: Train, vae):
    plain = concept_bytes(train(steps=6)[0])
    view = Eager(6, 1, latent_decoder(vae))
    shown = concept_bytes(train(None, view, steps=6)[0])
    assert len(view.pictures) == 6 and view.samples
    assert shown == plain


def test_pictures_leave_the_shared_random_generator_alone(train: Train):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    train(None, Eager(2, 1, no_room), steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_samples_are_of_the_subject_alone_in_a_new_place_and_with_the_words_of_photo_one(
    train: Train,
):
    view = Eager(3, 1, no_room)
    train(None, view, steps=3)
    assert [caption for caption, _ in view.samples] == [
        "[V]   step 3",
        "[V] in water   step 3",
        "[V] + [P1] + [B1]   step 3",
    ]
    pictures = [picture for _, picture in view.samples]
    assert {tuple(p.shape) for p in pictures} == {(8, 8, 3)}  # one pixel a latent cell
    assert not any(torch.equal(a, b) for a, b in combinations(pictures, 2))


def test_custom_diffusion_shows_the_subject_word_without_words_of_photos(train: Train):
    view = Eager(2, 1, no_room)
    train(CustomDiffusionConfig(), view, steps=2)
    assert [caption for caption, _ in view.samples] == [
        "[V]   step 2",
        "[V] in water   step 2",
    ]


def test_samples_have_the_size_of_a_photo_where_the_vae_has_room(train: Train, vae):
    view = Eager(2, 1, latent_decoder(vae))
    train(None, view, steps=2)
    assert view.samples[0][1].shape == (32, 32, 3)


@pytest.fixture(scope="module")
def looks(clip_vision, photos: list[Tensor], masks: list[Tensor]) -> Looks:
    return looks_of(clip_vision, photos, masks)


def test_scores_of_the_samples_are_those_of_the_pictures_shown(train: Train, vae, looks: Looks):
    caption = torch.ones(1, 24)
    view = Eager(2, 1, latent_decoder(vae), judge=Judge(looks, caption))
    learned, losses = train(None, view, steps=2)
    assert list(losses.scores) == ["1", "2"]
    seen = looks.see(torch.stack([picture for _, picture in view.samples[:2]]))
    assert losses.scores["2"] == pytest.approx(
        {
            "looks like it": photo_similarity(seen[:1], looks.photos).item(),
            "obeys the prompt": caption_similarity(seen[1:], caption).item(),
        }
    )
    assert concept_bytes(learned) == concept_bytes(train(steps=2)[0])


def test_scoring_costs_the_encoding_of_the_samples_alone(train: Train, vae, looks: Looks):
    seen = []

    def see(pictures: Tensor) -> Tensor | None:
        seen.append(len(pictures))
        return looks.see(pictures)

    view = Eager(2, 1, latent_decoder(vae), judge=Judge(looks._replace(see=see)))
    train(None, view, steps=2)
    assert seen == [1, 1]  # without a text side [V] alone, once a sample


def test_coarse_previews_are_not_scored(train: Train, looks: Looks):
    _, losses = train(None, Eager(2, 1, no_room, judge=Judge(looks)), steps=2)
    assert losses.scores == {}


def test_vae_is_not_loaded_where_the_memory_is_short(vae, monkeypatch: pytest.MonkeyPatch):
    latents = torch.zeros(1, 4, 8, 8)
    assert latent_decoder(vae)(latents) is not None
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda device: 2**20)
    assert latent_decoder(vae)(latents) is None


def test_vae_is_left_as_the_other_nodes_need_it(vae):
    """Weights that are moved outside of torch.inference_mode cannot be used in it any more."""
    picture = latent_decoder(vae)(torch.zeros(1, 4, 8, 8))
    assert picture is not None and picture.is_inference()


def test_vae_is_not_loaded_where_comfyui_would_unload_the_model_in_training_for_it(
    vae, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("comfy.model_management.DISABLE_SMART_MEMORY", True)
    assert latent_decoder(vae)(torch.zeros(1, 4, 8, 8)) is None


def test_same_weights_give_the_same_sample_whatever_the_step(train: Train):
    views = [Eager(2, 1, no_room) for _ in range(2)]
    for view in views:
        train(None, view, steps=2)
    for (_, first), (_, second) in zip(*(view.samples for view in views), strict=True):
        assert torch.equal(first, second)


def test_sample_follows_what_is_learned(train: Train):
    seen = []

    class Watched(Eager):
        def take_samples(self, run: Run) -> None:
            super().take_samples(run)
            seen.append(self.samples[0][1])

    train(None, Watched(3, 1, no_room), steps=3, learning_rate=0.5)
    assert not torch.equal(seen[0], seen[-1])


def test_samples_are_kept_with_their_step_by_their_captions(train: Train):
    kept: dict[int, dict[str, Tensor]] = {}
    view = Eager(2, 1, no_room, kept.__setitem__)
    train(None, view, steps=2)
    assert list(kept) == [1, 2]
    shown = [(f"{words}   step 2", picture) for words, picture in kept[2].items()]
    assert [words for words, _ in shown] == [words for words, _ in view.samples]
    assert all(a is b for (_, a), (_, b) in zip(shown, view.samples, strict=True))


def test_sampler_recovers_a_known_picture_from_noise(model: ModelPatcher):
    class Oracle:
        """A denoiser that knows the answer: eps = (x - x0) / sigma at every sigma."""

        device = "cpu"
        sampling = model.get_model_object("model_sampling")
        x0 = torch.linspace(-1, 1, 4 * 8 * 8).view(1, 4, 8, 8)

        def predict(self, scaled: Tensor, timesteps: Tensor, cond: Condition) -> Tensor:
            sigma = self.sampling.sigma(timesteps).view(-1, 1, 1, 1)
            return (scaled * (sigma**2 + 1).sqrt() - self.x0) / sigma

    texts = {"": torch.zeros(1, 77, 4), "[V]": torch.ones(1, 77, 4)}
    conds = {caption: tiny.condition(text) for caption, text in texts.items()}
    found = sampling.sample(Oracle(), conds, (4, 8, 8), seed=0)
    torch.testing.assert_close(found, Oracle.x0, atol=1e-3, rtol=0)


def test_quick_preview_stands_in_for_the_vae(model: ModelPatcher):
    pictures = pixels_of(torch.randn(2, 4, 8, 8), model, no_room)
    assert pictures.shape == (2, 8, 8, 3)
    assert 0 <= pictures.min() and pictures.max() <= 1


def test_preview_of_zero_shows_no_picture(train: Train, monkeypatch: pytest.MonkeyPatch):
    sent = []
    hook = lambda value, total, preview, node_id=None: sent.append(preview)  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    train(None, Eager(3, 0, no_room), steps=3)
    assert sent and set(sent) == {None}  # ComfyUI leaves out updates that follow too soon


def test_picture_travels_with_the_nodes_progress(train: Train, monkeypatch: pytest.MonkeyPatch):
    sent = []
    hook = lambda value, total, preview, node_id=None: sent.append((value, total, preview))  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    train(None, Eager(3, 1, no_room), steps=3)
    value, total, (kind, image, size) = sent[-1]
    assert (value, total, kind, size) == (3, 3, "JPEG", max(image.size))


def test_picture_of_the_last_step_is_drawn_whatever_it_costs(
    train: Train, monkeypatch: pytest.MonkeyPatch
):
    drawn = []

    class Hurried(LiveView):
        def on_start(self, run: Run) -> None:
            super().on_start(run)
            self.drawn = 1e9  # no other picture is due

        def progress(self, run: Run):
            drawn.append(run.step)
            return super().progress(run)

    train(None, Hurried(4, 1, no_room), steps=4)
    assert drawn == [4]


def test_full_card_ends_the_samples_not_the_training(train: Train, monkeypatch: pytest.MonkeyPatch):
    def full(*_args) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(progress, "sample", full)
    view = Eager(4, 1, no_room)
    _, losses = train(None, view, steps=4)
    assert len(losses.terms["diffusion"]) == 4
    assert not view.can_sample and view.pictures[-1] is not None


def test_full_card_while_scoring_ends_the_scores_not_the_samples(train: Train, vae, looks: Looks):
    def full(_pictures: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    kept: dict[int, dict[str, Tensor]] = {}
    judge = Judge(looks._replace(see=full))
    view = Eager(2, 1, latent_decoder(vae), kept.__setitem__, judge)
    _, losses = train(None, view, steps=2)
    assert view.can_sample and [*kept] == [1, 2] and view.samples
    assert view.judge is None and losses.scores == {}


def test_side_work_is_afforded_within_its_share_of_all_other_time():
    clock = Clock()
    budget = Budget(0.05, clock)
    clock.now = 19.0
    assert not budget.affords(1.0)  # a twentieth of 19 s is 0.95 s
    clock.now = 20.0
    assert budget.affords(1.0)
    with budget.spend():
        clock.now += 1.0
    assert budget.last == 1.0
    clock.now = 40.9  # 39.9 s of other work; 1 s of it is spent already
    assert not budget.affords(1.0)
    clock.now = 41.0
    assert budget.affords(1.0)


def test_slow_samples_are_taken_less_often(train: Train, monkeypatch: pytest.MonkeyPatch):
    clock, taken = Clock(), []

    class Slow(LiveView):
        """On a clock of its own: a step takes 1 s, a sample 5 s."""

        def on_start(self, run: Run) -> None:
            super().on_start(run)
            self.sampling, self.drawing = Budget(0.05, clock), Budget(1.0, clock)

        def on_step(self, run: Run) -> None:
            clock.now += 1.0
            super().on_step(run)

        def take_samples(self, run: Run) -> None:
            taken.append(run.step)
            self.sampled_at = run.step
            clock.now += 5.0

    view = Slow(200, 10, no_room)
    train(CustomDiffusionConfig(), view, steps=200, prior=None, batch_size=1)
    assert taken == [80, 200]  # a guess of 4 s; then 10 s for each 200 s of training
    assert view.sampling.spent <= 0.05 * 200
