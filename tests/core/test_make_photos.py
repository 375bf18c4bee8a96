"""Photos and masks: what is refused, what is cropped, what is blanked.

The encoder here is the identity at full size, so that the tests see the very pixels that a VAE
would get.
"""

import pytest
import torch
from torch import Tensor

from detex_pack.detex.photos.checks import check_class_word, check_resolution, check_sizes
from detex_pack.detex.photos.crop import crop, square_of
from detex_pack.detex.photos.framing import Framing, place, sample_framing
from detex_pack.detex.photos.photos import (
    Photos,
    copy_sizes,
    erode,
    latent_grid,
    make_photos,
    photo_hash,
    subject_cells,
)

SIZE = 16


def pixels(batch: Tensor) -> Tensor:
    """[B, S, S, 3] -> "latents" [B, 4, S, S] that hold the pixels themselves."""
    return torch.cat([batch, batch[..., :1]], dim=-1).movedim(-1, 1)


def photo(seed: int = 0, height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def box_mask(height: int = SIZE, width: int = SIZE) -> Tensor:
    mask = torch.zeros(height, width)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    return mask


def subject_of(photos: list[Tensor], masks: list[Tensor], **settings) -> Photos:
    settings = {"class_word": "dog", "resolution": SIZE} | settings
    return make_photos(photos, masks, lambda p: torch.zeros(len(p), 4), pixels, **settings)


@pytest.mark.parametrize(("blank", "value"), [("white", 1.0), ("grey", 0.5), ("black", 0.0)])
def test_pixels_outside_the_mask_are_exactly_the_blank_colour(blank: str, value: float):
    made = subject_of([photo()], [box_mask()], blank=blank)
    outside = box_mask() == 0
    assert torch.all(made.blanked[0, 0][:, outside] == value)


def test_pixels_inside_the_mask_are_exactly_the_photos():
    made = subject_of([photo()], [box_mask()])
    inside = box_mask() == 1
    assert torch.equal(made.blanked[0, 0, :3, inside], photo().movedim(-1, 0)[:, inside])


def test_full_picture_keeps_its_background():
    made = subject_of([photo()], [box_mask()])
    assert torch.equal(made.latents[0, 0, :3], photo().movedim(-1, 0))


def test_soft_mask_blends_by_hand():
    mask = box_mask()
    mask[4, 4] = 0.25
    made = subject_of([torch.zeros(SIZE, SIZE, 3)], [mask])
    assert made.blanked[0, 0, 0, 4, 4].item() == pytest.approx(0.75)  # 0.25 * 0 + 0.75 * 1


def test_random_blank_gives_each_copy_one_colour_of_its_own():
    made = subject_of([photo()], [box_mask()], blank="random")
    corners = made.blanked[0, :, :3, 0, 0]  # [K, 3]
    assert made.blanked.shape[1] == 8
    assert len({tuple(c.tolist()) for c in corners}) == 8
    for copy, colour in zip(made.blanked[0], corners, strict=True):
        outside = copy[:3, box_mask() == 0]
        assert torch.equal(outside, colour[:, None].expand_as(outside))


def test_shrunken_blanked_copy_is_blank_around_the_photo():
    made = subject_of([photo()], [box_mask()], blank="grey", scaled_copies=12)
    for copy, mask in zip(made.blanked[0], made.masks[0], strict=True):
        assert torch.all(copy[:, mask == 0] == 0.5)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(SIZE, SIZE), r"mask of photo 2 is empty \(it covers 0.0% .*MaskEditor"),
        (torch.ones(SIZE, SIZE), r"mask of photo 2 covers 100% .*no background"),
        (1 - box_mask(), r"mask of photo 2 looks inverted.*Invert Mask"),
        (torch.full((SIZE, SIZE), torch.nan), r"mask of photo 2 holds NaN"),
    ],
    ids=["empty", "full", "inverted", "nan"],
)
def test_unusable_mask_is_refused_with_its_number(mask: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        subject_of([photo(), photo(1)], [box_mask(), mask])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_photo_that_is_no_number_is_refused(value: float):
    broken = photo()
    broken[3, 3, 0] = value
    with pytest.raises(ValueError, match="Photo 1 holds NaN or infinite pixels"):
        subject_of([broken], [box_mask()])


@pytest.mark.parametrize("margin", [1, 2, 3, 5])
def test_inverted_mask_is_refused_however_large_the_subject_is(margin: int):
    mask = torch.ones(SIZE, SIZE)
    mask[margin:-margin, margin:-margin] = 0
    with pytest.raises(ValueError, match="mask of photo 1 looks inverted"):
        subject_of([photo()], [mask])


def test_large_subject_that_touches_the_border_is_no_inverted_mask():
    mask = torch.zeros(SIZE, SIZE)
    mask[4:, 2:14] = 1  # touches the lower border only
    assert subject_of([photo()], [mask]).count == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("  ", "class word is empty"),
        ("[V] dog", "must be plain words"),
        ("{dog|cat}", "must be plain words"),
        ("［V］ dog", "must be plain words"),
        ("a dog", 'is more than a name: write "dog"'),
        ("An apple", 'is more than a name: write "apple"'),
        ("photo of a dog", 'is more than a name: write "dog"'),
        ("my dog", 'is more than a name: write "dog"'),
        ("the", 'is more than a name: write "dog"'),
        ("a, b", "plain words"),
        ("(dog:1.2)", "plain words"),
    ],
)
def test_unusable_class_word_is_refused(word: str, message: str):
    with pytest.raises(ValueError, match=message):
        check_class_word(word)


