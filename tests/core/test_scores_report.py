"""An evaluation in words, its pictures in order, and what is sure of several."""

import json
import math

import pytest

from detex_pack.detex.evaluate.evaluation import Evaluation, Score
from detex_pack.detex.evaluate.measures import agreement, headline, likeness, measure_name
from detex_pack.detex.evaluate.report import (
    BOTH,
    LIKE_FIRST,
    TEXT_FIRST,
    picture_labels,
    ranking,
    table_json,
    table_text,
)
from detex_pack.detex.evaluate.verdict import comparison_text, differences, sentence

EYE = "CLIP ViT-L/14 0a1b2c3d"
LIKE, TEXT, MASKED = Score("CLIP-I", EYE), Score("CLIP-T", EYE), Score("CLIP-I fg_ref", EYE)
DRIFT, SPREAD = Score("CLIP drift", EYE), Score("CLIP diversity", EYE)
NAN = math.nan


def evaluation(scores: dict[Score, list[float]], name: str = "A") -> Evaluation:
    """One picture a prompt, of one boot."""
    count = len(next(iter(scores.values())))
    prompts = tuple(f"prompt {i + 1}" for i in range(count))
    rows = {score: tuple(values) for score, values in scores.items()}
    return Evaluation(name, ("boot",) * count, prompts, rows)


def test_every_score_is_known_by_the_end_of_its_name():
    names = ["CLIP-T", "CLIP-I", "DINO-I fg_ref", "DINO-I fg_both", "CLIP drift", "DINO leak"]
    found = [measure_name(Score(name, EYE)) for name in names]
    assert found == ["T", "I", "I fg_ref", "I fg_both", "drift", "leak"]


def test_likeness_is_that_with_masks_where_there_are_masks():
    assert likeness(evaluation({LIKE: [1.0], SPREAD: [0.1]})) == LIKE
    assert likeness(evaluation({LIKE: [1.0], MASKED: [1.0]})) == MASKED
    assert agreement(evaluation({LIKE: [1.0]})) is None
    assert agreement(evaluation({TEXT: [1.0], LIKE: [1.0]})) == TEXT


def test_text_tells_the_mean_the_interval_the_direction_and_the_encoder():
    told = table_text(evaluation({LIKE: [0.2, 0.6], DRIFT: [NAN, 0.25]}), ["A note."])
    assert told.split("\n") == [
        "A: 2 pictures of 2 prompts",
        "",
        EYE,
        "CLIP-I 0.400, 0.200 to 0.600 over 2 prompts (like the photos; more is better)",
        "CLIP drift 0.250 of one prompt (the class without [V] has moved; less is better)",
        "",
        "A note.",
    ]


def test_json_has_means_and_reads_back():
    one = evaluation({LIKE: [0.2, 0.6], DRIFT: [NAN, 0.25]})
    text = table_json(one)
    like, drift = json.loads(text)["scores"]
    assert like["mean"] == pytest.approx(0.4) and like["interval"] == pytest.approx([0.2, 0.6])
    assert drift["interval"] is None and drift["n"] == 1
    assert Evaluation.from_json(text).units(LIKE) == one.units(LIKE)


def test_pictures_are_sorted_by_likeness_by_text_or_by_the_mean_of_both_ranks():
    """Ranks from the lowest: likeness 2 1 0, text 0 2 1; sums 2 3 1."""
    one = evaluation({TEXT: [0.1, 0.3, 0.2], LIKE: [0.9, 0.8, 0.1]})
    assert ranking(one, LIKE_FIRST) == [0, 1, 2]
    assert ranking(one, TEXT_FIRST) == [1, 2, 0]
    assert ranking(one, BOTH) == [1, 0, 2]


def test_pictures_of_the_class_are_not_sorted_and_text_without_an_encoder_is_likeness():
    one = evaluation({LIKE: [0.1, NAN, 0.8]})
    assert ranking(one, TEXT_FIRST) == ranking(one, BOTH) == [2, 0]
    assert picture_labels(one, [2, 0]) == [
        "1.  CLIP-I 0.800: prompt 3",
        "2.  CLIP-I 0.100: prompt 1",
    ]


