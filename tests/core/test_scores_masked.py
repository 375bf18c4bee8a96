"""The subject alone and its background alone, pixel by pixel."""

import pytest
import torch

from detex_pack.detex.evaluate.masked import check_mask_count, ground_alone, subject_alone

RED = torch.tensor([1.0, 0.0, 0.0]).expand(2, 2, 3)
LEFT = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # the subject is the left column
ONE = ["photo 1"]


def test_background_becomes_white_and_the_subject_stays():
    (alone,) = subject_alone([RED], [LEFT], ONE)
    assert alone[:, 0].tolist() == [[1, 0, 0]] * 2
    assert alone[:, 1].tolist() == [[1, 1, 1]] * 2


def test_subject_becomes_white_and_the_background_stays():
    (ground,) = ground_alone([RED], [LEFT], ONE)
    assert ground[:, 0].tolist() == [[1, 1, 1]] * 2
    assert ground[:, 1].tolist() == [[1, 0, 0]] * 2


def test_a_soft_edge_is_mixed():
    """Half of red, half of white."""
    (alone,) = subject_alone([RED], [torch.full((2, 2), 0.5)], ONE)
    assert alone[0, 0].tolist() == [1, 0.5, 0.5]


def test_masks_are_scaled_to_their_pictures():
    large = RED.repeat_interleave(2, 0).repeat_interleave(2, 1)
    (alone,) = subject_alone([large], [LEFT], ONE)
    assert alone.shape == (4, 4, 3)
    assert alone[0, 0].tolist() == [1, 0, 0] and alone[0, 3].tolist() == [1, 1, 1]


def test_mask_without_a_subject_is_refused_by_name():
    with pytest.raises(ValueError, match="leaves nothing of the subject of photo 2"):
        subject_alone([RED, RED], [LEFT, torch.zeros(2, 2)], ["photo 1", "photo 2"])


def test_mask_without_a_background_is_refused_by_name():
    with pytest.raises(ValueError, match="leaves nothing of the background of picture 1"):
        ground_alone([RED], [torch.ones(2, 2)], ["picture 1"])


def test_mask_of_nan_leaves_nothing():
    with pytest.raises(ValueError, match="leaves nothing of the subject of photo 1"):
        subject_alone([RED], [torch.full((2, 2), torch.nan)], ONE)


def test_mask_of_another_shape_is_refused_by_name():
    with pytest.raises(ValueError, match="mask of picture 1 has 2 x 1 pixels"):
        subject_alone([RED], [torch.ones(1, 2)], ["picture 1"])


def test_there_must_be_a_mask_for_each():
    check_mask_count([RED], [LEFT], "photos")
    with pytest.raises(ValueError, match="There are 2 photos but 1 masks"):
        check_mask_count([RED, RED], [LEFT], "photos")
