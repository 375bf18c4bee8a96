"""Attribute mappers, free vectors, and the words they make."""

import math

import pytest
import torch
from torch import Tensor

from detex_pack.detex.prompt.words import (
    AttributeMapper,
    Attributes,
    FreeVectors,
    WordAnchors,
    Words,
    unit_features,
)

WIDTH, PHOTOS, RMS = 16, 4, 0.014


def features(count: int = PHOTOS, size: int = 12) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0))


def anchors() -> WordAnchors:
    rows = 0.014 * torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    return WordAnchors(dict(zip("VPB", rows, strict=True)), torch.full((WIDTH,), RMS))


def words(attributes: Attributes | None, **settings) -> Words:
    generator = torch.Generator().manual_seed(2)
    given = {"attributes": attributes, "features": features()} | settings
    return Words(PHOTOS, anchors(), generator, **given)


def parameter_count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def one_adam_step(made: Words, photos: Tensor) -> dict[str, Tensor]:
    """How far each exported word moves in one step on these photos."""
    before = made.export()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(2):  # the second one would show momentum and weight decay
        sample = made.of_photos(photos)
        sum(vector.square().sum() for row in sample for vector in row.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {name: (vector - before[name]).abs().max() for name, vector in made.export().items()}


def mapper(*, plain: bool, size: int) -> AttributeMapper:
    unit = unit_features(features(size=size), center=False)
    generator = torch.Generator().manual_seed(3)
    return AttributeMapper(unit, torch.ones(size), torch.full((size,), RMS), generator, plain=plain)


def test_plain_mapper_at_768_has_the_papers_size():
    # 3 x (768 x 768 + 768) = 1,771,776 parameters = 6.76 MiB in float32
    assert parameter_count(mapper(plain=True, size=768)) == 1_771_776


def test_there_are_two_mappers_shared_by_all_photos():
    made = words(Attributes.MAPPERS)
    assert sorted(made.attributes) == ["B", "P"]
    one = (12 * 16 + 16) + 2 * 16 + (16 * 16 + 16) + 2 * 16 + 16 * 16  # no bias in the last layer
    assert parameter_count(made.attributes) == 2 * one


def test_plain_mapper_has_no_anchor():
    bare = mapper(plain=True, size=WIDTH)
    out = bare(torch.arange(PHOTOS))
    torch.testing.assert_close(out, bare.layers(bare.features))


def test_mapper_starts_a_quarter_of_a_token_away_from_its_anchor():
    made = mapper(plain=False, size=WIDTH)
    offset = made(torch.arange(PHOTOS)) - made.anchor
    assert offset.square().mean().sqrt().item() == pytest.approx(0.25 * RMS, rel=1e-4)


def test_mapper_tells_photos_apart_from_the_start():
    vectors = words(Attributes.MAPPERS).export()
    assert not torch.allclose(vectors["P1"], vectors["P2"], atol=0.01 * RMS)


@pytest.mark.parametrize("attributes", [Attributes.MAPPERS, Attributes.VECTORS])
def test_exported_words_are_those_of_training_bit_for_bit(attributes: Attributes):
    made = words(attributes)
    one_adam_step(made, torch.tensor([0, 2]))
    live = made.of_photos(torch.arange(PHOTOS))
    for i, row in enumerate(live):
        for role in "PB":
            assert torch.equal(made.export()[f"{role}{i + 1}"], row[role][None])


def test_export_names_every_photo_once():
    names = list(words(Attributes.MAPPERS).export())
    assert names == ["V", "P1", "P2", "P3", "P4", "B1", "B2", "B3", "B4"]


def test_without_attributes_only_the_subject_word_is_learned():
    made = words(None)
    assert list(made.export()) == ["V"]
    assert parameter_count(made) == WIDTH


@pytest.mark.parametrize("word", ["P2", "P4", "B2", "B4"])
def test_free_vector_of_an_absent_photo_does_not_move(word: str):
    assert one_adam_step(words(Attributes.VECTORS), torch.tensor([0, 2]))[word] == 0


def test_free_background_vector_of_a_blanked_photo_does_not_move():
    made = words(Attributes.VECTORS)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    before = {}
    for blanked in (False, True):  # the first step fills Adam's memory
        before = made.export()
        rows = made.of_photos(torch.tensor([0, 2]))
        used = [rows[0]["P"], rows[1]["P"], rows[1]["B"]] + ([] if blanked else [rows[0]["B"]])
        torch.stack(used).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    after = made.export()
    assert torch.equal(after["B1"], before["B1"])
    assert not torch.equal(after["B3"], before["B3"])


@pytest.mark.parametrize("word", ["V", "P1", "P3", "B1", "B3"])
def test_free_vector_of_a_photo_in_the_batch_moves(word: str):
    assert one_adam_step(words(Attributes.VECTORS), torch.tensor([0, 2]))[word] > 0


@pytest.mark.parametrize("word", ["P2", "P4", "B2", "B4"])
def test_mapper_word_of_an_absent_photo_moves_too(word: str):
    assert one_adam_step(words(Attributes.MAPPERS), torch.tensor([0, 2]))[word] > 0


def test_words_start_at_their_rare_rows():
    made, rows = words(Attributes.VECTORS).export(), anchors().rows
    assert torch.equal(made["V"][0], rows["V"])
    assert torch.equal(made["P3"][0], rows["P"])
    assert torch.equal(made["B1"][0], rows["B"])


def test_features_get_root_mean_square_one():
    unit = unit_features(7 * features(), center=False)
    torch.testing.assert_close(unit.square().mean(dim=1).sqrt(), torch.ones(PHOTOS))


def test_feature_of_one_number_pattern_by_hand():
    unit = unit_features(torch.tensor([[3.0, 4.0]]), center=False)  # / 5 x sqrt(2)
    torch.testing.assert_close(unit, math.sqrt(2) * torch.tensor([[0.6, 0.8]]))


def test_centred_features_are_rid_of_what_all_photos_share():
    shared = 100 * torch.ones(1, 12)
    torch.testing.assert_close(
        unit_features(features() + shared, center=True),
        unit_features(features(), center=True),
        atol=1e-3,
        rtol=0,
    )


@pytest.mark.parametrize("attributes", [Attributes.MAPPERS, Attributes.VECTORS])
def test_centered_pose_words_average_to_their_anchor_and_keep_their_differences(
    attributes: Attributes,
):
    free, made = words(attributes), words(attributes, center_poses=True)
    for each in (free, made):
        one_adam_step(each, torch.tensor([0, 2]))
    poses = torch.cat([made.export()[f"P{i}"] for i in range(1, PHOTOS + 1)])
    torch.testing.assert_close(poses.mean(0), anchors().rows["P"], atol=1e-6, rtol=0)
    source = made.attributes["P"](torch.arange(PHOTOS))
    plain = source if isinstance(source, Tensor) else torch.stack(source)
    torch.testing.assert_close(poses[1] - poses[0], plain[1] - plain[0], atol=1e-6, rtol=0)
    backgrounds = torch.cat([made.export()[f"B{i}"] for i in range(1, PHOTOS + 1)])
    assert (backgrounds.mean(0) - anchors().rows["B"]).abs().max() > 1e-4


def test_centered_pose_words_are_in_training_what_is_exported():
    made = words(Attributes.MAPPERS, center_poses=True)
    one_adam_step(made, torch.tensor([0, 2]))
    for i, row in zip((2, 0), made.of_photos(torch.tensor([2, 0])), strict=True):
        torch.testing.assert_close(made.export()[f"P{i + 1}"][0], row["P"], atol=0, rtol=0)


def test_pose_word_of_a_single_photo_is_not_centred_away():
    rng = torch.Generator().manual_seed(2)
    made = Words(
        1, anchors(), rng, attributes=Attributes.MAPPERS, features=features(1), center_poses=True
    )
    assert (made.export()["P1"][0] - anchors().rows["P"]).abs().max() > 1e-4


def test_single_photo_is_not_centred_away():
    unit = unit_features(features(1), center=True)
    torch.testing.assert_close(unit, unit_features(features(1), center=False))


def test_same_seed_gives_the_same_words():
    first, second = (words(Attributes.MAPPERS).export() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_making_words_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    words(Attributes.MAPPERS)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_free_vectors_are_parameters_of_their_own():
    assert parameter_count(FreeVectors(3, torch.zeros(WIDTH))) == 3 * WIDTH
    assert len(list(FreeVectors(3, torch.zeros(WIDTH)).parameters())) == 3


@pytest.mark.parametrize(("width", "size"), [(768, 768), (1024, 1024), (2048, 1280)])
@pytest.mark.parametrize("attributes", [Attributes.MAPPERS, Attributes.VECTORS])
def test_words_of_real_size_move_as_fast_as_the_subject_once_their_speed_is_divided_out(
    width: int, size: int, attributes: Attributes
):
    # photos of one subject are alike: cosines of about 0.8
    given = features(size=size)[:1] + 0.5 * features(size=size)
    rows = 0.014 * torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    given_anchors = WordAnchors(dict(zip("VPB", rows, strict=True)), torch.full((width,), RMS))
    rng = torch.Generator().manual_seed(2)
    made = Words(
        PHOTOS, given_anchors, rng, attributes=attributes, features=given, center_poses=True
    )
    before, groups = made.export(), [{"params": [made.subject], "lr": 1e-4}]
    for role, source in made.attributes.items():
        rate = 1e-4 / made.speed(role, torch.Generator().manual_seed(3))
        groups.append({"params": list(source.parameters()), "lr": rate})
    pulls = {role: torch.randn(PHOTOS, width, generator=rng) for role in "VPB"}
    pulls["B"] = pulls["V"] = pulls["V"][:1].expand(PHOTOS, -1)
    sample = made.of_photos(torch.arange(PHOTOS))
    sum(
        (row[role] * pulls[role][i]).sum() for i, row in enumerate(sample) for role in "VPB"
    ).backward()
    torch.optim.AdamW(groups, weight_decay=0).step()
    moved = {
        name: (row - before[name]).square().mean().sqrt() for name, row in made.export().items()
    }
    for name in ("P1", "P2", "P3", "P4", "B1", "B2", "B3", "B4"):
        assert moved["V"] / 2 < moved[name] < 2 * moved["V"], name


def test_speed_is_measured_without_moving_anything():
    made = words(Attributes.MAPPERS, center_poses=True)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert made.speed("P", torch.Generator()) > 0
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_at_one_rate_mappers_of_real_size_are_several_times_as_fast():
    given = features(size=768)[:1] + 0.5 * features(size=768)
    rows = 0.014 * torch.randn(3, 768, generator=torch.Generator().manual_seed(1))
    given_anchors = WordAnchors(dict(zip("VPB", rows, strict=True)), torch.full((768,), RMS))
    rng = torch.Generator().manual_seed(2)
    made = Words(PHOTOS, given_anchors, rng, attributes=Attributes.MAPPERS, features=given)
    assert 6 < made.speed("B", torch.Generator().manual_seed(3)) < 12
