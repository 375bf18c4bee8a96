"""Concept files that lack something, or come from a method of another version."""

import dataclasses
from pathlib import Path

import pytest

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.host.concepts import missing_layers, read_concept
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.dreambooth_lora import DreamboothLoraConfig
from detex_pack.detex.methods.textual_inversion import TextualInversionConfig

DATA = Path(__file__).parents[1] / "data" / "concepts_1"


def written(folder: Path, concept: Concept, **changes) -> Path:
    path = folder / "toy.safetensors"
    path.write_bytes(concept_bytes(dataclasses.replace(concept, **changes)))
    return path


def test_method_of_another_version_is_refused_by_its_name(tmp_path: Path, concept: Concept):
    path = written(tmp_path, concept, method="Tomorrow")
    wanted = 'toy.safetensors was made by the method "Tomorrow", which this .* Update the DETEX'
    with pytest.raises(ValueError, match=wanted):
        read_concept(path)


@pytest.mark.parametrize("file", sorted(DATA.glob("*.safetensors")), ids=lambda file: file.stem)
def test_whole_files_are_read(file: Path):
    assert read_concept(file).named


@pytest.mark.parametrize(
    "config", [CustomDiffusionConfig(), TextualInversionConfig(), DreamboothLoraConfig()]
)
def test_every_method_changes_a_kind_of_layer_everywhere(train, config):
    assert missing_layers(train(config, steps=1)[0]) == []


def test_missing_delta_is_told_by_its_layer(tmp_path: Path, concept: Concept):
    assert missing_layers(concept) == []
    lost = sorted(concept.deltas)[3]
    deltas = {name: delta for name, delta in concept.deltas.items() if name != lost}
    with pytest.raises(ValueError, match=f"1 layers are missing, such as {lost}"):
        read_concept(written(tmp_path, concept, deltas=deltas))


def test_layout_that_names_no_layers_is_refused(tmp_path: Path, concept: Concept):
    base = dataclasses.replace(concept.base, unet={})
    with pytest.raises(
        ValueError, match=r"toy.safetensors is damaged .*its UNet has no layer input"
    ):
        read_concept(written(tmp_path, concept, base=base))
