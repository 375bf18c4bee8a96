"""A run over a table, with servers that answer as the test says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated import Simulated

from detex_pack.detex.batch.client import ServerLost
from detex_pack.detex.batch.job import Job, by_weights, key_of, with_settings
from detex_pack.detex.batch.needs import Needs
from detex_pack.detex.batch.outbox import Sent
from detex_pack.detex.batch.run import Run
from detex_pack.detex.batch.server import Ending, Welcome
from detex_pack.detex.batch.store import JobStore
from detex_pack.detex.batch.view import View

BASE: dict[str, Any] = {"1": {"class_type": "Sampler", "inputs": {"seed": 0}}}
FAILED, LOST = Ending("failed", "node 1: no memory"), Ending("lost", "it was taken out")
AWAY = Ending("away", "http://b does not answer (refused).")


def painted(prompt: dict[str, Any]) -> Ending:
    return Ending("done", "", 1.0, (("1.png", f"seed {prompt['1']['inputs']['seed']}".encode()),))


def jobs_of(*seeds: int) -> list[Job]:
    keys = [key_of(with_settings(BASE, {("1", "seed"): seed})) for seed in seeds]
    return [
        Job(row, "", f"{row:04d}", key, {("1", "seed"): seed})
        for row, (key, seed) in enumerate(zip(keys, seeds, strict=True), 1)
    ]


class Folder:
    """The results of a table, and runs over it."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, engine: Simulated, jobs: Sequence[Job], needs: Needs = Needs()) -> Run:  # noqa: B008
        with JobStore(self.path / ".jobs") as store:
            view = View(self.path, store, jobs)
            view.arrange()
            run = Run(BASE, jobs, store, view, engine, needs, patience=0.5)
            run.go(lambda: None)
        return run

    def pictures(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.path.glob("*.png"))}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "out")


def seeds(prompts: Sequence[dict[str, Any]]) -> list[int]:
    return [prompt["1"]["inputs"]["seed"] for prompt in prompts]


def test_each_row_is_rendered_once_by_two_servers(folder):
    engine = Simulated({"A": [painted], "B": [painted]})
    run = folder.run(engine, jobs_of(1, 2, 3, 4, 5, 2))
    assert run.count().done == 6
    assert sorted(seeds(engine.rendered("A") + engine.rendered("B"))) == [1, 2, 3, 4, 5]
    shown = folder.pictures()
    assert shown["0002.png"] == shown["0006.png"] == b"seed 2"
    assert len(shown) == 6


def test_a_server_has_no_more_than_two_jobs_at_a_time(folder):
    engine = Simulated({"A": [painted]})
    folder.run(engine, jobs_of(1, 2, 3))
    begun = [method for _, method, _ in engine.calls]
    assert begun == ["enter", "render", "render", "render"]


def test_a_job_that_fails_is_tried_elsewhere_and_then_told(folder):
    engine = Simulated({"A": [FAILED], "B": [FAILED]})
    run = folder.run(engine, jobs_of(1))
    assert len(engine.rendered("A")) == len(engine.rendered("B")) == 1
    assert run.count().failed == 1
    assert run.notes == ["Row 1 failed on B: node 1: no memory"]


def test_a_job_that_a_server_loses_goes_to_another_at_once(folder):
    engine = Simulated({"A": [painted], "B": [AWAY]}, {"B": [Welcome(), AWAY]})
    run = folder.run(engine, jobs_of(1, 2, 3, 4))
    assert run.count().done == 4
    assert run.notes == [f"{AWAY.error} Trying again every 2 s."]


def test_a_job_that_dies_with_its_actor_goes_to_another(folder):
    def dies(_: object) -> Ending:
        raise ServerLost("card 1", "the actor died")

    engine = Simulated({"A": [painted], "B": [dies]}, {"B": [Welcome(), AWAY]})
    assert folder.run(engine, jobs_of(1, 2, 3)).count().done == 3


