"""The method itself on the small UNet: batches, blanked samples and terms."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import comfy.sd
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.host.denoiser import training_session
from detex_pack.detex.methods.base import Batch, Prediction
from detex_pack.detex.methods.custom_diffusion import CustomDiffusion, CustomDiffusionConfig
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.prompt.words import Attributes
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import predictor
from detex_pack.detex.training.loop import train as run_steps
from detex_pack.detex.unet.attention import AttentionTap
from detex_pack.detex.unet.condition import Condition, whole_picture

GRID = (4, 4)


@pytest.fixture(scope="module")
def session(model: ModelPatcher, clip: comfy.sd.CLIP) -> Iterator[tuple]:
    with training_session(model, clip, (4, 4, 8, 8)) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(session: tuple, subject: Photos, prior_latents: Tensor):
    """made(config settings..., prior=...) -> Detex, on batches of three photos."""

    def make(prior: Tensor | None = prior_latents, batch_size: int = 3, **settings) -> Detex:
        return Detex(
            settings.pop("subject", subject),
            prior,
            DetexConfig(**settings),
            TrainConfig(batch_size=batch_size),
            *session,
        )

    return make


def test_gamma_zero_blanks_nothing(made):
    method = made(gamma=0)
    assert not any(method.draw().blanked.any() for _ in range(50))


def test_gamma_one_blanks_everything(made):
    method = made(gamma=1)
    assert all(method.draw().blanked.all() for _ in range(50))


def test_gamma_is_the_share_of_blanked_samples(made):
    method = made(gamma=0.3, prior=None)
    blanked = sum(method.draw().blanked.sum().item() for _ in range(500))
    # binomial, n = 1500: mean 450, standard deviation 17.7; four of them
    assert abs(blanked - 450) < 71


def test_samples_are_blanked_one_by_one_not_by_the_batch(made):
    method = made(gamma=0.5, prior=None)
    counts = {int(method.draw().blanked.sum()) for _ in range(50)}
    assert counts == {0, 1, 2, 3}


def test_blanked_samples_use_the_blanked_latents(made, subject: Photos):
    batch = made(gamma=0.5).draw()
    for i, (photo, blanked) in enumerate(zip(batch.photos, batch.blanked, strict=True)):
        source = subject.blanked if blanked else subject.latents
        assert torch.equal(batch.latents[i], source[photo, 0])
    assert 0 < batch.blanked.sum() < 3  # both kinds were seen


def test_blanked_prompt_has_no_background_word_and_the_other_has_all(made):
    batch = made(gamma=0.5).draw()
    for prompt, blanked in zip(batch.prompts, batch.blanked, strict=True):
        words = {word for _, word in prompt.slots}
        assert words == ({"V", "P"} if blanked else {"V", "P", "B"})


def test_gamma_does_not_touch_the_choice_of_photos(made):
    drawn = [[made(gamma=g).draw().photos.tolist() for _ in range(1)] for g in (0, 0.5, 1)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_photos_do_not_repeat_within_a_batch_where_there_are_enough(made):
    method = made()
    assert all(len(set(method.draw().photos.tolist())) == 3 for _ in range(20))


def test_every_photo_is_taken_before_one_comes_again(made):
    """Three photos in batches of eight: each twice, and two of them a third time."""
    method = made(prior=None, batch_size=8)
    for _ in range(20):
        counts = torch.bincount(method.draw().photos.cpu(), minlength=3)
        assert sorted(counts.tolist()) == [2, 3, 3]


def crafted_tap(pose: Tensor, background: Tensor, subject: Tensor | None = None) -> AttentionTap:
    """Maps in which tokens 7, 10 and 4 ([P], [B], [V]) look like this; [h, w] each, one sample."""
    probs = torch.zeros(1, 1, GRID[0] * GRID[1], 77)
    probs[0, 0, :, 7], probs[0, 0, :, 10] = pose.flatten(), background.flatten()
    if subject is not None:
        probs[0, 0, :, 4] = subject.flatten()
    tap = AttentionTap(GRID, rows=1)
    tap.add(probs)
    return tap


def one_sample(method: Detex, *, blanked: bool) -> Batch:
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 2:6] = 1  # the middle 2x2 of the 4x4 grid
    return Batch(
        photos=torch.tensor([0]),
        latents=torch.zeros(1, 4, 8, 8),
        noise=torch.zeros(1, 4, 8, 8),
        timesteps=torch.tensor([0]),
        valid=torch.ones(1, 8, 8),
        size_ids=whole_picture(1, 32, 32),
        prompts=(method.prompt("", {"V", "P"} if blanked else {"V", "P", "B"}),),
        masks=mask,
        blanked=torch.tensor([blanked]),
    )


def attention_term(method: Detex, tap: AttentionTap, *, blanked: bool) -> float:
    return method.attention_term(one_sample(method, blanked=blanked), tap).item()


MIDDLE = torch.zeros(GRID)
MIDDLE[1:3, 1:3] = 0.02


def test_pose_on_the_subject_and_background_off_it_costs_nothing(made):
    tap = crafted_tap(MIDDLE, 0.02 - MIDDLE)
    assert attention_term(made(), tap, blanked=False) == pytest.approx(0, abs=1e-6)


def test_background_word_on_the_subject_costs_one(made):
    tap = crafted_tap(MIDDLE, MIDDLE)  # every cell wrong
    assert attention_term(made(), tap, blanked=False) == pytest.approx(1, abs=1e-3)


def test_blanked_sample_has_no_background_term(made):
    tap = crafted_tap(MIDDLE, MIDDLE)
    assert attention_term(made(), tap, blanked=True) == pytest.approx(0, abs=1e-6)


def test_blanked_sample_keeps_the_pose_term(made):
    tap = crafted_tap(0.02 - MIDDLE, MIDDLE)
    assert attention_term(made(), tap, blanked=True) == pytest.approx(1, abs=1e-3)


def test_pose_term_of_blanked_samples_can_be_switched_off(made):
    tap = crafted_tap(0.02 - MIDDLE, MIDDLE)
    assert attention_term(made(masked_pose=False), tap, blanked=True) == 0


@pytest.mark.parametrize("blanked", [False, True])
def test_subject_word_off_the_subject_costs_one_where_it_is_held_there(made, blanked: bool):
    right = crafted_tap(MIDDLE, 0.02 - MIDDLE, MIDDLE)
    wrong = crafted_tap(MIDDLE, 0.02 - MIDDLE, 0.02 - MIDDLE)
    held = made(subject_attention=True)
    assert attention_term(held, right, blanked=blanked) == pytest.approx(0, abs=1e-6)
    assert attention_term(held, wrong, blanked=blanked) == pytest.approx(1, abs=1e-3)
    assert attention_term(made(), wrong, blanked=blanked) == pytest.approx(0, abs=1e-6)


def test_masked_loss_counts_the_subject_of_a_blanked_sample_alone(made):
    method = made(masked_loss=True, attention_weight=0)
    target = torch.zeros(1, 4, 8, 8)
    output = torch.ones(1, 4, 8, 8)
    output[:, :, 2:6, 2:6] = 3  # the subject's 16 cells: 9; all others: 1
    alone, whole = (
        method.diffusion_terms(one_sample(method, blanked=blanked), Prediction(output, target))
        for blanked in (True, False)
    )
    assert alone["diffusion"].item() == pytest.approx(9)
    assert whole["diffusion"].item() == pytest.approx((16 * 9 + 48) / 64)


def terms_of(method: Detex, session: tuple) -> dict[str, float]:
    denoiser, _ = session
    with method.insert(denoiser):
        terms = method.losses(method.draw(), predictor(denoiser), method.turn(0))
    return {name: term.item() for name, term in terms.items()}


def test_prior_images_get_no_attention_loss(made, session: tuple, prior_latents: Tensor):
    one, other = (terms_of(made(prior=p), session) for p in (prior_latents, 3 * prior_latents))
    assert one["prior"] != pytest.approx(other["prior"], rel=1e-3)
    assert one["attention"] == pytest.approx(other["attention"], rel=1e-5)
    assert one["diffusion"] == pytest.approx(other["diffusion"], rel=1e-5)


def test_prior_images_have_the_plain_caption(made, session: tuple):
    method = made()
    batch = method.draw()
    _, text = session
    plain = text.encode([text.tokenize("photo of a ball")], [{}])
    assert torch.equal(method.condition(batch).context[3:], plain.expand(3).context)


@pytest.mark.parametrize("settings", [{"prior": None}, {"prior_weight": 0}])
def test_without_prior_images_or_weight_there_is_no_prior_term(
    made, session: tuple, settings: dict
):
    assert set(terms_of(made(**settings), session)) == {"diffusion", "attention"}


def test_maps_are_taken_of_the_photos_on_half_the_latent_side(made):
    method = made()
    tap = method.tap(method.draw())  # three photos and three prior images of 8x8
    assert (tap.rows, tap.grid) == (3, (4, 4))


@pytest.mark.parametrize(("weight", "taken"), [(0, 0), (0.01, 1)])
def test_attention_weight_zero_takes_no_maps(made, session: tuple, weight: float, taken: int):
    method, asked = made(attention_weight=weight), []

    def predict(batch: Batch, cond: Condition, taps: Sequence[AttentionTap]) -> Prediction:
        asked.append(len(taps))
        return predictor(session[0])(batch, cond, taps)

    method.losses(method.draw(), predict, method.turn(0))
    assert asked == [taken]


def test_photos_train_at_high_noise_the_subject_alone_less_and_prior_images_at_any(made):
    method = made(layout_noise=True)
    drawn = [method.draw() for _ in range(400)]
    blanked = torch.stack([batch.blanked for batch in drawn])
    times = torch.stack([batch.timesteps for batch in drawn]).float() / 1000
    photos, prior = times[:, :3], times[:, 3:]
    assert photos[~blanked].mean().item() == pytest.approx(4 / 5, abs=0.03)  # of u^(1/4)
    assert photos[blanked].mean().item() == pytest.approx(2 / 3, abs=0.03)  # of sqrt(u)
    assert prior.mean().item() == pytest.approx(1 / 2, abs=0.03)


def test_layout_noise_changes_nothing_else_that_is_drawn(made):
    plain, high = made().draw(), made(layout_noise=True).draw()
    for field in dataclasses.fields(Batch):
        one, other = getattr(plain, field.name), getattr(high, field.name)
        same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        assert same == (field.name != "timesteps"), field.name


def test_what_is_kept_are_the_tokens_of_prompts_without_learned_words(made, session: tuple):
    method, (_, text) = made(keep_weight=1.0), session
    of, kept = method.subject, method.kept()
    tokens = text.tokenize(
        f"photo of a {of.class_word} with left {of.attribute} in pine forest background"
    )
    assert not tokens.slots
    features = text.encode([tokens], [{}]).context[0, 1 : tokens.length() + 1]
    nearest = (features[:, None] - kept).abs().amax(dim=2).amin(dim=1)
    assert nearest.max() < 1e-5
    assert len(kept) == len(kept.unique(dim=0))


def test_deltas_that_are_kept_change_plain_prompts_less(session: tuple, subject: Photos):
    def change(weight: float) -> float:
        train = TrainConfig(steps=30, batch_size=2, learning_rate=1e-3)
        config = DetexConfig(keep_weight=weight)
        method = Detex(subject, None, config, train, *session)
        run_steps(method, session[0], train)
        features = method.neutral_features()
        added = torch.stack([one.square().mean() for one in method.added_to(features)]).mean()
        return added.item()

    assert 0 < change(100.0) < 0.5 * change(0.0)


def test_keep_term_is_nothing_before_the_first_step(made, session: tuple):
    assert terms_of(made(keep_weight=1.0), session)["keep"] == 0
    assert "keep" not in terms_of(made(), session)


def test_rates_of_words_and_mappers_are_multiplied(session: tuple, subject: Photos):
    train = TrainConfig(batch_size=2, learning_rate=1e-4, kv_rate=2, token_rate=3, mapper_rate=5)
    for attributes in (Attributes.MAPPERS, Attributes.VECTORS):
        method = Detex(subject, None, DetexConfig(attributes=attributes), train, *session)
        groups = method.optimisers()["all"]
        assert [g["lr"] for g in groups] == pytest.approx([4e-4, 6e-4, 1e-3])
    assert [len(g["params"]) for g in groups] == [14, 1, 6]  # three photos: three [P], three [B]


def test_without_a_rate_the_deltas_stay_zero_and_the_word_learns_textual_inversion(
    session: tuple, subject: Photos, prior_latents: Tensor
):
    train = TrainConfig(steps=2, batch_size=2, learning_rate=1e-2, kv_rate=0)
    method = CustomDiffusion(subject, prior_latents, CustomDiffusionConfig(), train, *session)
    before = method.words.subject.detach().clone()
    run_steps(method, session[0], train)
    assert all(not delta.any() for delta in method.deltas.export().values())
    assert all(p.grad is None for p in method.deltas.parameters())
    assert not torch.equal(method.words.subject, before)


def test_overlap_scores_pose_and_background_between_zero_and_one(
    made, session: tuple, subject: Photos
):
    scores = made().report(predictor(session[0]))["overlap"]
    assert set(scores) == {"pose", "background"}
    assert all(0 <= score <= 1 for score in scores.values())


def test_overlap_does_not_move_the_training(made, session: tuple):
    plain, looked_at = made(), made()
    looked_at.report(predictor(session[0]))
    assert terms_of(plain, session) == terms_of(looked_at, session)


@pytest.mark.parametrize("attributes", [Attributes.MAPPERS, Attributes.VECTORS])
def test_exported_words_are_those_of_the_final_weights(
    session: tuple, subject: Photos, attributes: Attributes
):
    train = TrainConfig(steps=2, batch_size=2, learning_rate=1e-2)
    method = Detex(subject, None, DetexConfig(attributes=attributes), train, *session)
    run_steps(method, session[0], train)
    exported = method.words.export()
    with torch.no_grad():
        for role, source in method.words.attributes.items():
            live = source(torch.arange(3))
            for i in range(3):
                assert torch.equal(exported[f"{role}{i + 1}"], live[i][None])


def test_word_scale_is_the_token_tables(session: tuple, made):
    _, text = session
    offset = made().words.attributes["P"]
    vectors = offset(torch.arange(3)) - offset.anchor
    (size,) = text.embedding_rms().unique().tolist()
    assert vectors.square().mean().sqrt().item() == pytest.approx(0.25 * size, rel=1e-3)
    assert math.isclose(size, 0.02, rel_tol=0.01)
    assert offset.anchor.shape == (tiny.WIDTH,)


def test_prefix_of_a_scaled_copy_moves_the_words(made, subject: Photos):
    far = dataclasses.replace(subject, prefixes=(("a far away ",),) * 3)
    batch = made(subject=far, gamma=0).draw()
    assert {prompt.position("P") for prompt in batch.prompts} == {10}  # 7 + three tokens
