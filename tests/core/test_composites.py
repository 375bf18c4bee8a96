"""A subject on another ground: whose every pixel is, how it moves, what is made up."""

import pytest
import torch

from detex_pack.detex.photos.composites import (
    can_move,
    crossed,
    cut_out,
    extent,
    filled,
    moved,
    offset,
    on_place,
    sample_move,
)
from detex_pack.detex.photos.framing import Framing

SIDE, FEATHER = 32, 4


def plain(value):
    return torch.full((SIDE, SIDE, 3), value)


def rectangle(top, bottom, left, right):
    mask = torch.zeros(SIDE, SIDE)
    mask[top:bottom, left:right] = 1
    return mask


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_inside_the_mask_is_the_subject_and_beyond_the_feather_the_place_exactly():
    photo, ground = torch.rand(SIDE, SIDE, 3, generator=rng()), torch.rand(SIDE, SIDE, 3)
    made = on_place(cut_out(photo, rectangle(8, 20, 8, 20), FEATHER), ground)
    picture = made.picture.movedim(0, -1)
    assert torch.equal(picture[8:20, 8:20], photo[8:20, 8:20])
    beyond = rectangle(6, 22, 6, 22) == 0  # half a feather is 2 pixels
    assert torch.equal(picture[beyond], ground[beyond])


def test_an_edge_fades_in_fifths_over_half_the_feather():
    cut = cut_out(plain(1.0), rectangle(0, SIDE, 0, 16), FEATHER)
    # 5 pixels around column 16 hold 2 of the subject, around column 17 hold 1: twice 2/5 and 1/5
    expected = torch.tensor([1.0, 1.0, 0.8, 0.4, 0.0])
    torch.testing.assert_close(cut.cover[0, 10, 14:19], expected)


def test_nothing_of_the_photos_background_comes_along():
    mask = rectangle(8, 20, 8, 20)
    photo = plain(0.0)  # a black subject before white
    photo[mask == 0] = 1.0
    made = on_place(cut_out(photo, mask, FEATHER), plain(0.0))
    assert made.picture.max() < 1e-6


def test_a_part_of_one_pixel_stays_whole():
    cut = cut_out(plain(0.7), rectangle(4, 28, 15, 16), FEATHER)
    assert (cut.cover[0, 4:28, 15] == 1).all()


def test_a_moved_subject_is_the_same_pixels_elsewhere():
    photo = torch.rand(SIDE, SIDE, 3, generator=rng())
    cut = cut_out(photo, rectangle(8, 20, 8, 20), FEATHER)
    picture = on_place(moved(cut, Framing(SIDE, 5, -3, "")), plain(0.25)).picture.movedim(0, -1)
    assert torch.equal(picture[5:17, 13:25], photo[8:20, 8:20])
    assert (picture[0:3] == 0.25).all()


def test_where_a_subject_may_go():
    # half as large, rows 8 to 20 of 32 become 4 to 10: the square may begin at -4, and at most at
    # 32 - 10 = 22
    assert offset((8, 20), 16, 32, share=0.0) == -4
    assert offset((8, 20), 16, 32, share=0.999) == 22


@pytest.mark.parametrize("seed", range(20))
def test_a_moved_subject_is_whole_and_at_most_a_fifth_larger(seed):
    cut = cut_out(plain(0.5), rectangle(8, 20, 10, 20), FEATHER)
    framing = sample_move(cut, rng(seed))
    assert 0.6 * SIDE - 1 <= framing.size <= 1.2 * SIDE + 1
    kept = moved(cut, framing).cover.sum()
    whole = cut.cover.sum() * (framing.size / SIDE) ** 2
    assert abs(kept / whole - 1) < 0.1


def test_a_large_subject_is_made_smaller_to_fit():
    cut = cut_out(plain(0.5), rectangle(3, 29, 3, 29), FEATHER)  # 30 pixels, feathered
    for seed in range(10):
        assert sample_move(cut, rng(seed)).size <= SIDE


def test_a_side_that_the_photo_cuts_off_stays_at_the_edge():
    cut = cut_out(plain(0.5), rectangle(16, SIDE, 10, 20), FEATHER)  # cut off below
    for seed in range(10):
        assert extent(moved(cut, sample_move(cut, rng(seed))).cover, 0)[1] == SIDE


def test_between_two_cut_sides_the_subject_keeps_its_size_and_moves_along():
    cut = cut_out(plain(0.5), rectangle(0, SIDE, 10, 20), FEATHER)
    framings = [sample_move(cut, rng(seed)) for seed in range(10)]
    assert {(f.size, f.top) for f in framings} == {(SIDE, 0)}
    assert len({f.left for f in framings}) > 3


def test_a_subject_at_all_four_sides_cannot_move():
    mask = torch.maximum(rectangle(0, SIDE, 10, 20), rectangle(10, 20, 0, SIDE))
    assert not can_move(cut_out(plain(0.5), mask, FEATHER))
    assert can_move(cut_out(plain(0.5), rectangle(0, SIDE, 10, 20), FEATHER))


def test_a_hole_is_filled_with_what_surrounds_it():
    picture, hole = torch.full((3, 8, 8), 0.3), torch.zeros(1, 8, 8)
    picture[:, 2:6, 2:6], hole[:, 2:6, 2:6] = 1.0, 1.0
    torch.testing.assert_close(filled(picture, hole), torch.full((3, 8, 8), 0.3))


def test_a_filled_hole_lies_between_its_two_sides():
    picture, hole = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    picture[:, :, 8:], hole[:, 4:12, 4:12] = 1.0, 1.0
    made = filled(picture, hole)
    assert torch.equal(made[hole == 0], picture[hole == 0])
    assert made[0, 8, 5] < 0.5 < made[0, 8, 10]


def test_a_crossed_subject_teaches_neither_the_filled_hole_nor_the_other_subject():
    cut = cut_out(plain(0.9), rectangle(8, 20, 2, 12), FEATHER)
    other_mask, photo = rectangle(8, 20, 8, 20), plain(0.1)
    photo[other_mask > 0] = 0.5
    made = crossed(cut, photo, cut_out(photo, other_mask, FEATHER).cover)
    assert (made.picture[:, 8:20, 2:12] == 0.9).all()  # before the hole
    torch.testing.assert_close(made.picture[:, 8:20, 15:20], torch.full((3, 12, 5), 0.1))
    assert made.valid[0, 10, 10] == 1  # the new subject covers the hole here
    assert made.valid[0, 10, 17] == 0
    assert made.valid[0, 10, 21] == 0  # the feather of the other subject
    assert made.valid[0, 10, 22] == 1
