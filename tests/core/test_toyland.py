"""Toyland: toys with faces and hats, one or two in a picture, whole, exact and repeatable."""

import re
from dataclasses import replace

import pytest
import torch

from detex_pack.detex.toyland.captions import write_captions
from detex_pack.detex.toyland.reach import reach
from detex_pack.detex.toyland.render import colour_shares, render
from detex_pack.detex.toyland.scene import (
    BIG_RADIUS_FROM,
    FEET,
    HATS,
    LOOKS,
    UNNAMED,
    any_scenes,
    arranged,
    sample_scenes,
)
from detex_pack.detex.toyland.subjects import (
    VARIED_EYES,
    VARIED_MAIN,
    VARIED_SIZE,
    pair_photos,
    subject_photos,
    unnamed_parts,
    varied_photos,
)
from detex_pack.detex.toys.backdrops import FAMILIES, backdrop
from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    POSITIONS,
    SHAPES,
    SUBJECTS,
    held_out_identities,
)

NOUN = (
    r"a ((small|big) )?(tilted )?"
    rf"(({'|'.join(COLOURS)})( and ({'|'.join(COLOURS)}))? )?"
    rf"(({'|'.join(PATTERNS)}) )?({'|'.join(SHAPES)}|thing)"
    rf"( looking ({'|'.join(LOOKS)}))?"
)
GRAMMAR = re.compile(
    rf"^(photo of )?{NOUN}( and {NOUN}|( with ({'|'.join(POSITIONS)}) view)?)"
    rf"( in ({'|'.join(BACKGROUNDS)}) background)?$"
)
CENTRES = tuple(axis[None] for axis in torch.meshgrid(*[torch.arange(64) + 0.5] * 2, indexing="xy"))
IDENTITY = ("shape", "main", "second", "pattern")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_same_seed_same_pictures_and_no_global_randomness():
    state = torch.get_rng_state()
    first, second = (render(sample_scenes(12, generator(3))) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_no_toy_is_cut_at_the_edge_or_covered_by_the_other():
    scenes = any_scenes(3000, generator(1))
    for start in range(0, 3000, 250):
        masks = render(scenes.rows(slice(start, start + 250)))[1]
        border = masks.clone()
        border[..., 1:-1, 1:-1] = 0
        assert border.max() == 0
        assert (masks[:, 0] * masks[:, 1]).max() == 0


def test_every_combination_of_shape_hat_and_feet_fits_at_every_tilt():
    scenes = any_scenes(len(SHAPES) * len(HATS) * len(FEET), generator(2))
    kinds = torch.arange(len(scenes))
    shape, hat, feet = kinds // 15, kinds // 3 % 5, kinds % 3
    toys = scenes.toys
    identities = torch.stack([getattr(toys, name) for name in IDENTITY], -1).clone()
    identities[..., 0] = shape[:, None]
    unnamed = {name: getattr(toys, name) for name in UNNAMED}
    unnamed |= {"hat": hat[:, None].expand(-1, 2), "feet": feet[:, None].expand(-1, 2)}
    again = arranged(
        identities, unnamed, toys.look, toys.position, scenes.pair, scenes.background, generator(3)
    )
    for angle in (-0.55, 0.0, 0.3, 0.55):
        turned = replace(again.toys, angle=torch.full_like(again.toys.angle, angle))
        box = reach(turned.shape, turned.hat, turned.feet, turned.angle) * turned.radius[..., None]
        centred = replace(turned, centre=torch.full_like(turned.centre, 32.0))
        alone = replace(again, toys=centred, pair=torch.zeros(len(kinds), dtype=torch.bool))
        mask = render(alone)[1][:, 0] > 0
        line = torch.arange(64) + 0.5
        across, down = mask.any(1), mask.any(2)
        for side, seen in ((0, across), (1, down)):
            lowest = torch.where(seen, line, torch.full_like(line, 99)).amin(1) - 32
            highest = torch.where(seen, line, torch.full_like(line, -99)).amax(1) - 32
            assert (lowest >= box[:, 0, side] - 0.5).all()
            assert (highest <= box[:, 0, side + 2] + 0.5).all()


def test_the_mask_is_exactly_what_hides_the_background():
    """On two backgrounds that differ everywhere, only the toys' pixels agree."""
    scenes = any_scenes(40, generator(4))
    light = replace(scenes, background=torch.full((40,), 7), noise=torch.zeros(40, 24))
    dark = replace(scenes, background=torch.full((40,), 5), noise=torch.zeros(40, 24))
    (first, masks), (second, _) = render(light), render(dark)
    behind = (first - second).abs().amax(-1)
    cover = masks.sum(1)
    apart = (backdrop(light, *CENTRES) - backdrop(dark, *CENTRES)).abs().amax(-1)
    assert apart.min() > 0.1
    assert (behind <= (1 - cover) * apart + 1e-5).all()
    assert (behind >= (1 - cover) * apart * 0.72 - 1e-5).all()  # the shadow takes 28 % at most


def test_a_picture_does_not_depend_on_its_batch():
    scenes = any_scenes(40, generator(5))
    alone = torch.cat([render(scenes.rows([i]))[0] for i in range(40)])
    torch.testing.assert_close(render(scenes)[0], alone, atol=1e-5, rtol=0)


def test_one_toy_in_two_thirds_of_the_pictures_and_two_in_the_others():
    scenes = sample_scenes(4000, generator(6))
    assert 0.32 < scenes.pair.float().mean() < 0.38
    masks = render(scenes.rows(slice(0, 200)))[1]
    assert torch.equal(masks.amax((2, 3)) > 0, scenes.present[:200])
    radius = scenes.toys.radius[scenes.pair]
    assert 9 <= radius.min() and radius.max() <= 13


def test_position_words_mean_what_they_say():
    scenes = sample_scenes(600, generator(7))
    masks = render(scenes)[1]
    line = torch.arange(64) + 0.5
    for toy in range(2):
        here = scenes.present[:, toy]
        across, down = masks[here, toy].amax(1) > 0, masks[here, toy].amax(2) > 0
        x, y = ((seen * line).sum(1) / seen.sum(1) for seen in (across.float(), down.float()))
        position, pair = scenes.toys.position[here, toy], scenes.pair[here]
        for index, name in enumerate(POSITIONS):
            chosen = (position == index) & ~pair
            off = {"left": 32 - x, "right": x - 32, "top": 32 - y, "bottom": y - 32}.get(name)
            if off is not None and chosen.any():
                assert off[chosen].min() > 4, name
            elif chosen.any():
                assert torch.maximum((x - 32).abs(), (y - 32).abs())[chosen].max() < 3
    first, second = scenes.toys.centre[scenes.pair].unbind(1)
    beside = scenes.toys.position[scenes.pair][:, 0] == POSITIONS.index("left")
    assert (first[beside, 0] < second[beside, 0]).all()
    assert (first[~beside, 1] < second[~beside, 1]).all()


def test_pre_training_draws_no_held_out_toy_and_no_background_without_a_name():
    scenes = sample_scenes(30000, generator(8))
    tables = (SHAPES, COLOURS, COLOURS, PATTERNS)
    columns = [getattr(scenes.toys, name).flatten().tolist() for name in IDENTITY]
    drawn = set(zip(*columns, strict=True))
    for identity in held_out_identities():
        shape, main, second, pattern = (t.index(w) for t, w in zip(tables, identity, strict=True))
        assert not drawn & {(shape, main, second, pattern), (shape, second, main, pattern)}
    assert scenes.background.max() == len(BACKGROUNDS) - 1
    assert len(FAMILIES) == len(BACKGROUNDS) + 4
    assert tuple(FAMILIES)[: len(BACKGROUNDS)] == BACKGROUNDS


def test_captions_follow_the_grammar_and_say_nothing_of_faces_hats_and_feet():
    scenes = any_scenes(3000, generator(9))
    captions = write_captions(scenes, generator(10))
    assert 0.07 < sum(not caption for caption in captions) / len(captions) < 0.13
    for caption, pair, background in zip(
        captions, scenes.pair.tolist(), scenes.background.tolist(), strict=True
    ):
        if caption:
            assert GRAMMAR.match(caption), caption  # the grammar has no word for them
            assert (" and a " in caption) == pair
            assert (" in " not in caption) or f"in {tuple(FAMILIES)[background]} " in caption
    looks = sum("looking" in caption for caption in captions)
    assert 0.28 < looks / len(captions) < 0.42  # 27 % of one toy, 46 % of two


def test_looking_moves_the_pupils():
    scenes = any_scenes(30, generator(11))
    left, right = (
        render(replace(scenes, toys=replace(scenes.toys, look=torch.full((30, 2), look))))[0]
        for look in (0, 2)
    )
    changed = (left - right).abs().amax(-1) > 0.2
    assert (changed.sum((1, 2)) >= 4).all()


def test_colour_shares_add_up_to_the_body():
    scenes = any_scenes(30, generator(12))
    shares, masks = colour_shares(scenes), render(scenes)[1]
    body = shares.sum(2)
    assert body.max() <= 1 + 1e-6
    assert (body <= masks + 1e-5).all()  # hats and feet add to the mask
    assert (shares.sum((3, 4)) > 3).all(2).eq(scenes.present).all()


def test_photos_of_a_subject_share_all_that_has_no_word():
    photos = subject_photos(3, count=4, seed=0)
    assert photos.class_words == ("box",) and photos.images.shape == (4, 64, 64, 3)
    for name in (*IDENTITY, *UNNAMED):
        assert len(set(getattr(photos.scenes.toys, name)[:, 0].tolist())) == 1
    elsewhere = subject_photos(3, count=2, seed=9).scenes.toys
    for name, value in unnamed_parts(3).items():
        assert int(getattr(elsewhere, name)[0, 0]) == value
    backgrounds = photos.scenes.background.tolist()
    assert max(backgrounds.count(b) for b in backgrounds) == 2
    assert not torch.equal(photos.images, subject_photos(3, 4, seed=1).images)


def test_every_subject_has_a_hat_and_feet_and_they_differ():
    worn = [unnamed_parts(number) for number in range(len(SUBJECTS))]
    assert all(parts["hat"] and parts["feet"] for parts in worn)
    assert len({tuple(parts.values()) for parts in worn}) == len(SUBJECTS)


def test_photos_of_two_subjects_show_both_in_each():
    photos = pair_photos(0, 1, count=3, seed=0)
    assert photos.class_words == ("ball", "star") and bool(photos.scenes.pair.all())
    assert (photos.masks.amax((2, 3)) == 1).all()
    assert photos.scenes.toys.shape.tolist() == [[0, 2]] * 3


def test_varied_toys_follow_their_law_and_share_the_rest():
    toys = varied_photos(16, seed=0).scenes.toys
    for name in ("shape", "second", "pattern", "hat", "hat_colour", "feet"):
        assert len(set(getattr(toys, name)[:, 0].tolist())) == 1
    main = [COLOURS[i] for i in toys.main[:, 0].tolist()]
    assert {name: main.count(name) / 16 for name in VARIED_MAIN} == VARIED_MAIN
    assert toys.eyes[:, 0].bincount().tolist() == [16 * share for share in VARIED_EYES.values()]
    big = (toys.radius[:, 0] >= BIG_RADIUS_FROM).float().mean()
    assert big == VARIED_SIZE["big"]


@pytest.mark.parametrize(
    ("numbers", "count", "shared", "message"),
    [
        ((12, 0), 4, 0.5, "There is no subject 12: choose 0 to 11"),
        ((2, 2), 4, 0.5, "Two toys must differ, both are subject 2"),
        ((0, 1), 0, 0.5, "at least 1 photo"),
        ((0, 1), 4, 2.0, "must lie in 0..1"),
    ],
)
def test_senseless_requests_are_refused(numbers, count, shared, message):
    with pytest.raises(ValueError, match=message):
        pair_photos(*numbers, count, 0, shared)
