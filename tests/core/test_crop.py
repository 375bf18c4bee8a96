"""The square of a photo: what of the subject it keeps, and when it gets a border."""

import pytest
import torch
from torch import Tensor

from detex_pack.detex.photos.crop import Crop, crop, square_of

GREEN = torch.tensor([0.1, 0.8, 0.2])


def cropped(mask: Tensor, resolution: int = 64) -> Crop:
    """The photo is green on the subject, and red elsewhere."""
    red = torch.tensor([0.9, 0.1, 0.1])
    photo = torch.where(mask[..., None] > 0, GREEN, red)
    return crop(photo, mask, resolution)


def mask_of(height: int, width: int, *boxes: tuple[int, int, int, int]) -> Tensor:
    """White in boxes (top, bottom, left, right)."""
    mask = torch.zeros(height, width)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = 1
    return mask


def shown_subject(made: Crop) -> float:
    """Share of the square in which the photo shows the subject and the mask says so."""
    green = (made.picture - GREEN).abs().amax(-1) < 0.1
    return (green & (made.mask > 0.5)).float().mean().item()


def test_two_parts_far_apart_are_both_kept_by_a_border():
    mask = mask_of(180, 320, (40, 140, 10, 70), (40, 140, 250, 310))
    made = cropped(mask)
    assert made.kept > 0.99
    assert made.mask[:, :32].mean() > 0.05 and made.mask[:, 32:].mean() > 0.05
    assert shown_subject(made) == pytest.approx(2 * 100 * 60 / 300**2, abs=0.02)
    assert made.valid[32].all() and not made.valid[0].any() and not made.valid[-1].any()


def test_long_subject_is_kept_whole():
    made = cropped(mask_of(100, 300, (20, 80, 10, 290)))
    assert made.kept > 0.99 and made.square.side >= 278  # ALL of its 280 columns
    assert made.valid.float().mean() == pytest.approx(100 / made.square.side, abs=0.03)


def test_subject_that_fills_the_shorter_side_keeps_some_background():
    made = cropped(mask_of(64, 1280, (0, 64, 0, 64)))
    assert made.kept > 0.99
    share = (made.mask * made.valid).sum() / made.valid.sum()
    assert 0.5 < share < 0.85


def test_square_moves_to_where_most_of_the_subject_lies():
    # the centre of both lies between them; the small one is given up
    mask = mask_of(100, 300, (0, 100, 200, 270), (45, 50, 0, 20))
    made = cropped(mask)
    assert made.kept > 0.95 and made.square.side == 100
    assert made.valid.all()


def test_border_is_grey_and_belongs_to_no_mask():
    made = cropped(mask_of(100, 300, (20, 80, 10, 290)))
    border = made.valid[..., None] == 0
    inner = border & (torch.arange(64)[:, None, None] < 15)
    assert torch.allclose(made.picture[inner.expand(-1, -1, 3)], torch.tensor(0.5), atol=1e-5)
    assert made.mask[inner[..., 0]].max() < 1e-5


@pytest.mark.parametrize("turned", [False, True])
def test_tall_and_wide_photos_are_treated_alike(turned: bool):
    mask = mask_of(180, 320, (40, 140, 10, 70), (40, 140, 250, 310))
    square = square_of(mask)
    other = square_of(mask.T)
    assert (other.left, other.top, other.side) == (square.top, square.left, square.side)


def test_photo_without_a_mask_is_its_middle_square():
    photo = torch.arange(90.0)[None, :, None].expand(30, -1, 3) / 100
    made = crop(photo, None, 30)
    assert made.picture[0, 0, 0] == pytest.approx(0.30)
    assert made.valid.all() and made.square == (0, 30, 30)


def test_square_photo_stays_as_it_is():
    photo = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    mask = mask_of(32, 32, (0, 32, 0, 20))
    made = crop(photo, mask, 32)
    assert torch.equal(made.picture, photo) and torch.equal(made.mask, mask)
    assert made.kept == 1


def test_nine_tenths_are_kept_and_said_to_be_nine_tenths():
    # a bar of 40 x 320 in a photo of 288 x 320: the square of 288 holds 40 * 288 of 40 * 320
    made = cropped(mask_of(288, 320, (0, 40, 0, 320)))
    assert made.square.side == 288
    assert made.kept == 0.9
