"""The value that evaluations travel in: averages over its units, one encoder a score, JSON."""

import json
import math

import pytest

from detex_pack.detex.evaluate.evaluation import Evaluation, Score, joined

CLIP_I = Score("CLIP-I", "CLIP ViT-L/14 0a1b2c3d")
OF_ANOTHER = Score("CLIP-I", "CLIP ViT-H/14 99998888")


def evaluation(name: str, subject: str = "boot", score: Score = CLIP_I) -> Evaluation:
    """Two pictures of one prompt, 0.2 and 0.4, and one of another, 0.9."""
    prompts = ("beach", "beach", "snow")
    return Evaluation(name, (subject,) * 3, prompts, {score: (0.2, 0.4, 0.9)})


def test_prompts_are_the_units_of_one_subject():
    one = evaluation("A")
    assert one.unit == "prompts"
    assert one.units(CLIP_I) == pytest.approx({("boot", "beach"): 0.3, ("boot", "snow"): 0.9})
    assert one.estimate(CLIP_I) == pytest.approx((0.6, 0.3, 0.9, 2))


def test_subjects_are_the_units_of_several():
    two = joined("A", [evaluation("a"), evaluation("b", "dog")])
    assert two.unit == "subjects"
    assert two.units(CLIP_I) == pytest.approx({("boot", ""): 0.6, ("dog", ""): 0.6})


def test_pictures_that_lack_a_score_do_not_count():
    lone = Evaluation("A", ("boot",) * 3, ("a", "a", "b"), {CLIP_I: (0.5, 0.7, math.nan)})
    assert lone.units(CLIP_I) == pytest.approx({("boot", "a"): 0.6})


def test_scores_of_two_encoders_are_never_averaged():
    with pytest.raises(ValueError, match=r"CLIP-I of 'a' was made by .*0a1b2c3d, that of 'b' by"):
        joined("both", [evaluation("a"), evaluation("b", score=OF_ANOTHER)])


def test_a_score_that_only_one_has_is_named():
    extra = Evaluation("b", ("boot",), ("a",), {CLIP_I: (0.5,), Score("CLIP-T", "x"): (0.3,)})
    with pytest.raises(ValueError, match="do not have the same scores: CLIP-T of one only"):
        joined("both", [evaluation("a"), extra])


def test_json_keeps_everything():
    before = evaluation("犬")
    assert Evaluation.from_json(before.to_json()) == before


def test_json_writes_a_missing_score_as_null():
    lone = Evaluation("A", ("boot",), ("a",), {CLIP_I: (math.nan,)})
    assert json.loads(lone.to_json())["scores"][0]["values"] == [None]
    assert math.isnan(Evaluation.from_json(lone.to_json()).scores[CLIP_I][0])


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "detex-evaluation-9"}'])
def test_other_texts_are_refused(text: str):
    with pytest.raises(ValueError, match="of Evaluate Concept"):
        Evaluation.from_json(text)


def test_score_of_another_number_of_pictures_is_refused():
    with pytest.raises(ValueError, match="has 2 subjects, 2 prompts and scores of other numbers"):
        Evaluation("A", ("boot",) * 2, ("a",) * 2, {CLIP_I: (0.5,)})
