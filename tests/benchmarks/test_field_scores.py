"""Rank correlations of scores with the truth, and scores of real photos, on numbers in sight."""

import numpy as np
import pytest
import torch

from detex_pack.benchmarks import reader
from detex_pack.benchmarks.field_scores import PAIRS, caption_reader, correlation, ranks, spearman
from detex_pack.benchmarks.prompts import Request
from detex_pack.benchmarks.real_photos import gaps, otsu, rough_mask
from detex_pack.detex.evaluate.measures import MEASURES
from detex_pack.detex.toys.scene import BACKGROUNDS
from detex_pack.detex.toys.subjects import demo_subject


def test_ties_have_their_mean_rank():
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [1.5, 0.0, 1.5]


def test_rank_correlation_sees_the_order_alone():
    """1, 2, 4 and 10, 100, 11: the ranks 0, 1, 2 and 0, 2, 1 have the correlation 1/2."""
    assert spearman(np.array([1.0, 2.0, 4.0]), np.array([10.0, 100.0, 11.0])) == pytest.approx(0.5)
    assert np.isnan(spearman(np.array([1.0, 1.0]), np.array([1.0, 2.0])))


def test_what_is_easy_in_one_subject_alone_counts_for_nothing():
    """Within each subject the order is turned around, though the second has more of both."""
    up, down = np.arange(4.0), np.arange(4.0)[::-1]
    found = correlation([(up, down), (up + 10, down + 10)])
    assert found.rho == pytest.approx(-1)
    assert (found.groups, found.n) == (2, 8)


def test_every_score_is_one_of_the_packs():
    assert all(any(score.endswith(name) for name in MEASURES) for score, _, _ in PAIRS)


def test_the_reader_finds_where_the_toy_is():
    toy = demo_subject(0, 2, seed=0)
    found = reader.subject_masks(toy.images)
    both = torch.minimum(found, toy.masks).sum((1, 2)) / torch.maximum(found, toy.masks).sum((1, 2))
    assert both.min() > 0.8


def test_a_caption_is_what_renders_of_it_show():
    """With the mean colour of the picture's frame as feature, snow is whiter than grass."""

    def see(pictures):
        return torch.stack([picture[:4].mean((0, 1)) for picture in pictures])

    grounds = [BACKGROUNDS.index(name) for name in ("snow", "grass")]
    asked = [
        Request("background", f"photo of a [V] ball in {BACKGROUNDS[b]} background", background=b)
        for b in grounds
    ]
    read = caption_reader(asked, "ball", see).read
    snow, grass = read([request.text.replace("[V] ", "") for request in asked])
    assert snow[2] > grass[2]
    assert torch.equal(read([asked[0].text.replace("[V] ", "")])[0], snow)


def test_otsu_parts_two_groups():
    assert otsu(np.array([0.1, 0.9, 0.2, 0.8])) == pytest.approx(0.5)


def test_a_rough_mask_is_where_a_photo_is_unlike_its_frame():
    """Cells of a network that gives the mean colour of each of 14 x 14 places."""
    square = torch.zeros(448, 448, 3)
    square[128:320, 128:320] = 1

    def look(pictures):
        return torch.nn.functional.avg_pool2d(pictures, 32) + 3

    mask = rough_mask(look, square)
    assert mask[200, 200] == 1 and mask[40, 40] == 0
    assert mask.mean().item() == pytest.approx((192 / 448) ** 2, abs=0.03)


def test_gaps_between_own_and_other_photos():
    """Two subjects a, b of one class, c of another; two photos each. Own pairs 0.9, of one class
    0.5, of two 0.1: 0.9 - (2 * 0.5 + 2 * 0.1) / 4 = 0.6 for a, 0.9 - 0.1 = 0.8 for c.
    """
    subjects, classes = list("aabbcc"), list("xxxxyy")
    kinds = dict(zip(subjects, classes, strict=True))

    def likeness(one: str, other: str) -> float:
        return 0.9 if one == other else 0.5 if kinds[one] == kinds[other] else 0.1

    alike = torch.tensor([[likeness(one, other) for other in subjects] for one in subjects])
    found = gaps(alike.fill_diagonal_(1.0), subjects, classes)
    assert found["subject"] == pytest.approx({"a": 0.6, "b": 0.6, "c": 0.8})
    assert found["class"] == pytest.approx({"a": 0.4, "b": 0.4})
    assert found["nearest"] == {"a": 1, "b": 1, "c": 1}
