"""Cells on disk: named by what decides them, checked, and never trusted when damaged."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from detex_pack.benchmarks import arms, cells
from detex_pack.benchmarks.cells import Cell, DamagedCell, load, load_sound, store
from detex_pack.benchmarks.references import reported_identities
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.training.config import TrainConfig, as_json
from devtools import machine

CELL = Cell("detex", reported_identities(1)[0])
RESULT = {"judge": {"shape": "0123"}, "plain": "0000"}


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cells, "FILE", tmp_path / "cells.jsonl")
    return tmp_path / "cells.jsonl"


def test_a_result_comes_back_as_it_was_from_its_own_line(file: Path):
    other = dataclasses.replace(CELL, seed=1)
    assert load(CELL) is None
    store(CELL, RESULT)
    store(other, {"plain": "1"})
    assert (load(CELL), load(other)) == (RESULT, {"plain": "1"})
    assert file.read_text().count("\n") == 2


def test_the_last_line_of_a_cell_counts():
    store(CELL, RESULT)
    store(CELL, {"plain": "1"})
    assert load(CELL) == {"plain": "1"}


@pytest.mark.parametrize("keep", [0, 1, 30, 50, 100, -3, -1])
def test_a_line_cut_off_is_no_cell_and_leaves_none_behind(file: Path, keep: int):
    store(CELL, RESULT)
    file.write_bytes(file.read_bytes()[:keep])
    assert load(CELL) is None
    other = dataclasses.replace(CELL, seed=1)
    store(other, RESULT)
    assert (load(CELL), load(other)) == (None, RESULT)
    assert file.read_text().count("\n") == 1


def test_a_line_that_is_no_cell_is_damaged_not_read(file: Path):
    file.write_text(f'{{"key": "{CELL.key}", "recipe"\n')
    with pytest.raises(DamagedCell, match=r"is no whole cell"):
        load(CELL)
    assert load_sound(CELL) is None


def test_a_changed_number_is_noticed(file: Path):
    store(CELL, RESULT)
    file.write_text(file.read_text().replace("0123", "0124"))
    with pytest.raises(DamagedCell, match="checksum does not match"):
        load(CELL)


def test_another_cells_line_under_this_key_is_noticed(file: Path):
    other = dataclasses.replace(CELL, seed=1)
    store(other, RESULT)
    file.write_text(file.read_text().replace(other.key, CELL.key))
    with pytest.raises(DamagedCell, match="holds another cell"):
        load(CELL)


@pytest.mark.parametrize(
    "change",
    [
        {"arm": "no_joint"},
        {"identity": reported_identities(2)[1]},
        {"seed": 1},
        {"rho": 0.5},
        {"photos": 2},
        {"steps": 60},
    ],
)
def test_whatever_decides_the_result_changes_the_name(change: dict):
    assert dataclasses.replace(CELL, **change).key != CELL.key


def test_a_new_base_model_or_new_prompts_make_every_cell_new(monkeypatch: pytest.MonkeyPatch):
    before = CELL.key
    monkeypatch.setattr(cells.prompts, "VERSION", 99)
    after = CELL.key
    monkeypatch.setattr(cells, "sha256_of", lambda path: "other")
    assert len({before, after, CELL.key}) == 3


PAPER = {  # what cells leave out because the paper has it; a new setting's value here must be off
    "steps": 600, "batch_size": 4, "learning_rate": 1e-05, "kv_rate": 1.0, "token_rate": 1.0,
    "mapper_rate": 1.0, "weight_decay": 0.01, "gradient_clip": 1.0, "stratified_timesteps": False,
    "seed": 0, "attributes": "mappers", "gamma": 0.5, "attention_weight": 0.01,
    "prior_weight": 1.0, "attention_norm": "mse", "attention_map": "max",
    "subject_attention": False, "center_poses": False, "masked_pose": True, "masked_loss": False,
    "detach_start_token": True, "center_features": False, "plain_mapper": False,
    "relative_speed": False, "keep_weight": 0.0, "layout_noise": False,
    "reduction": "mean",
}  # fmt: skip


def test_what_cells_leave_out_is_still_the_papers():
    assert as_json(TrainConfig(), DetexConfig()) == PAPER


def test_a_setting_that_is_new_and_off_leaves_cells_as_they_are(monkeypatch: pytest.MonkeyPatch):
    before = CELL.key

    def with_another(*configs) -> dict:
        return as_json(*configs) | {"new_setting": False}

    monkeypatch.setattr(arms, "as_json", with_another)
    assert CELL.key == before


def test_the_base_model_does_not_depend_on_steps():
    assert CELL.base == dataclasses.replace(CELL, steps=75).base
    assert CELL.base.base == CELL.base


def test_no_two_arms_are_the_same_run():
    keys = [dataclasses.replace(CELL, arm=name).key for name in arms.ARMS]
    assert len(set(keys)) == len(keys)


def test_an_unknown_arm_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"There is no arm 'detox'.*custom_diffusion, detex"):
        arms.arm_named("detox")


def test_the_commit_tells_whether_the_code_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit.__wrapped__() == ""  # no checkout
    code, page = tmp_path / "code.py", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    for path in (code, page):
        path.touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    someone = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *someone, "commit", "-qm", "first"], cwd=tmp_path, check=True)
    page.write_text("figures")
    clean = machine.commit.__wrapped__()
    code.write_text("changed")
    assert clean.isalnum()
    assert machine.commit.__wrapped__() == f"{clean}+"
