"""Concepts as files: ours, and those that stock ComfyUI reads."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import comfy.sd
import nodes
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from test_deltas import assert_same, sampled_kv, trained_kv

from detex_pack.detex.concept.compress import low_rank
from detex_pack.detex.concept.file import Concept, concept_bytes, load_concept
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.export import Export, plan, write, write_planned
from detex_pack.detex.host.text import compose

ALL_FILES = ["toy.safetensors", "toy_lora.safetensors", "toy_v.safetensors"] + [
    f"toy_{word}{i}.safetensors" for word in "pb" for i in (1, 2, 3)
]


def save(concept: Concept, name: str, *exports: Export, share: float = 1.0) -> list[str]:
    files = plan(concept, name, exports, share)
    write(files)
    return [file.name for file in files]


def lora_file(concept: Concept, share: float = 1.0) -> bytes:
    return plan(concept, "toy", [Export.STOCK], share)[1].content


def stock_lora(model: ModelPatcher, clip: comfy.sd.CLIP, strength: float = 1.0) -> ModelPatcher:
    """The exported LoRA through ComfyUI's own node."""
    loader = nodes.LoraLoader()
    return loader.load_lora(model, clip, "toy_lora.safetensors", strength, strength)[0]


@pytest.fixture
def saved(model_folders: Path, concept: Concept) -> list[str]:
    return save(concept, "toy", Export.STOCK)


def test_stock_files_are_concept_lora_and_one_embedding_a_word(
    saved: list[str], model_folders: Path
):
    assert saved == ALL_FILES
    assert [path.name for path in (model_folders / "detex").iterdir()] == ALL_FILES[:1]
    assert [path.name for path in (model_folders / "loras").iterdir()] == ALL_FILES[1:2]
    names = {path.name for path in (model_folders / "embeddings").iterdir()}
    assert names == set(ALL_FILES[2:])


def test_stock_lora_loader_gives_the_k_and_v_of_training(
    saved: list[str], model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    stock = sampled_kv(stock_lora(model, clip), concept)
    assert_same(stock, trained_kv(model, concept))


def test_stock_lora_loader_gives_the_k_and_v_of_our_loader(
    saved: list[str], model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    stock = sampled_kv(stock_lora(model, clip, 0.6), concept)
    assert_same(stock, sampled_kv(apply_concept(model, concept, 0.6), concept))


def test_stock_lora_loader_applies_the_file_with_no_warning(
    saved: list[str],
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    concept: Concept,
    caplog: pytest.LogCaptureFixture,
):
    with caplog.at_level(logging.WARNING):
        patched = stock_lora(model, clip)
        sampled_kv(patched, concept)
    assert len(patched.patches) == 14
    assert [record.message for record in caplog.records] == []


def test_low_rank_lora_is_what_the_stock_loader_adds(
    model_folders: Path, model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    save(concept, "toy", Export.STOCK, share=0.6)
    products = {}
    for name, delta in concept.deltas.items():
        up, down = low_rank(delta, 0.6)
        products[name] = up @ down
    smaller = dataclasses.replace(concept, deltas=products)
    ours = sampled_kv(apply_concept(model, smaller, 1.0), concept)
    assert_same(sampled_kv(stock_lora(model, clip), concept), ours)
    assert (model_folders / "loras" / ALL_FILES[1]).stat().st_size < len(lora_file(concept))


def test_senseless_share_writes_nothing(model_folders: Path, concept: Concept):
    with pytest.raises(ValueError, match="must lie above 0 and up to 1, got 0"):
        save(concept, "toy", Export.STOCK, share=0)
    assert not any(path.is_file() for path in model_folders.rglob("*"))


def test_lora_and_a_second_concept_commute(
    saved: list[str], model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    one = apply_concept(stock_lora(model, clip), concept, 0.5)
    two = stock_lora(apply_concept(model, concept, 0.5), clip)
    assert_same(sampled_kv(one, concept), sampled_kv(two, concept))


def test_same_concept_gives_the_same_lora_bytes(model_folders: Path, concept: Concept):
    assert len({lora_file(concept) for _ in range(8)}) == 1


def test_lora_keys_are_kohyas(saved: list[str], model_folders: Path):
    with safe_open(model_folders / "loras" / "toy_lora.safetensors", framework="pt") as file:
        keys = set(file.keys())
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2"
    assert {f"{stem}_to_k.diff", f"{stem}_to_v.diff"} <= keys
    assert len(keys) == 14


@pytest.mark.parametrize("word", ["V", "P2", "B3"])
def test_embedding_file_gives_the_conditioning_of_compose(
    saved: list[str], model_folders: Path, concept: Concept, word: str
):
    clip = tiny.tiny_clip([str(model_folders / "embeddings")])
    ours = compose(clip, f"photo of a [{word}] ball", concept.vectors("l"))
    text = f"photo of a embedding:toy_{word.lower()} ball"
    (stock,) = nodes.CLIPTextEncode().encode(clip, text)
    assert torch.equal(ours[0][0], stock[0][0])
    assert torch.equal(ours[0][1]["pooled_output"], stock[0][1]["pooled_output"])


def test_all_stock_embeddings_together_give_the_conditioning_of_compose(
    saved: list[str], model_folders: Path, concept: Concept
):
    clip = tiny.tiny_clip([str(model_folders / "embeddings")])
    ours = compose(clip, "([V]:1.3) ball with [P1] view in [B2] background", concept.vectors("l"))
    text = "(embedding:toy_v :1.3) ball with embedding:toy_p1 view in embedding:toy_b2 background"
    (stock,) = nodes.CLIPTextEncode().encode(clip, text)
    assert torch.equal(ours[0][0], stock[0][0])


def test_saving_twice_keeps_both(model_folders: Path, concept: Concept):
    first, second = (save(concept, "toy")[0] for _ in range(2))
    assert (first, second) == ("toy.safetensors", "toy_2.safetensors")
    assert len(list((model_folders / "detex").iterdir())) == 2


def test_one_taken_name_renames_every_file_of_the_set(model_folders: Path, concept: Concept):
    (model_folders / "embeddings" / "toy_b3.safetensors").write_bytes(b"mine")
    names = save(concept, "toy", Export.STOCK)
    assert names[0] == "toy_2.safetensors"
    assert "toy_2_b3.safetensors" in names
    assert (model_folders / "embeddings" / "toy_b3.safetensors").read_bytes() == b"mine"


def test_many_that_save_one_name_at_once_all_get_a_number(model_folders: Path, concept: Concept):
    with ThreadPoolExecutor(8) as pool:
        saves = [
            pool.submit(write_planned, partial(plan, concept, "dog", {Export.STOCK}))
            for _ in range(24)
        ]
        names = [save.result()[0].name for save in saves]
    assert len(set(names)) == 24
    for folder, files_of_each in (("detex", 1), ("loras", 1), ("embeddings", len(concept.words))):
        assert len(list((model_folders / folder).iterdir())) == 24 * files_of_each


def test_saved_concept_is_the_one_in_memory(model_folders: Path, concept: Concept):
    (name,) = save(concept, "My Dog!")
    assert name == "my_dog.safetensors"
    loaded = load_concept(model_folders / "detex" / name)
    assert concept_bytes(loaded) == concept_bytes(concept)


def test_no_half_written_file_is_left_beside(saved: list[str], model_folders: Path):
    assert not list(model_folders.rglob("*.part"))
