"""A full, a read-only and a vanishing disk under all that writes: the message says path, what was
needed and what is free, and nothing partial is left.

The disk is a real one, a tmpfs of some hundred kilobytes, so these tests need root on Linux. What
can be tried without is in test_paths.py, test_resume.py and tests/batch/test_results.py.
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import killed_writers
import pytest

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.host.runs import ResumeStore
from detex_pack.detex.training.loop import Run, Watcher
from detex_pack.detex.training.snapshot import read_snapshot

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a disk: needs root on Linux"
)
SIZE = 4_000_000  # bytes
TOLD = {  # writer -> what its message must hold besides
    "full": r"could not be written: No space left on device\. The files need \d+\.\d MB, and "
    r"0\.\d MB are free there\. Nothing was left behind",
    "read-only": r"could not be written: Read-only file system\. .* MB are free there",
    "vanished": r"could not be written: .*\. The files need .* MB, and the disk does not answer\.",
}


class Disk:
    """A small disk at `path`: a link to where it is mounted, to nowhere once the disk is gone."""

    def __init__(self, folder: Path):
        self.mounted, self.path = folder / "mounted", folder / "disk"
        self.mounted.mkdir()
        self.path.symlink_to(self.mounted)
        mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", self.mounted)

    def fill(self) -> None:
        free = os.statvfs(self.mounted)
        (self.mounted / "other").write_bytes(bytes((free.f_bavail - 1) * free.f_frsize))

    def lose(self) -> None:
        subprocess.run(["umount", self.mounted], check=True)
        self.mounted.rmdir()

    def fail(self, how: str) -> None:
        if how == "full":
            self.fill()
        elif how == "read-only":
            mount("-o", "remount,ro", self.mounted)
        else:
            self.lose()

    def mend(self) -> None:
        if not self.mounted.exists():
            self.mounted.mkdir()
            mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", self.mounted)
        mount("-o", "remount,rw", self.mounted)
        (self.mounted / "other").unlink(missing_ok=True)

    def files(self) -> list[str]:
        found = (path.relative_to(self.mounted) for path in self.mounted.rglob("*"))
        return sorted(str(path) for path in found if str(path) != "other")


def mount(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    for name in killed_writers.MODELS:
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([], set()))
    monkeypatch.setattr(folder_paths, "output_directory", folder_paths.output_directory)
    made = Disk(tmp_path)
    yield made
    subprocess.run(["umount", made.mounted], check=False, capture_output=True)


@pytest.fixture
def done() -> SimpleNamespace:
    return SimpleNamespace(value=0)


# of the batch, which are whole: no picture, no record
LISTS = ("results.csv", ".jobs", ".jobs/lock", ".jobs/queued.json", ".jobs/shown.jsonl")
WORK = {"save": 2, "prior": 2, "places": 1, "batch": 4}


def prepared(disk: Disk, writer: str, concept: Concept) -> None:
    """What the writer starts from; Save has a disk with the models' folders on it."""
    for name in killed_writers.MODELS if writer == "save" else ():
        (disk.mounted / name).mkdir()
    (disk.mounted / "concept.safetensors").write_bytes(concept_bytes(concept))


@pytest.mark.parametrize("how", TOLD)
@pytest.mark.parametrize("writer", WORK)
def test_a_disk_that_refuses_is_told_and_nothing_partial_is_left(
    writer: str, how: str, disk: Disk, done: SimpleNamespace, concept: Concept, monkeypatch
):
    prepared(disk, writer, concept)
    write = killed_writers.WRITERS[writer]
    monkeypatch.setattr(killed_writers, "load_concept", lambda _: concept)  # read before
    before = disk.files()
    disk.fail(how)
    with pytest.raises(OSError, match=TOLD[how]) as told:
        write(disk.path, WORK[writer], done)
    assert str(disk.path) in str(told.value)
    disk.mend()
    if how == "vanished":
        prepared(disk, writer, concept)
    else:
        assert [name for name in disk.files() if name not in (*before, *LISTS)] == []
    write(disk.path, WORK[writer], done)  # it goes on, once there is a disk again
    assert done.value >= WORK[writer]
    assert not list(disk.mounted.rglob("*.part"))


class Failing(Watcher):
    """The disk fails after the second step, and is back after the fourth."""

    def __init__(self, disk: Disk, how: str):
        self.disk, self.how = disk, how

    def on_step(self, run: Run) -> None:
        if run.step == 2:
            self.disk.fail(self.how)
        if run.step == 4:
            self.disk.mend()


@pytest.mark.parametrize("how", TOLD)
def test_a_training_goes_on_without_the_snapshots_that_the_disk_refuses(
    how: str, disk: Disk, train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(folder_paths, "user_directory", str(disk.path))
    with caplog.at_level(logging.WARNING, "detex"):
        concept, _ = train(None, Failing(disk, how), steps=6, store=ResumeStore(1))
    told = [r.getMessage() for r in caplog.records if "cannot be kept" in r.getMessage()]
    assert len(told) == 1 and re.search(TOLD[how], told[0])
    assert "step_000002.safetensors" in told[0] or "step_000003.safetensors" in told[0]
    assert concept_bytes(concept) == concept_bytes(train(steps=6)[0])
    kept = sorted(disk.mounted.rglob("step_*"))
    assert [read_snapshot(path).scalars["step"] for path in kept] == [6]
    assert not list(disk.mounted.rglob("*.part"))
