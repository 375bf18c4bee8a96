"""Save Decoupled Embeddings: what it writes, and what it shows before it does."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host.export import Export, plan
from detex_pack.detex.unet.deltas import LowRank
from detex_pack.nodes.concept import SaveEmbeddings


def run(concept: Concept, **widgets) -> tuple[str, str]:
    """-> the output, and the text on the node."""
    output = SaveEmbeddings.execute(concept, **{"name": "toy", "stock_files": True} | widgets)
    return output.result[0], output.ui.as_dict()["text"][0]


def written(models: Path) -> list[Path]:
    return [path for path in models.rglob("*") if path.is_file()]


@pytest.fixture
def decompositions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of each matrix whose singular value decomposition was computed."""
    shapes: list[tuple[int, ...]] = []

    def counted(svd: Callable) -> Callable:
        def run(matrix: torch.Tensor, *args, **options):
            shapes.append(tuple(matrix.shape))
            return svd(matrix, *args, **options)

        return run

    for name in ("svd", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, counted(getattr(torch.linalg, name)))
    return shapes


def of_low_rank(concept: Concept, rank: int) -> Concept:
    """The same with random deltas of this rank, as those of Stable Diffusion XL."""
    deltas = {
        name: LowRank(torch.randn(delta.shape[0], rank), torch.randn(rank, delta.shape[1]))
        for name, delta in concept.deltas.items()
    }
    return dataclasses.replace(concept, deltas=deltas)


def test_dry_run_shows_the_files_and_writes_none(model_folders: Path, concept: Concept):
    file, text = run(concept, dry_run=True, diffusers_folder=True)
    assert file == "toy.safetensors"
    assert text.startswith("Dry run, nothing is saved:\n")
    assert "loras: toy_lora.safetensors, " in text
    assert "embeddings: toy_v.safetensors and 6 more, " in text
    assert "diffusers: toy/, " in text
    assert not written(model_folders)


def test_rank_size_and_error_are_those_of_the_file_at_that_share(
    model_folders: Path, concept: Concept
):
    _, text = run(concept, dry_run=True)
    line = next(line for line in text.splitlines() if line.startswith("0.6: rank "))
    _, chosen = run(concept, dry_run=True, lora_share=0.6)
    assert f"{line}  <- this one" in chosen.splitlines()
    _, written_then = run(concept, lora_share=0.6)
    assert f"LoRA of share {line}\n" in written_then
    size = len(plan(concept, "other", [Export.STOCK], 0.6)[1].content)
    assert f"loras: toy_lora.safetensors, {size / 1e6:.3f} MB" in written_then


def test_save_says_in_a_line_how_each_program_takes_the_files(
    model_folders: Path, concept: Concept
):
    _, text = run(concept, diffusers_folder=True)
    subject = concept.named[0].class_word
    assert text.partition("How to use it:\n")[2].splitlines() == [
        f"this pack: Load Decoupled Embeddings; photo of a [V] {subject}",
        f"ComfyUI: Load LoRA toy_lora; photo of a embedding:toy_v {subject}",
        f"A1111, Forge: <lora:toy_lora:1> photo of a toy_v {subject}",
        f"diffusers: toy/README.md; photo of a <toy_v> {subject}",
    ]
    for name in ("loras/toy_lora", "embeddings/toy_v"):
        assert (model_folders / f"{name}.safetensors").is_file()
    _, again = run(concept, stock_files=False)
    assert again.splitlines()[-1] == (
        f"this pack: Load Decoupled Embeddings; photo of a [V] {subject}"
    )


def test_word_without_deltas_needs_no_lora(model_folders: Path, concept: Concept):
    _, text = run(dataclasses.replace(concept, deltas={}))
    assert f"ComfyUI: photo of a embedding:toy_v {concept.named[0].class_word}" in text
    assert "<lora" not in text


def test_full_deltas_have_no_error(model_folders: Path, concept: Concept):
    _, text = run(concept, dry_run=True)
    assert "1: full deltas, " in text and "error 0.0%  <- this one" in text


def test_low_rank_deltas_are_named_by_their_rank(model_folders: Path, concept: Concept):
    _, text = run(of_low_rank(concept, 4), dry_run=True)
    assert "1: rank 4, as trained, " in text and "full deltas" not in text


def test_saving_all_of_the_deltas_shows_the_files_and_decomposes_nothing(
    model_folders: Path, concept: Concept, decompositions: list
):
    _, text = run(concept, diffusers_folder=True)
    heads = [line.partition(":")[0] for line in text.partition("\nHow to use it:")[0].splitlines()]
    assert heads == ["Saved in models", "detex", "loras", "embeddings", "diffusers"]
    assert not decompositions


@pytest.mark.parametrize("dry_run", [True, False])
def test_each_matrix_is_decomposed_once(
    model_folders: Path, concept: Concept, decompositions: list, dry_run: bool
):
    run(concept, lora_share=0.6, diffusers_folder=True, dry_run=dry_run)
    assert decompositions == [delta.shape for delta in concept.deltas.values()]


def test_share_of_the_page_has_one_line_in_the_table(model_folders: Path, concept: Concept):
    _, text = run(concept, lora_share=0.05 * 12, dry_run=True)  # 0.6000000000000001
    assert sum(line.startswith("0.6") for line in text.splitlines()) == 1


def test_concept_alone_has_no_table(model_folders: Path, concept: Concept):
    _, text = run(concept, stock_files=False)
    assert text.startswith("Saved in models:\ndetex: toy.safetensors, ") and "rank" not in text
    _, dry = run(concept, stock_files=False, dry_run=True, lora_share=0.6)
    assert "rank" not in dry
    assert [path.name for path in written(model_folders)] == ["toy.safetensors"]


@pytest.mark.parametrize("stock_files", [True, False])
def test_diffusers_folder_is_written_with_and_without_the_stock_files(
    model_folders: Path, concept: Concept, stock_files: bool
):
    run(concept, stock_files=stock_files, diffusers_folder=True)
    folder = model_folders / "diffusers" / "toy"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "pytorch_lora_weights.safetensors",
        "words",
    ]
    assert bool(written(model_folders / "loras")) == stock_files