def test_a_server_that_comes_back_takes_part_again(folder):
    engine = Simulated({"B": [AWAY, AWAY, painted]})
    run = folder.run(engine, jobs_of(1, 2, 3))
    assert run.count().done == 3
    assert run.notes[-1] == "B answers again."


def test_what_was_asked_of_a_server_before_is_asked_by_the_same_id(folder):
    """The server then knows it, and a job that it has rendered meanwhile is only fetched."""
    jobs = jobs_of(1, 2)
    with JobStore(folder.path / ".jobs") as store:
        store.note_queued("asked before", jobs[1].key, "A")
    engine = Simulated({"A": [painted]})
    folder.run(engine, jobs)
    first = next(arguments for _, method, arguments in engine.calls if method == "render")
    assert first[0] == "asked before"
    assert seeds(engine.rendered("A")) == [2, 1]


def test_what_nobody_wants_any_more_is_taken_back(folder):
    with JobStore(folder.path / ".jobs") as store:
        store.note_queued("of another table", "old key", "A")
    engine = Simulated({"A": [painted]})
    folder.run(engine, jobs_of(1))
    assert ("A", "drop", (["of another table"],)) in engine.calls


def test_a_server_that_lacks_something_is_left_out_and_told(folder):
    lacks = Welcome(('it lacks "sd15.safetensors" (CheckpointLoaderSimple.ckpt_name)',))
    engine = Simulated({"A": [painted], "B": [painted]}, {"B": [lacks]})
    run = folder.run(engine, jobs_of(1, 2, 3))
    assert run.notes == [f"B is left out: {lacks.lacks[0]}."]
    assert engine.rendered("B") == []


def test_without_any_server_left_the_run_ends(folder):
    engine = Simulated({"A": [painted]}, {"A": [Welcome(("it has no node named X",))]})
    assert folder.run(engine, jobs_of(1)).count().open == 1


def test_files_are_sent_before_the_server_is_given_jobs(folder, tmp_path):
    (tmp_path / "dog.png").write_bytes(b"a dog")
    sent = Sent("input", "detex/dog-1.png", str(tmp_path / "dog.png"))
    engine = Simulated({"A": [painted]}, {"A": [Welcome(unsent=(sent.name,))]})
    folder.run(engine, jobs_of(1), Needs(files=(sent,)))
    assert [method for _, method, _ in engine.calls] == ["enter", "receive", "render"]
    assert engine.calls[1][2] == ([("input", "detex/dog-1.png")], b"a dog")


def test_waiting_behind_others_is_told_at_once(folder):
    engine = Simulated({"A": [painted]}, {"A": [Welcome(others=2)]})
    run = folder.run(engine, jobs_of(1))
    assert run.notes == ["A is busy with 2 other prompts; this table waits behind."]


def test_a_run_that_stops_has_its_prompts_taken_back(folder):
    engine = Simulated({"A": [painted]})

    def stop(prompt: dict[str, Any]) -> Ending:
        raise KeyboardInterrupt

    engine._answers["render"]["A"] = [stop]
    with pytest.raises(KeyboardInterrupt):
        folder.run(engine, jobs_of(1, 2, 3))
    second = [a[0] for _, method, a in engine.calls if method == "render"][1]
    assert engine.closed == {"A": [second]}


def test_rows_come_together_by_what_they_load():
    """The checkpoint, of which there are fewer, is changed last."""
    loads = [("k1", "c1"), ("k2", "c1"), ("k1", "c2"), ("k2", "c3"), ("k1", "c1")]
    jobs = [
        Job(row, "", "", f"j{row}", {("1", "file"): f"{c}.safetensors", ("2", "ckpt"): f"{k}.ckpt"})
        for row, (k, c) in enumerate(loads, 1)
    ]
    assert list(by_weights(jobs)) == ["j1", "j5", "j3", "j2", "j4"]
