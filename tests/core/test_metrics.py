"""Scores on given tensors."""

import torch

from detex_pack.detex.evaluate.scores import half_maximum_iou


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
