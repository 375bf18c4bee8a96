"""Concept files and workflows of earlier versions go on working.

`data/concepts_1`: what version 0.1 saved, format 1, of the cases in test_bytes.py and a merge;
`data/workflows_0.1`: its workflows and blueprints.
"""

import json
from pathlib import Path

import comfy.supported_models
import nodes
import pytest
import tiny
import torch

from detex_pack.detex.concept.file import load_concept
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.text import compose

DATA = Path(__file__).parents[1] / "data"
PHOTOS = {"detex": 3, "detex_xl": 3, "custom_diffusion": 0, "merged": 3}


@pytest.mark.parametrize("name", PHOTOS)
def test_concept_of_format_1_applies_and_composes(name: str):
    concept = load_concept(DATA / "concepts_1" / f"{name}.safetensors")
    assert concept.photo_count == PHOTOS[name]
    wide = name.endswith("xl")
    family = comfy.supported_models.SDXL if wide else comfy.supported_models.SD15
    model, clip = tiny.tiny_model(family), (tiny.tiny_sdxl_clip if wide else tiny.tiny_clip)()
    patched = apply_concept(model, concept, 1.0)
    assert len(patched.patches) == len(concept.deltas)
    words = concept.vectors(concept.base.tower)
    text = " ".join(f"[{word}]" for word in concept.word_names)
    composed, plain = (compose(clip, t, words)[0][0][0] for t in (text, "a ball"))
    assert torch.isfinite(composed).all()
    assert not torch.equal(composed, plain)


def test_merged_concept_of_format_1_keeps_its_subjects():
    concept = load_concept(DATA / "concepts_1" / "merged.safetensors")
    assert concept.word_names == ("V", "V2", "P1", "P2", "P3", "B1", "B2", "B3")
    assert [concept.attribute_of(i) for i in (1, 2, 3)] == ["view"] * 3
    assert concept.class_word == "ball and dog"


@pytest.mark.parametrize(
    "path", sorted((DATA / "workflows_0.1").glob("*.json")), ids=lambda p: p.stem
)
def test_workflow_of_version_0_1_fits_the_nodes_of_today(path: Path, registered: None):
    """Each of its nodes is there, with the inputs that it links, and takes its values."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    inner = [n for s in workflow.get("definitions", {}).get("subgraphs", []) for n in s["nodes"]]
    for node in (*workflow["nodes"], *inner):
        if not node["type"].startswith("DETEX"):
            continue
        schema = nodes.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()
        known = {name for kind in ("required", "optional") for name in schema.get(kind, {})}
        linked = {socket["name"] for socket in node.get("inputs", [])}
        assert linked <= known, node["type"]
