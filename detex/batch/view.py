"""The finished jobs as the table names them: 0007_red_ball.png, and results.csv.

A picture is a copy of the store's file, so that who edits it does not change what is kept. A row
that moves, or gets another name, takes its pictures along.
"""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..concept.files import clear_halves, digest_of, replace_file, telling
from .job import Job
from .store import JobStore, Record

RESULTS, SHEET = "results.csv", "contact_sheet.html"
COLUMNS = ("row", "name", "status", "files", "server", "seconds", "error", "job")


class View:
    """What the folder of results shows of the store, for one table; columns: those of the table.

    `.jobs/shown.jsonl` keeps what this command has shown, a line each: [file name, SHA-256 of its
    content]. A file with another content is the user's, and stays.
    """

    def __init__(
        self, path: Path, store: JobStore, jobs: Sequence[Job], columns: Sequence[str] = ()
    ):
        self.path, self.store, self.jobs, self.columns = path, store, jobs, columns
        self._list = store.path / "shown.jsonl"
        self._shown: dict[str, str] = {}
        self._changed: set[str] = set()  # names of results under which the user's files stand

    def arrange(self) -> None:
        """Take away what an earlier run showed and the store or the table has no more, and show
        what is done.

        Raises ValueError, and changes nothing, where a file stands in the way that this command
        has not written or that was changed since.
        """
        before = self._noted()
        wanted = {
            name: digest for job in self.jobs for name, _, digest in self._files(job.stem, job.key)
        }
        found = {
            name: digest_of(self.path / name)
            for name in before.keys() | wanted.keys()
            if (self.path / name).is_file()
        }
        stale = {n for n, digest in found.items() if before.get(n) == digest != wanted.get(n)}
        changed = {n for n in found.keys() & wanted.keys() - stale if found[n] != wanted[n]}
        self._refuse_foreign({n for n in changed if before.get(n) != wanted[n]}, stale)
        for folder in {self.path, *((self.path / n).parent for n in before.keys() | wanted.keys())}:
            if folder.is_dir():
                clear_halves(folder, math.inf)  # nobody else writes here: the store is locked
        for name in stale:
            (self.path / name).unlink()
        self._changed, self._shown = changed, wanted
        replace_file(self._list, b"".join(_line_of(*entry) for entry in wanted.items()))
        for job in self.jobs:
            self.show(job)

    def _noted(self) -> dict[str, str]:
        """What earlier runs have noted; the last line may be half written."""
        content = self._list.read_bytes() if self._list.exists() else b""
        try:
            return dict(json.loads(line) for line in content.split(b"\n")[:-1])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self._list} is damaged ({error}). Delete it and {RESULTS}; pictures are then "
                "known by their content."
            ) from error

    def _refuse_foreign(self, foreign: set[str], stale: set[str]) -> None:
        stems = {job.stem for job in self.jobs if self.store.record(job.key) is None}
        if not self._list.exists():
            stems |= {Path(RESULTS).stem, Path(SHEET).stem}
        for folder in {"", *(stem.rpartition("/")[0] for stem in stems)}:
            inside = self.path / folder
            for path in inside.iterdir() if inside.is_dir() else ():
                name = path.relative_to(self.path).as_posix()
                stem = name.removesuffix(path.suffix)
                comes = {stem, re.sub(r"_\d+$", "", stem)} & stems
                if name in foreign or (comes and name not in stale):
                    raise ValueError(
                        f"{path} stands where a result will come, and this command has not written "
                        "it, or it was changed since. Move it away, or choose another --out."
                    )

    def _note(self, name: str, digest: str) -> None:
        """Remember, before it is written, that this file is this command's."""
        self._shown[name] = digest
        line = _line_of(name, digest)
        with telling(self._list, len(line)), self._list.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def show(self, job: Job) -> None:
        """Copy the job's files under the row's name; a file that is there already stays."""
        for name, kept, digest in self._files(job.stem, job.key):
            is_noted = self._shown.get(name) == digest
            if (self.path / name).exists():
                if not is_noted:
                    self._changed.add(name)
                continue
            if not is_noted:
                self._note(name, digest)
            (self.path / name).parent.mkdir(exist_ok=True)
            replace_file(self.path / name, kept.read_bytes())

    def pictures(self, job: Job) -> list[str]:
        """The names of the row's files that stand there as they were rendered."""
        names = [name for name, _, _ in self._files(job.stem, job.key)]
        return [name for name in names if name not in self._changed]

    def _files(self, stem: str, key: str) -> Iterator[tuple[str, Path, str]]:
        """(name where it is shown, where it is kept, SHA-256) for each file of a job."""
        record = self.store.record(key)
        files = record.files if record else {}
        for number, (name, digest) in enumerate(files.items(), 1):
            ending = "" if len(files) == 1 else f"_{number}"
            yield f"{stem}{ending}{Path(name).suffix}", self.store.file(key, name), digest

    def write_results(self) -> None:
        """A line for each row. Raises PermissionError where another program holds the file."""
        text = io.StringIO(newline="")
        lines = csv.writer(text)
        lines.writerow([*COLUMNS, *(f"{c} (set)" if c in COLUMNS else c for c in self.columns)])
        for job in self.jobs:
            values = (job.cells.get(column, "") for column in self.columns)
            lines.writerow([*self._line(job), *values])
        replace_file(self.path / RESULTS, text.getvalue().encode("utf-8-sig"))

    def _line(self, job: Job) -> tuple[object, ...]:
        record = self.store.record(job.key) or Record("waiting")
        seconds = "" if record.seconds is None else f"{record.seconds:.1f}"
        return (job.row, job.name, record.status, "; ".join(self.pictures(job)), record.server,
                seconds, record.error, job.key)  # fmt: skip


def _line_of(name: str, digest: str) -> bytes:
    return json.dumps([name, digest]).encode() + b"\n"
