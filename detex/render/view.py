"""The finished jobs as the table names them: 0007_red_ball.png, and results.csv.

A picture is a copy of the store's file, so that who edits it does not change what is kept. A row
that moves, or gets another name, takes its pictures along.
"""

import csv
import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..concept.files import digest_of, read_json, replace_file, write_json
from .job import Job
from .store import JobStore, Record

RESULTS = "results.csv"
COLUMNS = ("row", "name", "status", "files", "server", "seconds", "error", "job")


class View:
    """What the folder of results shows of the store, for one table.

    `.jobs/shown.json` keeps what this command has shown: {file name: SHA-256 of its content}. A
    file with another content is the user's, and stays.
    """

    def __init__(self, path: Path, store: JobStore, jobs: Sequence[Job]):
        self.path, self.store, self.jobs = path, store, jobs
        self._list = store.path / "shown.json"
        self._shown: dict[str, str] = {}
        self._changed: set[str] = set()  # names of results under which the user's files stand
        self._guard = threading.Lock()

    def arrange(self) -> None:
        """Take away what an earlier run showed and the store or the table has no more, and show
        what is done.

        Raises ValueError, and changes nothing, where a file stands in the way that this command
        has not written or that was changed since.
        """
        before = read_json(
            self._list, f"Delete it and {RESULTS}; pictures are then known by their content."
        )
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
        for name in stale:
            (self.path / name).unlink()
        self._changed = changed
        self._note(wanted)
        for job in self.jobs:
            self.show(job)

    def _refuse_foreign(self, foreign: set[str], stale: set[str]) -> None:
        stems = {job.stem for job in self.jobs if self.store.record(job.key) is None}
        if not self._list.exists():
            stems.add(Path(RESULTS).stem)
        for path in self.path.iterdir():
            comes = {path.stem, re.sub(r"_\d+$", "", path.stem)} & stems
            if path.name in foreign or (comes and path.name not in stale):
                raise ValueError(
                    f"{path} stands where a result will come, and this command has not written it, "
                    "or it was changed since. Move it away, or choose another --out."
                )

    def _note(self, files: Mapping[str, str]) -> None:
        """Remember, before it is written, that these files are this command's."""
        self._shown.update(files)
        write_json(self._list, self._shown)

    def show(self, job: Job) -> None:
        """Copy the job's files under the row's name; a file that is there already stays."""
        with self._guard:
            for name, kept, digest in self._files(job.stem, job.key):
                is_noted = self._shown.get(name) == digest
                if (self.path / name).exists():
                    if not is_noted:
                        self._changed.add(name)
                    continue
                if not is_noted:
                    self._note({name: digest})
                replace_file(self.path / name, kept.read_bytes())

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
        lines.writerow(COLUMNS)
        for job in self.jobs:
            lines.writerow(self._line(job))
        replace_file(self.path / RESULTS, text.getvalue().encode("utf-8-sig"))

    def _line(self, job: Job) -> tuple[object, ...]:
        record = self.store.record(job.key) or Record("waiting")
        names = [name for name, _, _ in self._files(job.stem, job.key)]
        files = "; ".join(name for name in names if name not in self._changed)
        seconds = "" if record.seconds is None else f"{record.seconds:.1f}"
        return (job.row, job.name, record.status, files, record.server, seconds, record.error,
                job.key)  # fmt: skip
