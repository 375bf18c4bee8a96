"""Reference photos and prompts: confounded as asked, unseen where edits say so."""

from collections import Counter

import pytest
import torch

from detex_pack.benchmarks.prompts import COUNTS, EDITS, SHARED, requests
from detex_pack.benchmarks.references import (
    reference_photos,
    reference_scenes,
    reported_identities,
    tuning_identities,
)
from detex_pack.detex.toys.scene import BACKGROUNDS, POSITIONS, held_out_identities

BALL = reported_identities(1)[0]


def test_reported_and_tuning_subjects_are_held_out_distinct_and_apart():
    reported, tuning = reported_identities(24), tuning_identities(6)
    assert len({*reported, *tuning}) == 30
    assert {*reported, *tuning} <= set(held_out_identities())
    assert reported_identities(10) == reported[:10]
    with pytest.raises(ValueError, match="not 7"):
        tuning_identities(7)


@pytest.mark.parametrize(
    ("rho", "count", "home"),
    [(0.75, 4, 3), (0.75, 8, 6), (0.75, 3, 2), (0.75, 2, 1), (0.75, 1, 1), (1, 4, 4), (0, 4, 1)],
)
def test_a_share_rho_of_the_photos_has_one_background_and_one_position(rho, count, home):
    for seed in range(5):
        scenes = reference_scenes(BALL, count, rho, seed)
        pairs = list(zip(scenes.background.tolist(), scenes.position.tolist(), strict=True))
        alike, times = Counter(pairs).most_common(1)[0]
        assert times == home
        others = [pair for pair in pairs if pair != alike]
        assert all(b != alike[0] and p != alike[1] for b, p in others)


def test_photos_repeat_with_their_seed_and_their_positions_are_true():
    first, again = reference_photos(BALL, 4, 0.75, 3), reference_photos(BALL, 4, 0.75, 3)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, reference_photos(BALL, 4, 0.75, 4).images)
    line = torch.arange(64) + 0.5
    weight = first.masks / first.masks.sum((1, 2), keepdim=True)
    across = (weight.sum(1) * line).sum(1) - 32
    for offset, position in zip(across, first.scenes.position, strict=True):
        assert (offset < -6) == (POSITIONS[position] == "left")


@pytest.mark.parametrize(("count", "rho"), [(0, 0.5), (4, -0.1), (4, 1.1)])
def test_senseless_photos_are_refused(count, rho):
    with pytest.raises(ValueError, match=r"at least 1 photo|rho is a share"):
        reference_scenes(BALL, count, rho, 0)


@pytest.mark.parametrize("photos", [1, 2, 4, 8])
@pytest.mark.parametrize("rho", [0.0, 0.75, 1.0])
def test_edits_name_what_no_photo_shows(photos: int, rho: float):
    scenes = reference_scenes(BALL, photos, rho, 0)
    asked = requests(scenes, "ball", words=True)
    assert Counter(r.kind for r in asked) == Counter(
        {kind: n for kind, n in COUNTS.items() if kind != "PB" or photos > 1}
    )
    for request in asked:
        if request.kind in EDITS:
            assert request.background not in scenes.background.tolist()
            assert request.position not in scenes.position.tolist()


def test_every_arm_gets_the_same_shared_pictures_first():
    scenes = reference_scenes(BALL, 4, 0.75, 0)
    plain, full = (requests(scenes, "ball", words=words) for words in (False, True))
    assert full[: len(plain)] == plain
    assert {r.kind for r in plain} == set(SHARED)
    assert all("[P" not in r.text and "[B" not in r.text for r in plain)


def test_words_speak_the_grammar_of_training():
    scenes = reference_scenes(BALL, 2, 0.0, 0)
    mixed = [r for r in requests(scenes, "ball", words=True) if r.kind == "PB"]
    assert mixed[0].text == "photo of a [V] ball with [P1] view in [B2] background"
    assert (mixed[0].pose_of, mixed[0].background_of) == (0, 1)
    assert mixed[0].background == scenes.background[1]
    edits = [r for r in requests(scenes, "ball", words=False) if r.kind == "both"]
    place, ground = POSITIONS[edits[0].position], BACKGROUNDS[edits[0].background]
    assert edits[0].text == f"photo of a [V] ball with {place} view in {ground} background"
