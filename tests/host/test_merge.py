"""Merge Concepts on the host's models: both subjects in one concept that every node can use."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import comfy.sd
import nodes
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from test_deltas import assert_same, sampled_kv

from detex_pack.detex.concept.file import Concept, load_concept
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.export import Export, plan, write
from detex_pack.detex.host.text import compose, text_features
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.prompt.grammar import Named
from detex_pack.nodes.compose import ComposePrompt
from detex_pack.nodes.merge import MergeConcepts


@pytest.fixture(scope="module")
def other(train: Callable, subject: Photos) -> Concept:
    """A second subject of the same model, without words for its photos."""
    photos = dataclasses.replace(subject, named=(Named("V", "dog", "pose", (1, 2, 3)),))
    return train(CustomDiffusionConfig(), steps=3, photos=photos, seed=7)[0]


@pytest.fixture(scope="module")
def merged(clip: comfy.sd.CLIP, concept: Concept, other: Concept) -> Concept:
    return MergeConcepts.execute(clip, concept_1=concept, concept_2=other).args[0]


@pytest.mark.parametrize("text", ["photo of a [V] ball", "a cat", "[V] " * 3 + "far away"])
def test_features_are_those_of_the_conditioning(clip: comfy.sd.CLIP, concept: Concept, text: str):
    vectors = concept.vectors("l")
    features = text_features(clip, ["a dog", text], vectors)[1]
    cond = compose(clip, text, vectors)[0][0][0]  # [T, C]
    torch.testing.assert_close(features, cond[1 : len(features) + 1])
    assert torch.allclose(
        clip.encode_from_tokens(clip.tokenize("a dog"))[0, 3],
        text_features(clip, ["a dog"], {})[0][-1],
        atol=1e-6,
    )  # start, a, dog, end


def test_both_subjects_keep_their_keys_and_values(
    model: ModelPatcher, clip: comfy.sd.CLIP, merged: Concept, concept: Concept, other: Concept
):
    together = sampled_weights(apply_concept(model, merged, 1.0), merged)
    for part, word in ((concept, "V"), (other, "V2")):
        alone = sampled_weights(apply_concept(model, part, 1.0), part)
        text = f"photo of a [{word}] {part.class_word}"
        rows = text_features(clip, [text], merged.vectors("l"))[0][3:]  # off "photo of a"
        for name, weight in together.items():
            torch.testing.assert_close(rows @ weight.T, rows @ alone[name].T, atol=1e-4, rtol=0)


def sampled_weights(patched: ModelPatcher, concept: Concept) -> dict[str, torch.Tensor]:
    """The K and V matrices that ComfyUI samples with."""
    names = [f"diffusion_model.{name}.weight" for name in concept.deltas]
    return {name: patched.patch_weight_to_device(name, return_weight=True) for name in names}


def test_first_and_second_subject_are_composed_in_one_prompt(clip: comfy.sd.CLIP, merged: Concept):
    text = "photo of a [V] ball and a [V2] dog"
    conditioning, full = ComposePrompt.execute(clip, merged, text, 3, 0).args
    assert full == f"{text} with [P3] view"
    assert conditioning[0][0].isfinite().all()


def test_word_of_a_third_subject_is_refused_with_those_there_are(
    clip: comfy.sd.CLIP, merged: Concept
):
    with pytest.raises(ValueError, match=r"asks for \[V3\], but this concept has \[V\], \[V2\], "):
        ComposePrompt.execute(clip, merged, "a [V3] cup", 0, 0)


def test_merged_concept_survives_its_file(
    model_folders: Path, model: ModelPatcher, merged: Concept
):
    write(plan(merged, "both"))
    loaded = load_concept(model_folders / "detex" / "both.safetensors")
    assert loaded.word_names == merged.word_names
    assert loaded.attribute_of(1) == "view"
    assert_same(
        sampled_kv(apply_concept(model, loaded, 1.0), merged),
        sampled_kv(apply_concept(model, merged, 1.0), merged),
        atol=0,
    )


def test_exported_lora_is_the_merge_exactly_and_every_word_has_its_file(
    model_folders: Path, model: ModelPatcher, clip: comfy.sd.CLIP, merged: Concept
):
    files = plan(merged, "both", [Export.STOCK])
    write(files)
    names = {file.name for file in files}
    assert {"both_v.safetensors", "both_v2.safetensors", "both_p1.safetensors"} <= names
    stock = nodes.LoraLoader().load_lora(model, clip, "both_lora.safetensors", 1.0, 1.0)[0]
    assert_same(sampled_kv(stock, merged), sampled_kv(apply_concept(model, merged, 1.0), merged))


def test_node_says_which_word_is_whose(clip: comfy.sd.CLIP, concept: Concept, other: Concept):
    output = MergeConcepts.execute(clip, concept_1=concept, concept_2=other, concept_3=None)
    text = output.ui.as_dict()["text"][0]
    assert "[V] ball  photos 1 to 3" in text and "[V2] dog" in text
    assert "kept of each concept in long prompts: " in text


def test_clip_of_another_family_is_refused(concept: Concept, other: Concept):
    with pytest.raises(ValueError, match=r'words belong to the text encoder of .* kind \("h"\)'):
        MergeConcepts.execute(tiny.tiny_sd2_clip(), concept_1=concept, concept_2=other)


def test_one_wired_concept_is_refused(clip: comfy.sd.CLIP, concept: Concept):
    with pytest.raises(ValueError, match="Only one concept is wired"):
        MergeConcepts.execute(clip, concept_1=concept)


def test_node_names_the_concepts_that_can_hardly_be_told_apart(
    clip: comfy.sd.CLIP, concept: Concept
):
    other = dataclasses.replace(concept, photo_hashes=())  # of other photos, but alike
    output = MergeConcepts.execute(clip, concept_1=concept, concept_2=other)
    text = output.ui.as_dict()["text"][0]
    assert "ball and ball can hardly be told apart (overlap 100%)" in text


def test_one_subject_wired_twice_is_refused(clip: comfy.sd.CLIP, concept: Concept):
    with pytest.raises(ValueError, match="Concept 2 was learned from photos of concept 1"):
        MergeConcepts.execute(clip, concept_1=concept, concept_2=concept)