def shifted(name: str, gain: float, count: int = 8, text: float = 0.3) -> Evaluation:
    """Likeness 0.1, 0.2, ... raised by `gain`; text the same in every prompt but for a zigzag."""
    like = [0.1 * i + gain for i in range(count)]
    zigzag = [text + (0.01 if i % 2 else -0.01) * (gain != 0) for i in range(count)]
    return evaluation({TEXT: zigzag, LIKE: like}, name)


def test_a_gain_in_every_prompt_is_sure_and_a_zigzag_is_noise():
    """Eight of eight: p = 2 / 2^8, twice that for the first of two tests by Holm."""
    found = differences([shifted("new", 0.05), shifted("old", 0.0)])
    text, like = found
    assert (like.estimate, like.low, like.high) == pytest.approx((0.05, 0.05, 0.05))
    assert like.p == pytest.approx(2 * 2 / 2**8)
    assert like.is_sure and not text.is_sure
    assert sentence(found, "prompts") == (
        "Sure is that new looks more like the photos than old (CLIP-I by 0.050, 0.050 to 0.050). "
        "The rest may be noise: CLIP-T of new and old."
    )


def test_less_drift_is_better():
    calm = evaluation({LIKE: [0.5] * 8, DRIFT: [0.1 + 0.001 * i for i in range(8)]}, "calm")
    wild = evaluation({LIKE: [0.5] * 8, DRIFT: [0.3 + 0.001 * i for i in range(8)]}, "wild")
    told = sentence(differences([wild, calm]), "prompts")
    assert told.startswith("Sure is that calm changes the class less than wild (CLIP drift by 0.2")


def test_five_prompts_are_too_few_however_clear_they_are():
    found = differences([shifted("new", 0.5, 5), shifted("old", 0.0, 5)])
    assert sentence(found, "prompts") == (
        "Nothing is sure: every difference (CLIP-T, CLIP-I) may be noise. 5 prompts are too few to "
        "be sure of anything: take 6 or more."
    )


def test_one_prompt_is_too_few():
    found = differences([shifted("new", 0.5, 1), shifted("old", 0.0, 1)])
    assert sentence(found, "prompts").endswith("One prompt is too few to be sure of anything: "
                                               "take 6 or more.")  # fmt: skip


def test_every_two_of_three_are_compared_under_one_correction():
    three = [shifted(name, gain) for name, gain in (("a", 0.0), ("b", 0.05), ("c", 0.1))]
    found = differences(three)
    pairs = [(d.first, d.second) for d in found if d.score == LIKE]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    assert max(d.p for d in found if d.score == LIKE) == pytest.approx(6 * 2 / 2**8)
    assert "a - b, CLIP-I: -0.050, -0.050 to -0.050 over 8 prompts (sure, p" in comparison_text(
        three, found
    )


def test_what_is_the_same_twice_is_not_tested_twice():
    """Likeness without masks and diversity would only cost power."""
    scores = {TEXT: [0.1], LIKE: [0.1], MASKED: [0.1], DRIFT: [0.1], SPREAD: [0.1]}
    assert headline(evaluation(scores)) == [TEXT, MASKED, DRIFT]


def test_one_evaluation_two_of_one_name_and_other_prompts_are_refused():
    with pytest.raises(ValueError, match="Only one evaluation is wired"):
        differences([shifted("a", 0.0)])
    with pytest.raises(ValueError, match='Two evaluations have the name "a"'):
        differences([shifted("a", 0.0), shifted("a", 0.1)])
    with pytest.raises(ValueError, match='not evaluated on the same prompts .* "prompt 8" of boot'):
        differences([shifted("a", 0.0), shifted("b", 0.0, 7)])


def test_scores_of_another_encoder_are_refused():
    other = evaluation({Score("CLIP-I", "CLIP ViT-H/14 99998888"): [0.1] * 8}, "b")
    with pytest.raises(ValueError, match="Scores of different encoders cannot be compared"):
        differences([evaluation({LIKE: [0.1] * 8}), other])