def test_class_word_loses_stray_spaces():
    assert check_class_word("  rubber   duck ") == "rubber duck"


def test_crop_is_centred_on_an_off_centre_subject():
    mask = torch.zeros(SIZE, 2 * SIZE)
    mask[:, 20:28] = 1  # centre 23.5: the square starts at 16
    wide = torch.arange(2.0 * SIZE)[None, :, None].expand(SIZE, -1, 3) / 100
    made = crop(wide, mask, SIZE)
    assert made.picture[0, 0, 0].item() == pytest.approx(0.16)
    assert made.mask.sum() == mask.sum()


def test_crop_stays_inside_the_photo():
    mask = torch.zeros(2 * SIZE, SIZE)
    mask[-4:] = 1
    tall = torch.arange(2.0 * SIZE)[:, None, None].expand(-1, SIZE, 3) / 100
    assert crop(tall, mask, SIZE).picture[-1, 0, 0].item() == pytest.approx(0.31)


def test_photos_of_any_sizes_become_one_resolution():
    made = subject_of([photo(0, 40, 24), photo(1, 16, 50)], [box_mask(40, 24), box_mask(16, 50)])
    assert made.latents.shape == (2, 1, 4, SIZE, SIZE)
    assert made.masks.shape == (2, 1, SIZE, SIZE)


def test_without_scaled_copies_every_cell_is_valid():
    made = subject_of([photo()], [box_mask()])
    assert torch.all(made.valid == 1)
    assert made.prefixes == (("",),)


@pytest.mark.parametrize("seed", range(20))
def test_framing_matches_its_caption(seed: int):
    framing = sample_framing(512, torch.Generator().manual_seed(seed))
    if framing.prefix in ("a far away ", "very small "):
        assert 170 <= framing.size < 308  # below 0.6 x 512
        assert 0 <= framing.left <= 512 - framing.size
    elif framing.prefix in ("zoomed in ", "close up "):
        assert 614 <= framing.size < 717
        assert 512 - framing.size <= framing.left <= 0
    else:
        assert framing == Framing(512, 0, 0, "")


def test_framings_come_in_the_shares_of_custom_diffusion():
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_framing(512, generator).size for _ in range(3000)]
    large = sum(size > 512 for size in drawn) / 3000  # 1/3, standard error 0.0086
    small = sum(size < 0.6 * 512 for size in drawn) / 3000  # 26.6 %, standard error 0.0081
    assert large == pytest.approx(1 / 3, abs=0.035)
    assert small == pytest.approx(0.266, abs=0.033)


def test_shrunken_photo_lies_where_its_framing_says():
    frame = place(torch.ones(1, 8, 8), Framing(4, 3, 1, ""), 8, torch.zeros(1))
    assert frame[0, 1:5, 3:7].eq(1).all()
    assert frame.sum() == 16


