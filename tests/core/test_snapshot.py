"""The state of a run in a file: all of it comes back, and nothing but it is believed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import nn

from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run
from detex_pack.detex.training.snapshot import read_snapshot, snapshot_bytes


class Method:
    """Two layers, one of which never gets a gradient, and a generator of its own."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(2, 2)
        with torch.no_grad():
            for parameter in (*self.used.parameters(), *self.idle.parameters()):
                parameter.normal_(generator=generator)
        self.learned = nn.ModuleDict({"used": self.used, "idle": self.idle})
        seeded = (torch.Generator().manual_seed(seed) for seed in (2, 3))
        self.rngs = dict(zip(("photos", "noise"), seeded, strict=True))

    def optimisers(self) -> dict[str, list[dict]]:
        return {
            "all": [
                {"params": list(self.used.parameters()), "lr": 0.1},
                {"params": list(self.idle.parameters()), "lr": 0.01},
            ]
        }


class Denoiser:
    device = "cpu"

    def grad_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)


def fresh_run() -> Run:
    return Run(Method(), Denoiser(), TrainConfig())


def step(run: Run) -> None:
    """What `take_step` does, with a loss that needs both generators."""
    optimiser = run.optimisers["all"]
    pixels = torch.randn(4, 3, generator=run.rngs["noise"])
    pixels = pixels + torch.randn(1, generator=run.rngs["photos"])
    loss = run.method.used(pixels).square().mean()
    run.scaler.scale(loss).backward()
    run.scaler.step(optimiser)
    run.scaler.update()
    optimiser.zero_grad(set_to_none=True)
    run.step += 1
    run.history.setdefault("diffusion", []).append(loss.detach())
    run.mark_between_steps()


@pytest.fixture
def run() -> Run:
    made = fresh_run()
    for _ in range(3):
        step(made)
    return made


@pytest.fixture
def file(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "step.safetensors"
    path.write_bytes(snapshot_bytes(run))
    return path


def test_run_goes_on_from_a_snapshot_to_the_same_bytes(run: Run, file: Path):
    other = fresh_run()
    read_snapshot(file).apply(other)
    for _ in range(3):
        step(run)
        step(other)
    mine, theirs = load(snapshot_bytes(run)), load(snapshot_bytes(other))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_every_part_of_the_state_comes_back(run: Run, file: Path):
    run.passes, run.steady = 2, {0: 0.5, 3: 0.25}
    run.scores = {2: {"looks like it": 0.75}}
    file.write_bytes(snapshot_bytes(run))
    other = fresh_run()
    read_snapshot(file).apply(other)
    assert (other.step, other.passes, other.steady) == (3, 2, {0: 0.5, 3: 0.25})
    assert other.scores == {2: {"looks like it": 0.75}}
    assert other.scaler.get_scale() == run.scaler.get_scale() == 128.0  # doubled once in 3 steps
    assert torch.equal(
        torch.stack(other.history["diffusion"]), torch.stack(run.history["diffusion"])
    )
    for name, rng in run.rngs.items():
        assert torch.equal(other.rngs[name].get_state(), rng.get_state())
    mine, theirs = (r.method.learned.parameters() for r in (run, other))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert set(other.optimisers["all"].state_dict()["state"]) == {
        0,
        1,
    }  # the idle layer has no moments


def test_later_change_of_the_run_does_not_reach_back_into_the_file(run: Run, file: Path):
    before = file.read_bytes()
    step(run)
    assert file.read_bytes() == before
    assert read_snapshot(file).scalars["step"] == 3


def test_file_is_plain_safetensors_with_json_in_its_header(file: Path):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        generator = opened.get_tensor("generator.photos")
    assert metadata["format"] == "detex-run-2"
    assert json.loads(metadata["scalars"])["step"] == 3
    assert generator.dtype == torch.uint8


def test_rewinding_undoes_what_a_broken_step_has_drawn(run: Run):
    expected = [torch.randn(2, generator=rng) for rng in run.rngs.values()]
    run.rewind()
    again = [torch.randn(2, generator=rng) for rng in run.rngs.values()]
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_cut_off_file_is_called_damaged(file: Path):
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="step.safetensors is damaged"):
        read_snapshot(file)


def test_empty_file_is_called_damaged(file: Path):
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        read_snapshot(file)


def test_snapshot_of_another_version_is_refused(file: Path):
    file.write_bytes(file.read_bytes().replace(b"detex-run-2", b"detex-run-9"))
    with pytest.raises(ValueError, match="written by another version of the pack"):
        read_snapshot(file)
