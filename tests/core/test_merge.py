"""The closed-form merge: exact where it must be, least elsewhere, and what it refuses."""

import dataclasses

import pytest
import torch
from torch import Tensor

from detex_pack.detex.concept import merge
from detex_pack.detex.concept.file import BaseModel, Concept
from detex_pack.detex.concept.merge import (
    check_mergeable,
    long_captions,
    merge_concepts,
    merge_quality,
    merged_deltas,
    renamed_subjects,
    short_captions,
)
from detex_pack.detex.prompt.captions import NEUTRAL
from detex_pack.detex.prompt.grammar import Named
from detex_pack.detex.unet.deltas import LowRank, as_matrix

WIDTH, OUT = 24, 5
BASE = BaseModel("Stable Diffusion 1.x", "abc", "l", "eps", {})


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


OWN = [{"k": random(OUT, WIDTH, seed=i), "v": random(OUT, WIDTH, seed=10 + i)} for i in range(2)]
EXACT = [random(3, WIDTH, seed=20 + i) for i in range(2)]
NEAR = [random(9, WIDTH, seed=30 + i) for i in range(2)]
PLAIN = random(40, WIDTH, seed=40)


def cost(delta: Tensor, name: str) -> float:
    """What the merge minimises for one matrix, its ridge included."""
    every = torch.cat([PLAIN, *NEAR])
    ridge = merge.RIDGE * every.square().sum() / WIDTH
    near = sum(
        ((delta - own[name]) @ rows.mT).square().sum() for own, rows in zip(OWN, NEAR, strict=True)
    )
    return (near + (delta @ PLAIN.mT).square().sum() + ridge * delta.square().sum()).item()


def test_each_concept_keeps_its_keys_and_values_on_its_own_tokens():
    merged = merged_deltas(OWN, EXACT, NEAR, PLAIN)
    for own, rows in zip(OWN, EXACT, strict=True):
        for name in ("k", "v"):
            wanted = own[name] @ rows.mT
            torch.testing.assert_close(merged[name].double() @ rows.mT, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["k", "v"])
def test_no_feasible_change_costs_less(name: str):
    best = merged_deltas(OWN, EXACT, NEAR, PLAIN)[name].double()
    off = torch.linalg.svd(torch.cat(EXACT)).Vh[6:]  # orthogonal to all six exact tokens
    for seed in range(200):
        change = random(OUT, len(off), seed=seed) @ off * 10.0 ** -(seed % 4)
        torch.testing.assert_close(
            change @ torch.cat(EXACT).mT, torch.zeros(OUT, 6).double(), atol=1e-12, rtol=0
        )
        assert cost(best + change, name) > cost(best, name)


def test_without_any_token_nothing_changes():
    nothing = [torch.zeros(0, WIDTH)] * 2
    merged = merged_deltas(OWN, nothing, nothing, PLAIN)
    assert all(torch.equal(delta, torch.zeros(OUT, WIDTH)) for delta in merged.values())


def test_single_concept_reproduces_its_own_on_its_own_tokens():
    merged = merged_deltas(OWN[:1], EXACT[:1], NEAR[:1], PLAIN)
    wanted = (OWN[0]["k"] @ EXACT[0].mT).float()
    torch.testing.assert_close(merged["k"] @ EXACT[0].float().mT, wanted, atol=1e-4, rtol=0)


def test_order_of_the_concepts_does_not_matter_to_the_solution():
    one = merged_deltas(OWN, EXACT, NEAR, PLAIN)["k"]
    other = merged_deltas(OWN[::-1], EXACT[::-1], NEAR[::-1], PLAIN)["k"]
    torch.testing.assert_close(one, other)


def test_same_concept_twice_is_solved_too():
    merged = merged_deltas(OWN[:1] * 2, EXACT[:1] * 2, NEAR[:1] * 2, PLAIN)["k"].double()
    torch.testing.assert_close(merged @ EXACT[0].mT, OWN[0]["k"] @ EXACT[0].mT, atol=1e-3, rtol=0)


def test_long_captions_come_nearer_than_by_adding_the_deltas():
    merged = merged_deltas(OWN, EXACT, NEAR, PLAIN)
    added = {name: OWN[0][name] + OWN[1][name] for name in ("k", "v")}
    ours, theirs = (merge_quality(OWN, d, NEAR, PLAIN) for d in (merged, added))
    assert min(ours.kept) > max(theirs.kept)
    assert ours.spill < theirs.spill


def test_quality_of_the_concept_itself_is_full():
    quality = merge_quality(OWN[:1], OWN[0], NEAR[:1], PLAIN)
    assert quality.kept == (1.0,)
    assert quality.spill == pytest.approx(1.0)


def make_concept(
    seed: int, photos: int, class_word: str = "dog", attribute: str = "pose", **changes
) -> Concept:
    numbers = range(1, photos + 1)
    names = ["V", *(f"P{i}" for i in numbers), *(f"B{i}" for i in numbers)]
    fields = {
        "words": {name: {"l": random(1, WIDTH, seed=seed + i)} for i, name in enumerate(names)},
        "deltas": {"k": random(OUT, WIDTH, seed=seed).float()},
        "named": (Named("V", class_word, attribute, tuple(numbers)),),
        "method": "DETEX",
        "base": BASE,
        "photo_hashes": tuple(f"{seed}-{i}" for i in numbers),
        "thumbnails": torch.full((photos, 8, 8, 3), seed, dtype=torch.uint8),
    }
    return Concept(**(fields | changes))


