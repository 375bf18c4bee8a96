"""The little world's place pictures, and the arms that train on them."""

import torch

from detex_pack.benchmarks.arms import _DEVIATING, _MAIN, _TRIED, _VARYING, ARMS, PLACES
from detex_pack.benchmarks.reader import read
from detex_pack.detex.photos.places import Places
from detex_pack.detex.toys.scene import BACKGROUNDS
from detex_pack.detex.toys.subjects import WITHHELD, demo_places


def test_two_backgrounds_are_in_no_place_picture():
    places = Places(*demo_places())
    assert set(BACKGROUNDS) - set(places.names) == set(WITHHELD)
    assert len(places.names) == 4 * (len(BACKGROUNDS) - len(WITHHELD))


def test_each_place_shows_the_background_that_its_name_says():
    places = Places(*demo_places())
    seen = read(places.pictures)["background"]
    assert torch.equal(seen, torch.tensor([BACKGROUNDS.index(name) for name in places.names]))


def test_the_arms_on_places_say_so_and_no_other_arm_does():
    for name, arm in ARMS.items():
        assert ("places" in arm.settings(600, 0)) == (name in PLACES)


def test_no_two_arms_share_a_name():
    listed = (*_MAIN, *_DEVIATING, *_VARYING, *_TRIED)
    assert len(ARMS) == len(listed)
