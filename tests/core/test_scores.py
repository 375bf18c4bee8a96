"""Scores of features, on numbers worked out by hand."""

import math

import pytest
import torch

from detex_pack.detex.evaluate.scores import (
    caption_similarity,
    diversity,
    drift,
    half_maximum_iou,
    leak,
    photo_similarity,
    spread,
)

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
NORTH_EAST = [1.0, 1.0]  # 45 degrees to both: a cosine of 0.7071
HALF = math.sqrt(0.5)


def features(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def close(found: torch.Tensor, *wanted: float) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_half_maximum_iou_by_hand():
    maps = torch.tensor([[[1.0, 0.5], [0.4, 0.0]]])  # hot: the upper row
    region = torch.tensor([[[True, False], [True, False]]])  # 1 common cell of 3
    torch.testing.assert_close(half_maximum_iou(maps, region), torch.tensor([1 / 3]))


def test_map_on_its_region_scores_one():
    region = torch.tensor([[[True, False], [True, False]]])
    assert half_maximum_iou(0.01 * region.float(), region).item() == 1


def test_map_beside_its_region_scores_zero():
    region = torch.tensor([[[True, False], [True, False]]])
    assert half_maximum_iou((~region).float(), region).item() == 0


def test_each_map_is_cut_at_half_of_its_own_maximum():
    maps = torch.tensor([[[1.0, 0.1]], [[0.01, 0.001]]])
    region = torch.tensor([[[True, False]], [[True, False]]])
    assert half_maximum_iou(maps, region).tolist() == [1, 1]


def test_a_picture_is_compared_with_its_own_caption_alone():
    """1 for the first; the second lies at right angles to its own, and on the other's."""
    found = caption_similarity(features(EAST, EAST), features(EAST, NORTH))
    close(found, 1.0, 0.0)


def test_length_of_a_feature_does_not_count():
    close(caption_similarity(features([3.0, 3.0]), features([0.0, 7.0])), HALF)


def test_similarity_to_the_photos_is_the_mean_over_all_of_them():
    """East to east and north: (1 + 0) / 2. North-east to both: 0.7071 twice."""
    found = photo_similarity(features(EAST, NORTH_EAST), features(EAST, NORTH))
    close(found, 0.5, HALF)


def test_unmoved_pictures_do_not_drift_and_opposite_ones_drift_by_two():
    found = drift(features(EAST, EAST, EAST), features(EAST, NORTH, [-1.0, 0.0]))
    close(found, 0.0, 1.0, 2.0)


def test_leak_is_what_comes_on_top_of_the_base_models_chance():
    """The base model's grounds: cosines 0 and 0.7071 to the photo's, in the mean 0.3536. The
    concept's: 1 and 0.7071.
    """
    found = leak(features(EAST, NORTH_EAST), features(EAST), features(NORTH, NORTH_EAST))
    close(found, 1 - HALF / 2, HALF / 2)


def test_base_model_itself_leaks_nothing_on_average():
    grounds = features(EAST, NORTH_EAST, NORTH)
    assert leak(grounds, features(EAST, NORTH), grounds).mean().item() == pytest.approx(0)


def test_diversity_is_the_mean_distance_to_the_others_and_not_to_itself():
    """East to east 0 and to north 1: 0.5 each. North to both: 1. Of the pairs: (0 + 1 + 1) / 3."""
    found = diversity(features(EAST, EAST, NORTH))
    close(found, 0.5, 0.5, 1.0)
    assert found.mean().item() == pytest.approx(2 / 3)


def test_one_picture_has_no_diversity():
    with pytest.raises(ValueError, match="needs two pictures of a prompt or more"):
        diversity(features(EAST))


def test_spread_is_the_distance_to_pictures_of_other_prompts():
    """The two of "a" to north: 1 and 1 - 0.7071; north to both of them: their mean."""
    found = spread(features(EAST, NORTH_EAST, NORTH), ["a", "a", "b"])
    close(found, 1.0, 1 - HALF, 1 - HALF / 2)


def test_one_prompt_has_no_spread():
    with pytest.raises(ValueError, match="There is one prompt"):
        spread(features(EAST, NORTH), ["a", "a"])


def test_features_of_another_width_are_refused_with_both_widths():
    with pytest.raises(ValueError, match="pictures have features of 2 .* captions of 3: two enc"):
        caption_similarity(features(EAST), features([1.0, 0.0, 0.0]))


def test_pictures_without_captions_are_refused_with_both_counts():
    with pytest.raises(ValueError, match="There are 2 pictures but 1 captions"):
        caption_similarity(features(EAST, EAST), features(EAST))


@pytest.mark.parametrize("broken", [[math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0]])
def test_broken_features_are_refused_by_number(broken: list[float]):
    with pytest.raises(ValueError, match="number 2 of the photos are NaN, infinite or all zero"):
        photo_similarity(features(EAST), features(NORTH, broken))


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="There are no photos to score"):
        photo_similarity(features(EAST), torch.zeros(0, 2))