def test_enlarged_photo_is_cropped_where_its_framing_says():
    ramp = torch.arange(8.0).expand(1, 8, 8)
    frame = place(ramp, Framing(16, -8, 0, ""), 8, torch.zeros(1))
    assert frame[0, 0, 0].item() == pytest.approx(3.75)  # column 8 of 16 shows 8 / 2 - 1/4


def test_valid_cells_keep_one_cell_off_the_border_of_the_photo():
    inside = torch.zeros(1, 6, 6)
    inside[0, 1:5, 1:5] = 1
    eroded = erode(inside)
    assert eroded.sum() == 4
    assert eroded[0, 2:4, 2:4].eq(1).all()


def test_frame_edge_is_no_border_of_the_photo():
    assert erode(torch.ones(1, 4, 4)).eq(1).all()


def test_thin_subject_survives_in_latent_cells():
    thin = torch.zeros(1, 8, 8)
    thin[0, :, 3] = 1  # one of four columns of the cell
    assert latent_grid(thin, (2, 2)).tolist() == [[[0.25, 0], [0.25, 0]]]


def test_cell_is_the_subject_s_where_it_covers_more_than_half():
    masks = torch.zeros(1, 4, 4)
    masks[0, :, :3] = 1
    masks[0, 0, 2] = 0
    assert latent_grid(masks, (2, 2)).tolist() == [[[1, 0.25], [1, 0.5]]]
    assert subject_cells(masks, (2, 2)).tolist() == [[[True, False], [True, False]]]


def test_subject_too_thin_for_any_cell_keeps_those_it_covers_most():
    masks = torch.zeros(2, 4, 4)
    masks[0, :, 0] = 1  # half of two cells
    masks[1, 0, 0] = masks[1, 3, 2:] = 1
    assert subject_cells(masks, (2, 2)).tolist() == [
        [[True, False], [True, False]],
        [[False, False], [False, True]],
    ]


def test_photo_hash_is_the_same_for_the_same_picture():
    assert photo_hash(photo()) == photo_hash(photo().clone())


def test_photo_hash_differs_for_another_shape_of_the_same_bytes():
    assert photo_hash(photo(0, 8, 4)) != photo_hash(photo(0, 8, 4).reshape(4, 8, 3))


def test_attribute_word_follows_the_class_unless_given():
    assert subject_of([photo()], [box_mask()]).named[0].attribute == "pose"
    assert subject_of([photo()], [box_mask()], attribute="view").named[0].attribute == "view"


def test_thumbnails_show_the_photos():
    made = subject_of([torch.full((SIZE, SIZE, 3), 0.5)], [box_mask()])
    assert made.thumbnails.shape == (1, 128, 128, 3)
    assert made.thumbnails.eq(128).all()


def test_no_copy_cuts_most_of_the_subject_off():
    mask = torch.zeros(SIZE, SIZE)
    mask[-4:, -4:] = 1  # in a corner, where zooming in would lose it
    made = subject_of([photo()], [mask], scaled_copies=64)
    whole = mask.mean()
    zoomed = ("zoomed in ", "close up ")
    shown = [m.mean() for m, p in zip(made.masks[0], made.prefixes[0], strict=True) if p in zoomed]
    assert shown and min(shown) >= 0.5 * (18 / SIZE) ** 2 * whole  # at 18 pixels or more