def bag_of_words(texts, words) -> list[Tensor]:
    """A stand-in for CLIP: a vector for each word of the text, learned ones in their places."""

    def row(word: str) -> Tensor:
        if word.startswith("["):
            return words[word.strip("[]")]
        return random(1, WIDTH, seed=sum(map(ord, word)))

    return [torch.cat([row(word) for word in text.split()]) for text in texts]


def test_subjects_are_numbered_and_photo_numbers_go_on():
    merged, _ = merge_concepts([make_concept(1, 2), make_concept(2, 3)], bag_of_words)
    assert merged.word_names[:2] == ("V", "V2")
    assert merged.photo_count == 5
    assert torch.equal(merged.words["V2"]["l"], random(1, WIDTH, seed=2))
    assert torch.equal(merged.words["P3"]["l"], random(1, WIDTH, seed=3))  # P1 of the second
    assert merged.photo_hashes == ("1-1", "1-2", "2-1", "2-2", "2-3")
    assert merged.thumbnails[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]


def low_rank_concept(seed: int) -> Concept:
    delta = LowRank(random(OUT, 2, seed=seed).float(), random(2, WIDTH, seed=seed + 1).float())
    return make_concept(seed, 2, deltas={"k": delta})


def test_low_rank_concepts_merge_as_their_matrices_do_at_the_sum_of_their_ranks():
    narrow = [low_rank_concept(1), low_rank_concept(5)]
    full = [dataclasses.replace(c, deltas={"k": as_matrix(c.deltas["k"])}) for c in narrow]
    (ours, quality), (theirs, expected) = (merge_concepts(c, bag_of_words) for c in (narrow, full))
    assert ours.deltas["k"].down.shape == (4, WIDTH)
    torch.testing.assert_close(as_matrix(ours.deltas["k"]), theirs.deltas["k"], atol=1e-5, rtol=0)
    assert quality.kept == pytest.approx(expected.kept, abs=1e-5)
    assert quality.spill == pytest.approx(expected.spill, abs=1e-5)


def test_low_rank_concept_and_a_full_one_merge_too():
    narrow = low_rank_concept(1)
    full = dataclasses.replace(narrow, deltas={"k": as_matrix(narrow.deltas["k"])})
    other = make_concept(7, 1)
    mixed, both = (merge_concepts([one, other], bag_of_words)[0] for one in (narrow, full))
    assert torch.equal(mixed.deltas["k"], both.deltas["k"])


def test_every_photo_keeps_the_attribute_of_its_subject():
    toy = make_concept(2, 1, class_word="boot", attribute="view")
    merged, _ = merge_concepts([make_concept(1, 2), toy], bag_of_words)
    assert [merged.attribute_of(i) for i in (1, 2, 3)] == ["pose", "pose", "view"]
    assert merged.class_word == "dog and boot"


def test_concept_without_photo_words_joins_with_its_subject_alone():
    plain = make_concept(2, 0, method="Custom Diffusion", thumbnails=torch.zeros(4, 8, 8, 3).byte())
    merged, _ = merge_concepts([plain, make_concept(1, 2)], bag_of_words)
    assert merged.word_names == ("V", "V2", "P1", "P2", "B1", "B2")
    assert len(merged.thumbnails) == 2  # those that have numbers


def test_merged_concept_can_be_merged_again():
    first, _ = merge_concepts([make_concept(1, 2), make_concept(2, 1)], bag_of_words)
    third = make_concept(9, 1, class_word="boot", attribute="view")
    merged, _ = merge_concepts([first, third], bag_of_words)
    assert [s.word for s in renamed_subjects([first, third])] == ["V", "V2", "V3"]
    assert merged.word_names[:3] == ("V", "V2", "V3") and merged.photo_count == 4
    assert torch.equal(merged.words["V2"]["l"], first.words["V2"]["l"])
    assert torch.equal(merged.words["P4"]["l"], third.words["P1"]["l"])
    assert [merged.attribute_of(i) for i in (3, 4)] == ["pose", "view"]


def test_captions_of_a_subject_use_the_words_of_its_own_concept():
    second = renamed_subjects([make_concept(1, 2), make_concept(2, 1)])[1]
    assert short_captions(second) == ["[V] dog", "photo of a [V] dog"]
    assert "photo of a [V] dog with [P1] pose in [B1] background" in long_captions(second)


def test_neutral_captions_are_many_and_different():
    assert len(set(NEUTRAL)) == len(NEUTRAL) >= 200


def test_one_concept_alone_is_refused():
    with pytest.raises(ValueError, match="Only one concept is wired. Wire two or more"):
        check_mergeable([make_concept(1, 1)])


def test_concepts_of_other_models_are_refused_by_number():
    other_family = dataclasses.replace(BASE, family="Stable Diffusion 2.x")
    other_weights = dataclasses.replace(BASE, fingerprint="xyz")
    with pytest.raises(
        ValueError, match="Concept 2 was trained on Stable Diffusion 2.x, the first"
    ):
        check_mergeable([make_concept(1, 1), make_concept(2, 1, base=other_family)])
    with pytest.raises(ValueError, match=r"Concept 3 was trained on another checkpoint .*xyz, abc"):
        check_mergeable(
            [make_concept(i, 1) for i in (1, 2)] + [make_concept(3, 1, base=other_weights)]
        )
