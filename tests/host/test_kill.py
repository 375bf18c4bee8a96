"""A training whose process is killed at random moments, over and over."""

import multiprocessing
import random
import sys
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import killed_run
import pytest

STEPS = 120
KILLS = 20


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Processes that start from scratch; where the system can, from one that has imported all."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run"])
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
