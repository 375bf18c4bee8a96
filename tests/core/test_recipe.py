"""Which composites a subject trains on, what their prompts say, and how DETEX draws them."""

import logging
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from fakes import SIDE, FakeDenoiser, FakeText, rng
from torch import Tensor

from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.crop import crop
from detex_pack.detex.photos.photos import Photos, Said, make_photos
from detex_pack.detex.photos.places import Places
from detex_pack.detex.photos.recipe import Composer, with_composites
from detex_pack.detex.prompt.grammar import training_prompt
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.unet.attention import AttentionTap

PIXELS = 4 * SIDE  # 32; a latent cell is 4 pixels
NAMES = ("beach", "forest", "street", "desk", "pier", "library")


def plane(top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(PIXELS, PIXELS)
    mask[top:bottom, left:right] = 1
    return mask


MASKS = [plane(8, 20, 4, 14), plane(10, 22, 12, 24), plane(6, 16, 16, 28)]


def photo(number: int, mask: Tensor) -> Tensor:
    """Ground of red 0.1, 0.2, 0.3; subject of green 0.7, 0.8, 0.9."""
    ground = torch.tensor([0.1 * (number + 1), 0.0, 0.0])
    subject = torch.tensor([0.0, 0.7 + 0.1 * number, 0.0])
    return torch.where(mask[..., None] > 0, subject, ground)


def places() -> Places:
    shades = torch.linspace(0, 1, len(NAMES))
    blue = shades[:, None, None, None] * torch.tensor([0.0, 0.0, 1.0])
    return Places(blue.expand(-1, PIXELS, PIXELS, -1), NAMES)


def encode(images: Tensor) -> Tensor:
    pooled = F.avg_pool2d(images.movedim(-1, 1), 4)
    return torch.cat([pooled, pooled[:, :1]], dim=1)


def composer(masks: list[Tensor]) -> Composer:
    crops = [crop(photo(number, mask), mask, PIXELS) for number, mask in enumerate(masks)]
    return Composer(crops, places(), feather=4, sizes=(1.0, 1.0), seed=0)


def composed(masks: list[Tensor] = MASKS) -> Photos:
    photos = [photo(number, mask) for number, mask in enumerate(masks)]
    encoded = make_photos(
        photos,
        masks,
        lambda images: F.avg_pool2d(images.movedim(-1, 1), 8).flatten(1),
        encode,
        "ball",
        resolution=PIXELS,
        blank=None,
    )
    return with_composites(encoded, photos, masks, places(), encode)


def test_a_third_of_each_photos_composites_is_of_each_kind():
    for said in composed().composites.said:
        assert Counter(one.words for one in said) == {"VP": 4, "V": 4, "VB": 4}
        assert all((one.place == "") == (one.words == "VB") for one in said)


def test_every_place_comes_before_one_comes_again():
    drawn = [made[1].place for made in composer(MASKS).draw(0, 9) if made[1].place]
    assert sorted(drawn[:6]) == sorted(NAMES)


def test_in_place_shows_the_photos_subject_where_it_stood_on_the_place_that_is_named():
    made, said = composer(MASKS).in_place(1)
    assert said.words == "VP"
    blue = NAMES.index(said.place) / 5
    torch.testing.assert_close(made.picture[:, 15, 15], torch.tensor([0.0, 0.8, 0.0]))
    torch.testing.assert_close(made.picture[:, 0, 0], torch.tensor([0.0, 0.0, blue]))


def test_crossed_shows_another_subject_before_this_photos_background():
    made, said = composer(MASKS).crossed(1)
    assert said == Said("VB", "")
    red, green, _ = made.picture
    assert {round(g, 4) for g in green[made.mask[0] == 1].tolist()} <= {0.7, 0.9}  # not 0.8
    off = (made.mask[0] == 0) & (made.valid[0] == 1)
    torch.testing.assert_close(red[off], torch.full_like(red[off], 0.2))


def test_one_photo_alone_has_no_background_to_cross_into():
    said = composed(MASKS[:1]).composites.said[0]
    assert Counter(one.words for one in said) == {"VP": 6, "V": 6}


def test_a_subject_that_fills_its_photo_stays_where_it_is_and_is_said_so(caplog):
    cross = torch.maximum(plane(0, PIXELS, 12, 20), plane(12, 20, 0, PIXELS))
    with caplog.at_level(logging.WARNING, "detex"):
        said = composed([MASKS[0], cross]).composites.said
    assert Counter(one.words for one in said[0]) == {"VP": 6, "V": 6}  # none to cross with
    assert Counter(one.words for one in said[1]) == {"VP": 6, "VB": 6}
    assert "photo 2 touches all four sides" in caplog.text


def test_no_subject_is_crossed_into_a_photo_of_hardly_any_background(caplog):
    large = plane(0, PIXELS, 0, 30)  # 2 columns of 32 are left, and the feather takes these
    with caplog.at_level(logging.WARNING, "detex"):
        said = composed([MASKS[0], large]).composites.said
    assert "VB" not in {one.words for one in said[1]}
    assert "Photo 2 shows hardly any background" in caplog.text


def test_places_of_another_size_are_refused():
    small = Places(torch.zeros(1, 16, 16, 3), ("beach",))
    photos = composed()
    with pytest.raises(ValueError, match="pictures of 16 pixels, the training pictures of 32"):
        with_composites(photos, [], [], small, encode)


def test_places_without_masks_are_refused():
    with pytest.raises(ValueError, match="no use without masks"):
        with_composites(composed(), [], None, places(), encode)


def test_the_prompt_names_the_place_where_b_does_not():
    words = {"V", "P"}
    assert training_prompt("dog", "pose", words, place="sandy beach") == (
        "photo of a [V] dog with [P] pose in sandy beach background"
    )
    assert training_prompt("dog", "pose", {"V", "B"}, place="beach") == (
        "photo of a [V] dog in [B] background"
    )


# ---- in training ---------------------------------------------------------------------------------


def method(gamma: float = 1.0, photos: Photos | None = None, **settings) -> Detex:
    config = DetexConfig.recommended(gamma=gamma, **settings)
    train = TrainConfig(batch_size=3)
    return Detex(photos or composed(), None, config, train, FakeDenoiser(), FakeText())


def test_a_drawn_composite_comes_with_its_own_words_mask_and_valid_cells():
    detex = method()
    made = detex.photos.composites
    for _ in range(10):
        batch = detex.draw()
        for row, number in enumerate(batch.photos.tolist()):
            same = (made.latents[number] == batch.latents[row]).flatten(1).all(1)
            copy = int(same.nonzero()[0])
            assert {word for _, word in batch.prompts[row].slots} == set(
                made.said[number][copy].words
            )
            assert torch.equal(batch.masks[row], made.masks[number, copy])
            assert torch.equal(batch.valid[row], made.valid[number, copy])


def test_three_of_ten_prompts_on_a_place_do_not_name_it(monkeypatch: pytest.MonkeyPatch):
    detex, named = method(), []
    plain = detex.prompt

    def prompt(prefix, words, place=""):
        named.append(bool(place))
        return plain(prefix, words, place)

    monkeypatch.setattr(detex, "prompt", prompt)
    for _ in range(400):
        detex.draw()
    on_place = 400 * 3 * 2 / 3  # of 1200 samples a third is crossed
    assert abs(sum(named) / on_place - 0.7) < 0.06  # 3 standard errors of 800 draws are 0.05


def test_half_of_the_samples_are_photos_with_all_words():
    detex = method(gamma=0.5)
    batches = [detex.draw() for _ in range(100)]
    whole = sum(len(p.slots) == 3 for batch in batches for p in batch.prompts)
    assert abs(whole / 300 - 0.5) < 0.1
    for batch in batches:
        alone = [len(prompt.slots) < 3 for prompt in batch.prompts]
        assert batch.blanked.tolist() == alone


def test_attention_is_asked_of_the_words_of_the_prompt_alone():
    detex = method(subject_attention=False)
    batch = detex.draw()
    while {len(p.slots) for p in batch.prompts} != {1}:  # until all say [V] alone
        batch = detex.draw()
    tap = AttentionTap(grid=(SIDE // 2, SIDE // 2), rows=3)
    tap.add(torch.rand(3, 2, (SIDE // 2) ** 2, 24, generator=rng(1)))
    assert detex.attention_term(batch, tap) == 0


def test_composites_are_scaled_and_hashed_with_the_photos():
    photos = composed()
    scaled = photos.for_training(lambda latents: 2 * latents)
    assert torch.equal(scaled.composites.latents, 2 * photos.composites.latents)
    assert torch.equal(scaled.composites.masks, photos.composites.masks)
    assert {"composites.latents", "composites.masks", "composites.valid"} <= dict(
        photos.tensors()
    ).keys()


def test_subject_cut_off_before_a_border_is_put_on_no_place(caplog: pytest.LogCaptureFixture):
    tall = torch.zeros(90, 45)
    tall[5:85] = 1  # from the photo's left edge to its right one, which lie inside of the square
    bordered = crop(torch.rand(90, 45, 3), tall, PIXELS)
    assert bordered.valid.mean() < 1
    plain = [crop(photo(number, mask), mask, PIXELS) for number, mask in enumerate(MASKS)]
    made = Composer([bordered, *plain], places(), feather=4, sizes=(1.0, 1.0), seed=0)
    assert {said.words for _, said in made.draw(0, 6)} == {"VB"}
    assert 0 not in made.others(1)
    assert "is cut off by an edge of the photo" in caplog.text
