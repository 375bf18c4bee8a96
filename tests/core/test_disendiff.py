"""DisenDiff on a fake denoiser and text encoder: captions, maps, terms, words."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fakes import TOKENS, FakeDenoiser, FakeText, fake_concepts, fake_photos, rng
from torch import Tensor

from detex_pack.detex.methods.base import Batch
from detex_pack.detex.methods.custom_diffusion import CustomDiffusion, CustomDiffusionConfig
from detex_pack.detex.methods.disendiff import (
    RELEASED,
    DisenDiff,
    DisenDiffConfig,
    concept_cells,
)
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.prompt.words import RARE_ROWS
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run, train
from detex_pack.detex.unet.attention import AttentionTap

GRID = (4, 4)
TRAIN = TrainConfig(steps=4, batch_size=3, learning_rate=1e-3)


def made(
    photos: Photos | None = None, prior: Tensor | None = None, train=TRAIN, **settings
) -> DisenDiff:
    photos = photos or fake_concepts()
    config = DisenDiffConfig(**settings)
    return DisenDiff(photos, prior, config, train, FakeDenoiser(), FakeText())


def terms_of(method: DisenDiff) -> dict[str, Tensor]:
    denoiser = FakeDenoiser()
    run = Run(method, denoiser, method.train_config)
    with method.insert(denoiser):
        return method.losses(method.draw(), run.predict, ("all",))


def words_of(batch: Batch) -> list[tuple[str, ...]]:
    return [tuple(word for _, word in prompt.slots) for prompt in batch.prompts]


def test_weights_are_a_quarter_of_the_releases_since_its_diffusion_loss_is_four_means():
    config = DisenDiffConfig()
    assert 4 * config.bind_weight == 4 * config.separate_weight == 0.01


def test_steps_and_rate_are_the_releases():
    assert RELEASED.steps == 250
    assert RELEASED.effective_rate == pytest.approx(8e-5)


def test_two_concepts_stand_in_either_order_as_often():
    method, seen = made(), []
    for _ in range(100):
        seen += words_of(method.draw())
    first = sum(words == ("V", "V2") for words in seen)
    assert set(seen) == {("V", "V2"), ("V2", "V")}
    assert 110 < first < 190  # of 300: 150, standard deviation 8.7


def test_three_concepts_stand_in_all_six_orders():
    method, seen = made(fake_concepts("ball, cup, hat")), set()
    for _ in range(60):
        seen |= set(words_of(method.draw()))
    assert len(seen) == 6


def test_order_can_be_left_as_it_is():
    method = made(random_order=False)
    assert {words for _ in range(20) for words in words_of(method.draw())} == {("V", "V2")}


@pytest.mark.parametrize(
    ("class_words", "pieces"),
    [
        ("cup, red ball", {"V": 1, "V2": 2}),
        ("teddy bear, polar bear", {"V": 2, "V2": 2}),
        ("cat, cat", {"V": 1, "V2": 1}),
        ("a1 b2 c3 d4 e5", {"V": 5}),
    ],
)
def test_class_words_are_counted_in_pieces(class_words: str, pieces: dict):
    assert made(fake_concepts(class_words)).pieces == pieces


def tap_of_tokens(batch: Batch) -> AttentionTap:
    """Token t of each sample has t everywhere on its map."""
    probs = torch.arange(float(TOKENS)).expand(batch.count, 1, 16, TOKENS)
    tap = AttentionTap(GRID, rows=batch.count)
    tap.add(probs)
    return tap


@pytest.mark.parametrize("class_words", ["teddy bear, polar bear", "cat, cat", "a1 b2 c3 d4 e5"])
def test_maps_are_of_the_modifier_and_of_the_class_word_behind_it(class_words: str):
    """photo 1, of 2, a 3, [V] 4, teddy 5, bear 6, and 7, [V2] 8, polar 9, bear 10; or swapped."""
    method = made(fake_concepts(class_words))
    for _ in range(5):
        batch = method.draw()
        tap = tap_of_tokens(batch)
        modifiers, classes = method.modifier_maps(batch, tap), method.class_maps(batch, tap)
        for row, words in enumerate(words_of(batch)):
            at = 4
            for word in words:
                concept, pieces = list(method.concepts).index(word), method.pieces[word]
                assert modifiers[row, concept].eq(at).all()
                behind = torch.arange(at + 1.0, at + 1 + pieces).mean()
                assert classes[row, concept].allclose(behind)
                at += pieces + 2  # and the "and"


def test_same_class_word_twice_has_two_maps():
    batch = made(fake_concepts("cat, cat")).draw()
    maps = made(fake_concepts("cat, cat")).class_maps(batch, tap_of_tokens(batch))
    assert (maps[:, 0] != maps[:, 1]).all()


@pytest.mark.parametrize(
    ("cells", "grid"), [(64, 16), (96, 24), (128, 32), (32, 8), (16, 8), (8, 4)]
)
def test_maps_are_on_a_quarter_of_the_latents_where_that_has_eight_cells(cells: int, grid: int):
    method = made()
    batch = replace(method.draw(), latents=torch.zeros(3, 4, cells, cells))
    tap = method.tap(batch)
    assert tap.grid == (grid, grid)


def test_one_concept_is_bound_and_has_nothing_to_be_separated_from():
    method = made(fake_concepts("cup"), prior=torch.randn(2, 4, 8, 8, generator=rng(1)))
    assert terms_of(method).keys() == {"diffusion", "prior", "bind"}
    assert "separate" not in method.weights


@pytest.mark.parametrize("class_words", ["ball, cup", "ball, cup, hat", "a1, b1, c1, d1"])
@pytest.mark.parametrize("masks", [True, False])
def test_two_concepts_and_more_are_bound_and_separated(class_words: str, masks: bool):
    method = made(fake_concepts(class_words, masks=masks, scaled_copies=6))
    terms = terms_of(method)
    assert terms.keys() == {"diffusion", "bind", "separate"}
    count = len(method.concepts)
    assert 0 < terms["bind"] < count and 0 < terms["separate"] < 1
    sum(method.weights[name] * term for name, term in terms.items()).backward()
    words = [method.words.subject, *method.words.others.values()]
    assert len(words) == count
    assert all(word.grad is not None and word.grad.any() for word in words)


def crafted(method: DisenDiff, of: Callable[[str, int], Tensor]) -> tuple[Batch, AttentionTap]:
    """One sample in the first order, whose token maps are of(word, piece); 0: the modifier."""
    batch = next(
        part
        for _ in range(50)
        for _, part in method.draw().split(3)
        if words_of(part)[0] == tuple(method.concepts)
    )
    probs = torch.zeros(1, 1, 16, TOKENS)
    for word, pieces in method.pieces.items():
        start = batch.prompts[0].position(word)
        assert start is not None
        for piece in range(pieces + 1):
            probs[0, 0, :, start + piece] = of(word, piece).flatten()
    tap = AttentionTap(GRID, rows=1)
    tap.add(probs)
    return batch, tap


def halves(word: str, _piece: int = 0) -> Tensor:
    """[V] on the left two columns of four, [V2] on the right, as the things of the photo stand."""
    plane = torch.zeros(4, 4)
    plane[:, :2] = float(word == "V")
    plane[:, 2:] = float(word == "V2")
    return 0.03 * plane


def test_terms_of_crafted_maps_are_those_worked_out_on_paper():
    """Columns 1 1 0 0 smoothed: 1, 1 - t, t, 0 with t = .2119; squared for the classes."""
    method = made(fake_concepts("ball, cup", masks=False))
    batch, tap = crafted(method, halves)
    terms = method.calibration(batch, tap)
    t = 1 / (torch.e + 2)
    word = torch.tensor([1.0, 1 - t, t, 0])
    kind = word.square()
    both = 4 * (word * kind).sum()
    bind = 1 - (both + 1) / (4 * (word + kind).sum() - both + 1)
    both = 4 * (kind * kind.flip(0)).sum()
    separate = (both + 1) / (4 * 2 * kind.sum() - both + 1)
    torch.testing.assert_close(terms["bind"], 2 * bind, atol=1e-5, rtol=0)
    torch.testing.assert_close(terms["separate"], separate, atol=1e-5, rtol=0)


def test_without_suppression_the_class_maps_are_as_they_are():
    method = made(fake_concepts("ball, cup", masks=False), suppress=False)
    terms = method.calibration(*crafted(method, halves))
    assert terms["separate"].item() == pytest.approx(1 / 17, abs=1e-5)  # disjoint: 1 / (16 + 1)


def test_masks_take_the_place_of_the_class_maps():
    """With the words on the wrong sides the masks know better than the class maps."""

    def wrong(word: str, piece: int) -> Tensor:
        return halves("V2" if word == "V" else "V", piece)

    photos = fake_concepts("ball, cup")
    found = {}
    for use in (True, False):
        method = made(photos, use_masks=use)
        found[use] = method.calibration(*crafted(method, wrong))
    assert found[True]["bind"] > found[False]["bind"] + 1
    assert found[True]["separate"] > found[False]["separate"] + 0.3


def test_masks_that_are_not_used_change_no_term():
    unused, absent = made(use_masks=False), made()
    batch, tap = crafted(unused, halves)
    assert batch.masks is not None
    terms = absent.calibration(replace(batch, masks=None), tap)
    for name, term in unused.calibration(batch, tap).items():
        assert torch.equal(term, terms[name])


def test_padding_of_a_shrunken_copy_counts_in_no_term():
    method = made(fake_concepts("ball, cup", masks=False))
    batch, tap = crafted(method, halves)
    batch.valid[:, 4:] = 0  # the lower half
    cut = method.calibration(batch, tap)
    t = 1 / (torch.e + 2)
    kind = torch.tensor([1.0, 1 - t, t, 0]).square()
    both = 2 * (kind * kind.flip(0)).sum()  # two of four rows
    separate = (both + 1) / (2 * 2 * kind.sum() - both + 1)
    torch.testing.assert_close(cut["separate"], separate, atol=1e-5, rtol=0)


def test_concept_cells_are_those_of_each_mask():
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 0, :4], masks[0, 1, :, 6:] = 1, 1
    cells = concept_cells(masks, GRID)
    assert cells.shape == (1, 2, 4, 4)
    assert cells[0, 0, :2].all() and cells[0, 0].sum() == 8 and cells[0, 1].sum() == 4
    assert torch.equal(concept_cells(masks[:, 0], GRID), cells[:, :1])


def test_without_calibration_one_concept_is_custom_diffusion_to_the_bit():
    found = []
    for kind, config in (
        (DisenDiff, DisenDiffConfig(bind_weight=0)),
        (CustomDiffusion, CustomDiffusionConfig()),
    ):
        denoiser = FakeDenoiser()
        method = kind(fake_photos(), None, config, TRAIN, denoiser, FakeText())
        train(method, denoiser, TRAIN)
        found.append([method.words.subject, *method.deltas.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_words_start_at_the_three_rare_tokens_in_turn():
    method, text = made(fake_concepts("a1, b1, c1, d1")), FakeText()
    rows = [text.embedding_row(RARE_ROWS[role]) for role in "VPBV"]
    exported = method.export().words
    assert list(exported) == ["V", "V2", "V3", "V4"]
    for row, vector in zip(rows, exported.values(), strict=True):
        assert torch.equal(vector, row[None])


def test_every_word_and_the_deltas_learn():
    method, denoiser = made(), FakeDenoiser()
    before = method.export().words
    train(method, denoiser, TRAIN)
    after = method.export()
    assert not any(torch.equal(before[word], after.words[word]) for word in ("V", "V2"))
    assert any(delta.any() for delta in after.deltas.values() if isinstance(delta, Tensor))


def test_concepts_are_named_without_photos_of_their_own():
    named = made(fake_concepts("old dog, cup")).named()
    assert [(one.word, one.class_word, one.photos) for one in named] == [
        ("V", "old dog", ()),
        ("V2", "cup", ()),
    ]


def test_samples_are_each_concept_alone_and_all_together():
    captions = {
        "cup": ["", "[V]"],
        "ball, cup": ["", "[V]", "[V2]", "[V] + [V2]"],
        "ball, cup, hat": ["", "[V]", "[V2]", "[V3]", "[V] + [V2] + [V3]"],
    }
    for class_words, expected in captions.items():
        assert list(made(fake_concepts(class_words)).samples()) == expected


def test_report_tells_of_each_word_how_well_it_lies_on_its_mask():
    denoiser, method = FakeDenoiser(), made()
    with method.insert(denoiser):
        scores = method.report(Run(method, denoiser, TRAIN).predict)
    assert scores.keys() == {"overlap"} and scores["overlap"].keys() == {"[V]", "[V2]"}
    assert all(0 <= score <= 1 for score in scores["overlap"].values())
    assert made(fake_concepts(masks=False)).report(None) == {}  # type: ignore[arg-type]


def test_prior_caption_names_the_classes_without_the_words():
    method = made(fake_concepts("old dog, cup"))
    prompt = method.prompt("", ())
    assert not prompt.slots
    assert prompt == FakeText().tokenize("photo of an old dog and a cup")


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="bind_weight must not be negative"):
        DisenDiffConfig(bind_weight=-1)


@pytest.mark.parametrize("masks", [True, False])
def test_calibration_is_learned_where_it_weighs_enough(masks: bool):
    rates = replace(TRAIN, steps=80, learning_rate=3e-3)
    photos = fake_concepts("ball, cup", masks=masks)
    method, denoiser = made(photos, train=rates, bind_weight=1, separate_weight=1), FakeDenoiser()
    terms = train(method, denoiser, rates).terms
    for name in ("bind", "separate"):
        early, late = torch.tensor(terms[name][:5]), torch.tensor(terms[name][-20:])
        assert late.mean() < early.min(), name