def test_equal_copies_are_encoded_once():
    seen = []

    def encode(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return pixels(batch)

    photos, masks, features = [photo()], [box_mask()], torch.zeros(1, 4)
    make_photos(photos, masks, lambda _: features, encode, "dog", resolution=SIZE, blank="random")
    assert seen == [1, 8]  # the photo; its blanked copies in eight colours
    seen.clear()
    copies = {"resolution": SIZE, "scaled_copies": 12}
    made = make_photos(photos, masks, lambda _: features, encode, "dog", **copies)
    distinct = len(made.latents[0].flatten(1).unique(dim=0))
    assert seen == [distinct, distinct] and distinct < 12


def test_each_finished_photo_is_reported():
    done = []
    subject_of([photo(), photo(1)], [box_mask(), box_mask()], report=done.append)
    assert done == [1, 2]


def test_empty_mask_has_no_subject_cells():
    assert not subject_cells(torch.zeros(1, 8, 8), (4, 4)).any()


def test_same_seed_gives_the_same_copies():
    first, second = (subject_of([photo()], [box_mask()], scaled_copies=4, seed=9) for _ in range(2))
    assert torch.equal(first.latents, second.latents)
    assert first.prefixes == second.prefixes


def test_sizes_are_the_photos_own_and_what_was_cut_off_at_the_copys_scale():
    mask = torch.zeros(30, 20)
    mask[20:30, 5:15] = 1  # centre of rows 24.5: the square is rows 10 to 29, columns 0 to 19
    plain, zoomed, far = (
        Framing(16, 0, 0, ""),
        Framing(20, -3, -1, "close up "),
        Framing(8, 4, 5, ""),
    )
    rows = copy_sizes(30, 20, square_of(mask), [plain, zoomed, far], 16).tolist()
    assert rows == [
        [30, 20, 8, 0, 16, 16],  # 10 rows of 20 above the square, at 16/20
        [30, 20, 11, 3, 16, 16],  # 10 at 20/20, and one more row and three columns by the zoom
        [30, 20, 4, 0, 16, 16],  # at 8/20; what is pasted into a frame loses nothing
    ]


def test_every_copy_has_its_sizes():
    made = subject_of([photo(), photo(1, 24, 16)], [box_mask(), box_mask(24, 16)], scaled_copies=3)
    assert made.size_ids.shape == (2, 3, 6)
    assert made.size_ids[:, :, :2].tolist() == [[[16, 16]] * 3, [[24, 16]] * 3]


def test_no_photos_are_refused():
    with pytest.raises(ValueError, match="There are no photos: .* Wire 3 to 5"):
        check_sizes([])


@pytest.mark.parametrize(("wrong", "right"), [(100, 96), (0, 8), (-64, 8), (513, 512)])
def test_resolution_that_cannot_be_halved_is_refused_with_the_nearest(wrong: int, right: int):
    with pytest.raises(
        ValueError, match=f"is {wrong}; .* multiple of 8, and best of 64. Take {right}"
    ):
        check_resolution(wrong)
    check_resolution(right)


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0)])
def test_photo_of_another_range_is_refused_with_it(low: float, high: float):
    made = low + (high - low) * photo(1)
    with pytest.raises(ValueError, match="Photo 2 has values from .* an IMAGE lie between 0 and 1"):
        subject_of([photo(), made], [box_mask(), box_mask()])


def test_overshoot_of_a_sharpening_filter_is_no_error():
    subject_of([1.2 * photo() - 0.1], [box_mask()])


def test_broken_photo_is_refused_without_masks_too():
    made = photo()
    made[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Photo 1 holds NaN or infinite pixels"):
        make_photos([made], None, None, pixels, "dog", resolution=SIZE)


@pytest.mark.parametrize(
    ("factor", "message"),
    [(255.0, "values from 0 to 255; a MASK is 0 on the background"), (0.5, "is grey: its highest")],
)
def test_mask_of_another_range_is_refused_with_it(factor: float, message: str):
    with pytest.raises(ValueError, match=f"The mask of photo 1 .*{message}"):
        subject_of([photo()], [factor * box_mask()])


def test_one_picture_under_two_numbers_is_refused():
    with pytest.raises(ValueError, match="Photo 1 and Photo 3 are the same picture"):
        subject_of([photo(), photo(1), photo()], [box_mask()] * 3)


def test_subject_that_is_tiny_in_every_square_is_refused():
    mask = torch.zeros(64, 1600)
    mask[20:44, :30] = mask[20:44, -30:] = 1
    with pytest.raises(ValueError, match="The subject of photo 1 covers 0.0.% of the square"):
        subject_of([photo(0, 64, 1600)], [mask])


def test_photo_below_64_pixels_is_refused_with_its_number_and_size():
    check_sizes([photo(0, 64, 90)])
    with pytest.raises(ValueError, match="Photo 2 has 90 x 63 pixels; a side of 64 is the least"):
        check_sizes([photo(0, 64, 64), photo(0, 63, 90)])
