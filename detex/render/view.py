"""The finished jobs as the table names them: 0007_red_ball.png, and results.csv.

A picture is a link to the store's file, or a copy where the disk knows no links. So a row that
moves, or gets another name, takes its pictures along.
"""

import csv
import filecmp
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .files import read_json, replace_file, write_json
from .job import Job
from .store import JobStore, Record

RESULTS = "results.csv"
COLUMNS = ("row", "name", "status", "files", "server", "seconds", "error", "job")


class View:
    """What the folder of results shows of the store, for one table.

    `.jobs/shown.json` keeps which job the files of a row's name come from: {stem: key}.
    """

    def __init__(self, path: Path, store: JobStore, jobs: Sequence[Job]):
        self.path, self.store, self.jobs = path, store, jobs
        self._shown = store.path / "shown.json"

    def arrange(self) -> None:
        """Take away what an earlier table showed and this one does not, and show what is done.

        Raises ValueError, and changes nothing, where a file stands in the way that this command
        has not written or that was changed since.
        """
        before, now = read_json(self._shown), {job.stem: job.key for job in self.jobs}
        stale = {
            shown
            for stem, key in before.items()
            if now.get(stem) != key
            for shown, kept in self._files(stem, key)
            if shown.exists() and kept.exists() and filecmp.cmp(shown, kept)
        }
        self._refuse_foreign({s for s, key in now.items() if before.get(s) != key}, stale)
        for shown in stale:
            shown.unlink()
        write_json(self._shown, now)
        for job in self.jobs:
            self.show(job)

    def _refuse_foreign(self, stems: set[str], stale: set[Path]) -> None:
        if not self._shown.exists():
            stems = stems | {Path(RESULTS).stem}
        for path in self.path.iterdir():
            if path not in stale and {path.stem, path.stem.rpartition("_")[0]} & stems:
                raise ValueError(
                    f"{path} stands where a result will come, and this command has not written it, "
                    "or it was changed since. Move it away, or choose another --out."
                )

    def show(self, job: Job) -> None:
        """Link the job's files under the row's name; what is shown already stays."""
        for shown, kept in self._files(job.stem, job.key):
            if not shown.exists():
                _link(kept, shown)

    def _files(self, stem: str, key: str) -> Iterator[tuple[Path, Path]]:
        """(where it is shown, where it is kept) for each file of a job."""
        record = self.store.record(key)
        names = record.files if record else ()
        for number, name in enumerate(names, 1):
            ending = "" if len(names) == 1 else f"_{number}"
            shown = self.path / f"{stem}{ending}{Path(name).suffix}"
            yield shown, self.store.file(key, name)

    def write_results(self) -> None:
        """A line for each row. Raises PermissionError where another program holds the file."""
        text = io.StringIO(newline="")
        lines = csv.writer(text)
        lines.writerow(COLUMNS)
        for job in self.jobs:
            lines.writerow(self._line(job))
        replace_file(self.path / RESULTS, text.getvalue().encode("utf-8-sig"))

    def _line(self, job: Job) -> tuple[object, ...]:
        record = self.store.record(job.key) or Record("waiting")
        files = "; ".join(shown.name for shown, _ in self._files(job.stem, job.key))
        seconds = "" if record.seconds is None else f"{record.seconds:.1f}"
        return (job.row, job.name, record.status, files, record.server, seconds, record.error,
                job.key)  # fmt: skip


def _link(kept: Path, shown: Path) -> None:
    try:
        os.link(kept, shown)
    except OSError:  # a file system without links
        beside = shown.with_name(f".{shown.name}.part")
        shutil.copy2(kept, beside)
        os.replace(beside, shown)
