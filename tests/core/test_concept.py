"""The concept file: round trip, and what is refused with which words."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fakes import make_concept
from safetensors.torch import load, save

from detex_pack.detex.concept.file import (
    check_base,
    concept_bytes,
    load_concept,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dog.safetensors"
    path.write_bytes(concept_bytes(make_concept()))
    return path


@pytest.mark.parametrize("kind", ["words", "deltas"])
def test_tensors_survive_a_round_trip_bit_for_bit(tmp_path: Path, kind: str):
    concept = make_concept()
    path = tmp_path / "dog.safetensors"
    path.write_bytes(concept_bytes(concept))
    before, after = getattr(concept, kind), getattr(load_concept(path), kind)
    if kind == "words":
        before, after = ({k: v["l"] for k, v in w.items()} for w in (before, after))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "name",
    ["named", "class_word", "method", "base", "config", "report", "photo_hashes", "word_names"],
)
def test_facts_survive_a_round_trip(file: Path, name: str):
    assert getattr(load_concept(file), name) == getattr(make_concept(), name)


def test_thumbnails_survive_a_round_trip(file: Path):
    assert torch.equal(load_concept(file).thumbnails, make_concept().thumbnails)


def test_same_concept_gives_the_same_bytes():
    concept = make_concept()
    assert concept_bytes(concept) == concept_bytes(dataclasses.replace(concept))


def test_file_carries_its_format_and_version(file: Path):
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    metadata = header["__metadata__"]
    assert (metadata["format"], metadata["version"]) == ("detex-concept", "2")


def test_words_are_listed_in_reading_order():
    assert make_concept(3).word_names == ("V", "P1", "P2", "P3", "B1", "B2", "B3")


def test_eleventh_photo_comes_after_the_tenth():
    assert make_concept(11).word_names[9:12] == ("P9", "P10", "P11")


def test_custom_diffusion_concept_has_no_photo_words():
    concept = make_concept(0)
    assert (concept.photo_count, concept.word_names) == (0, ("V",))


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="There is no concept file .*lost.safetensors"):
        load_concept(tmp_path / "lost.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_called_damaged(file: Path, share: float):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=r"dog.safetensors is damaged or incomplete .*Copy it again"
    ):
        load_concept(file)


def test_text_file_is_called_damaged(file: Path):
    file.write_bytes(b"this is no tensor file at all" * 20)
    with pytest.raises(ValueError, match="dog.safetensors is damaged or incomplete"):
        load_concept(file)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_told_where_they_belong(file: Path, metadata: dict | None):
    file.write_bytes(save({"lora_unet_x.diff": torch.zeros(2, 2)}, metadata))
    with pytest.raises(
        ValueError, match=r"is not a DETEX concept file\. A LoRA goes into Load LoRA"
    ):
        load_concept(file)


@pytest.mark.parametrize("version", ["abc", "", "-1", "1.5"])
def test_version_that_is_no_number_is_called_damaged(file: Path, version: str):
    tensors = load(file.read_bytes())
    facts = {"format": "detex-concept", "version": version, "concept": "{}"}
    file.write_bytes(save(tensors, facts))
    with pytest.raises(ValueError, match=f"is damaged or incomplete .format '{version}'"):
        load_concept(file)


@pytest.mark.parametrize(
    "header",
    ["[]", "null", "{}", '{"named": 3}', "[" * 100_000, '{"named": [], "method": 1, "base": []}'],
)
def test_header_of_the_wrong_kind_is_called_damaged(file: Path, header: str):
    facts = {"format": "detex-concept", "version": "2", "concept": header}
    file.write_bytes(save(load(file.read_bytes()), facts))
    with pytest.raises(ValueError, match="dog.safetensors is damaged or incomplete"):
        load_concept(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["words", "deltas"])
def test_numbers_that_are_none_are_refused_by_their_name(tmp_path: Path, kind: str, value: float):
    concept, path = make_concept(), tmp_path / "dog.safetensors"
    if kind == "words":
        concept.words["P2"]["l"][0, 1] = value
    else:
        next(iter(concept.deltas.values()))[0, 0] = value
    path.write_bytes(concept_bytes(concept))
    with pytest.raises(ValueError, match=rf"{kind}\..* holds NaN or infinite numbers"):
        load_concept(path)


@pytest.mark.parametrize("lost", ["P2", "B1", "V"])
def test_missing_word_is_noticed(tmp_path: Path, lost: str):
    words = {name: towers for name, towers in make_concept().words.items() if name != lost}
    path = tmp_path / "dog.safetensors"
    path.write_bytes(concept_bytes(make_concept(words=words)))
    with pytest.raises(ValueError, match=r"damaged or incomplete \(the words"):
        load_concept(path)


def test_words_of_another_text_encoder_than_the_header_names_are_noticed(tmp_path: Path):
    concept, path = make_concept(), tmp_path / "dog.safetensors"
    base = dataclasses.replace(concept.base, tower="l+g")
    path.write_bytes(concept_bytes(dataclasses.replace(concept, base=base)))
    with pytest.raises(ValueError, match=r'words are not those of its text encoder "l\+g"'):
        load_concept(path)


def test_newer_version_asks_for_an_update(file: Path):
    tensors = load(file.read_bytes())
    file.write_bytes(save(tensors, {"format": "detex-concept", "version": "3", "concept": "{}"}))
    with pytest.raises(ValueError, match=r"has format 3; .* up to 2\. Update the DETEX nodes"):
        load_concept(file)


def test_wrong_family_is_refused_by_name():
    message = "trained on Stable Diffusion 1.x, but the MODEL wired here is Stable Diffusion 2.x"
    with pytest.raises(ValueError, match=message):
        check_base(make_concept(), "Stable Diffusion 2.x")


def test_same_family_is_accepted():
    check_base(make_concept(), "Stable Diffusion 1.x")


def test_clip_of_another_tower_is_refused_by_name():
    with pytest.raises(ValueError, match=r'another kind \("h"\).*Stable Diffusion 1.x'):
        make_concept().vectors("h")
