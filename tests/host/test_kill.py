"""Whatever writes, killed at random moments, over and over: whole files or none, resumed equal.

DETEX_KILLS=60 for as many moments of each writer as a release is tried with.
"""

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import killed_run
import killed_writers
import pytest

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.training.snapshot import read_snapshot

STEPS = 120
KILLS = 20
MOMENTS = int(os.environ.get("DETEX_KILLS", "2"))  # of each writer
PIECES = {"save": 2, "snapshot": 4, "prior": 3, "places": 2, "batch": 20}  # of work, a moment
SPAN = {"save": 0.05, "snapshot": 0.2, "prior": 0.2, "places": 0.2, "batch": 0.1}  # s
# what tells of the work as it is, and is not compared until the end
CHANGING = ("progress.json", "queued.json", "shown.jsonl", "results.csv", "lock")


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Processes that start from scratch; where the system can, from one that has imported all."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run", "killed_writers"])
    return context


class Trainer:
    """The training of killed_run.py in a process."""

    def __init__(self, processes: BaseContext, user: Path, concept: Path):
        self.done = processes.Value("i", -1, lock=False)  # a killed holder never lets go
        arguments = (str(user), str(concept), STEPS, self.done)
        self.process = processes.Process(target=killed_run.train_once, args=arguments)
        self.process.start()

    def wait_for(self, step: int) -> None:
        while self.done.value < step and self.process.is_alive():
            time.sleep(0.001)

    def resumed_at(self) -> int:
        self.wait_for(0)
        return self.done.value

    def finish(self) -> None:
        self.process.join()

    def kill(self) -> None:
        self.process.kill()  # SIGKILL, or TerminateProcess on Windows
        self.process.join()


@pytest.mark.slow
def test_run_killed_twenty_times_ends_with_the_same_bytes(
    processes: BaseContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the preload is found
    calm, often = tmp_path / "calm.bytes", tmp_path / "often.bytes"
    whole = Trainer(processes, tmp_path / "calm", calm)
    whole.finish()

    dice, starts = random.Random(0), []
    for _ in range(KILLS):
        trainer = Trainer(processes, tmp_path / "often", often)
        starts.append(trainer.resumed_at())
        trainer.wait_for(starts[-1] + dice.randint(0, 6))
        time.sleep(dice.random() * 0.05)  # into the next step, or into a file being written
        trainer.kill()
        assert not often.exists(), "the run was over before it had been killed often enough"
    last = Trainer(processes, tmp_path / "often", often)
    last.finish()

    assert starts == sorted(starts) and starts[-1] > 0  # it went on, each time from a later step
    assert often.read_bytes() == calm.read_bytes()
    assert not list((tmp_path / "often").rglob("*.part"))


class Worker:
    """A writer of killed_writers.py in a process."""

    def __init__(self, processes: BaseContext, writer: str, folder: Path, work: int):
        self.done = processes.Value("i", 0, lock=False)
        arguments = (writer, str(folder), work, self.done)
        self.process = processes.Process(target=killed_writers.work_in, args=arguments)
        self.process.start()

    def wait_for(self, done: int) -> int:
        """-> how much is done, a training's earlier steps included."""
        while self.done.value < done and self.process.is_alive():
            time.sleep(0.001)
        return self.done.value

    def finish(self) -> None:
        self.process.join()
        assert self.process.exitcode == 0

    def kill(self, pieces: int, seconds: float) -> None:
        """SIGKILL, so long after so many pieces beyond the first are done."""
        first = self.wait_for(1)
        self.wait_for(first + pieces)
        time.sleep(seconds)
        self.process.kill()
        self.process.join()


def visible(folder: Path) -> dict[str, bytes]:
    """The files, without the half ones."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if ".part" not in name}


def halves(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def check_whole(writer: str, folder: Path, calm: dict[str, bytes]) -> None:
    """What lies there after a kill is as if nobody had been killed, as far as it has come."""
    if writer == "snapshot":
        for path in folder.rglob("step_*.safetensors"):
            read_snapshot(path)
        return
    found = {k: v for k, v in visible(folder).items() if not k.endswith(CHANGING)}
    assert {name: found[name] for name in found.keys() & calm.keys()}.items() <= calm.items()
    if writer != "save":
        assert found.keys() <= calm.keys()
        return
    for concept in (folder / "detex").glob("*.safetensors"):  # it comes last of its set
        names = {name.replace("toy0", concept.stem) for name in calm if "toy0" in name}
        assert names <= found.keys()


def check_same(writer: str, folder: Path, calm: Path) -> None:
    """The end is that of an undisturbed run."""
    if writer == "save":  # a set that was killed half way has left its number to the next one
        saved = [path.read_bytes() for path in (folder / "detex").glob("*.safetensors")]
        assert saved == [next((calm / "detex").iterdir()).read_bytes()] * len(saved)
        assert len(saved) == len(list((calm / "detex").iterdir()))
    elif writer == "snapshot":
        assert (folder / "concept.bytes").read_bytes() == (calm / "concept.bytes").read_bytes()
    else:
        found, wanted = visible(folder), visible(calm)
        list_of_shown = ".jobs/shown.jsonl"  # in another order
        assert found.pop(list_of_shown, b"") or not wanted.pop(list_of_shown, b"")
        assert found == {name: wanted[name] for name in found}
        assert found.keys() == wanted.keys() - {list_of_shown}


def write_again(writer: str, folder: Path) -> int:
    """An hour later: the halves are old, and in each of their folders there is something to write
    -> more work.
    """
    for half in halves(folder):
        os.utime(half, (0, 0))
        for picture in half.parent.glob("00001.png"):
            picture.unlink()
    return writer == "save"


@pytest.mark.parametrize("writer", killed_writers.WRITERS)
def test_a_writer_killed_at_random_moments_leaves_whole_files_and_goes_on(
    writer: str,
    processes: BaseContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    concept: Concept,
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the preload is found
    dice, calm, often = random.Random(0), tmp_path / "calm", tmp_path / "often"
    work = PIECES[writer] * (MOMENTS + 1)
    for folder in (calm, often):
        folder.mkdir()
        (folder / "concept.safetensors").write_bytes(concept_bytes(concept))
    Worker(processes, writer, calm, work).finish()
    wanted = visible(calm)
    for _ in range(MOMENTS):
        Worker(processes, writer, often, work).kill(
            dice.randint(0, PIECES[writer] - 1), dice.random() * SPAN[writer]
        )
        check_whole(writer, often, wanted)
    Worker(processes, writer, often, work).finish()
    check_same(writer, often, calm)
    if halves(often):
        Worker(processes, writer, often, work + write_again(writer, often)).finish()
    assert not halves(often)
