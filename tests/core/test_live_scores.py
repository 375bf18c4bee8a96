"""What the live samples are scored by, worked out by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from detex_pack.detex.evaluate.live_scores import (
    ALONE,
    ELSEWHERE,
    LOOK,
    OBEY,
    Judge,
    best_of_all,
    best_so_far,
    best_step,
)
from detex_pack.detex.photos.photos import Looks

PHOTOS = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
CAPTION = torch.tensor([[0, 0, 2.0]])


def judge(*features: Sequence[float], caption: Tensor | None = CAPTION) -> Judge:
    """Sees these features in as many pictures, and no more."""

    def see(pictures: Tensor) -> Tensor:
        assert len(pictures) == len(features)
        return torch.tensor(features)

    return Judge(Looks(PHOTOS, see), caption)


def samples(*captions: str) -> dict[str, Tensor]:
    return {caption: torch.zeros(4, 4, 3) for caption in captions}


SHOWN = samples(ALONE, ELSEWHERE, "[V] + [P1] + [B1]")


def test_look_is_the_mean_cosine_to_the_photos_and_obedience_that_to_the_caption():
    # alone: cosines 0.6 and 0.8; elsewhere: (0, 3, 4) and (0, 0, 2)
    found = judge([3.0, 4, 0], [0.0, 3, 4]).scores(SHOWN)
    assert found == pytest.approx({LOOK: 0.7, OBEY: 0.8})


def test_without_a_text_side_one_picture_is_seen_and_scored():
    assert judge([3.0, 4, 0], caption=None).scores(SHOWN) == pytest.approx({LOOK: 0.7})


def test_samples_of_other_words_are_not_scored():
    assert judge([3.0, 4, 0], [0.0, 3, 4]).scores(samples("[V1]", "[V2]", "[V1] + [V2]")) == {}


@pytest.mark.parametrize("broken", [float("nan"), 0.0])
def test_an_encoder_that_answers_with_nothing_does_not_end_the_training(broken: float):
    assert judge([broken] * 3, [0.0, 3, 4]).scores(SHOWN) == {}
    assert Judge(Looks(PHOTOS, lambda _: None)).scores(SHOWN) == {}


def of_both(*pairs: tuple[float, float]) -> dict[int, dict[str, float]]:
    return {100 * (i + 1): {LOOK: look, OBEY: obey} for i, (look, obey) in enumerate(pairs)}


def test_best_step_is_the_knee_of_both():
    # scaled: (0, 1), (0.8, 0.7), (1, 0)
    scores = of_both((0.5, 0.3), (0.58, 0.27), (0.6, 0.2))
    assert best_step(scores) == 200
    assert best_so_far(scores) == "Best so far: step 200."


def test_best_step_of_one_score_is_its_highest_and_says_what_it_goes_by():
    scores = {100: {LOOK: 0.5}, 200: {LOOK: 0.7}, 300: {LOOK: 0.6}}
    assert best_so_far(scores) == "Best so far: step 200, by its look alone."


def test_a_training_that_is_over_tells_how_to_have_its_best_sample():
    scores = of_both((0.5, 0.3), (0.58, 0.27), (0.6, 0.2))
    told = "Of the live samples, one picture each, step 200 was the best."
    assert best_of_all(scores, 300) == f"{told} To have that step, set steps to 200."
    assert best_of_all(scores, 200) == told
    assert best_of_all(of_both((0.5, 0.3), (0.6, 0.2)), 200) == ""


def test_of_two_samples_none_is_best_by_two_scores():
    assert best_so_far(of_both((0.5, 0.3), (0.6, 0.2))) == ""


def test_a_caption_that_tells_nothing_leaves_the_look():
    found = judge([3.0, 4, 0], [0.0, 0, 0]).scores(SHOWN)
    assert found == pytest.approx({LOOK: 0.7})


def test_one_sample_is_not_the_best_of_anything():
    assert best_so_far({}) == best_so_far(of_both((0.5, 0.3))) == ""
