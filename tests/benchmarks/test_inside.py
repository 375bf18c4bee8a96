"""Looking inside a training."""

import json
from pathlib import Path

import pytest
import torch

from detex_pack.benchmarks import arms, inside
from detex_pack.benchmarks import report as report_of
from detex_pack.benchmarks.cell import learn
from detex_pack.benchmarks.cells import Cell
from detex_pack.benchmarks.references import reference_photos, tuning_identities


def test_attention_that_lies_on_the_subject_alone_is_as_dense_as_the_subject_is_small():
    subject = torch.zeros(2, 4, 4, dtype=torch.bool)
    subject[:, :2, :2] = True  # a quarter of the picture
    maps = torch.stack([subject[0].float(), torch.ones(4, 4)])
    assert inside.concentration(maps, subject).tolist() == [4.0, 1.0]


def test_report_shows_the_means_of_the_subjects_and_dashes_where_an_arm_has_no_such_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def measured(value: float) -> dict:
        gradients = {"[V]": {"diffusion": value / 1000}}
        return {"norms": {"V": value}, "concentration": {"V": 2.0}, "gradients": gradients}

    runs = {"a": {"0": measured(1.0), "600": measured(3.0)}}
    runs["b"] = {"0": measured(2.0), "600": measured(4.0)}
    report = {"device": "none", "machine": "x", "commit": "c", "arms": {"custom_diffusion": runs}}
    (tmp_path / "inside.json").write_text(json.dumps(report))
    monkeypatch.setattr(report_of, "INSIDE", tmp_path / "inside.json")
    page = "\n".join(map(str, report_of.inside().values()))
    assert "| Custom Diffusion | 0 | 1.50 | - | - | - | - | 2.00 | - | - |" in page
    assert "| Custom Diffusion | [V] | 1.50 | 3.50 | - | - | - | - |" in page


@pytest.mark.slow
def test_measuring_leaves_the_training_as_it_was(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inside, "DRAWS", 2)
    identity = tuning_identities(1)[0]
    cell = Cell("improved", identity, steps=4)
    photos, arm = reference_photos(identity, 4, 0.75, 0), arms.ARMS[cell.arm]
    probe = inside.Probe(steps=(0, 2, 4))
    with torch.inference_mode():
        watched, alone = learn(arm, photos, cell, [probe]), learn(arm, photos, cell)
    assert watched is not None and alone is not None
    for (name, one), (_, other) in zip(
        sorted(watched.deltas.items()), sorted(alone.deltas.items()), strict=True
    ):
        assert torch.equal(one, other), name
    assert watched.report == alone.report
    assert list(probe.found) == [0, 2, 4]
    start = probe.found[0]
    assert start["gradients"]["mapper of [P]"].keys() == {"diffusion", "prior", "attention"}
    assert start["gradients"]["[V]"]["attention"] > 0  # [V] is held to the subject
    assert start["gradients"]["[V]"]["prior"] == 0  # prior prompts have no [V]
    assert start["gradients"]["K/V deltas"]["prior"] > 0
    assert set(start["concentration"]) == {"V", "P", "B"}
    assert start["norms"]["V"] > 0 and start["norms"]["P apart"] > 0
