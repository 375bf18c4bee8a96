"""One run over a table: what its workers share."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .job import Job
from .schedule import Schedule
from .store import JobStore, Record
from .view import View
from .workflow import Prompt


@dataclass(frozen=True)
class Count:
    """How far the run is, in rows."""

    rows: int
    done: int
    failed: int
    before: int  # of `done` and `failed`, what an earlier run left

    @property
    def open(self) -> int:
        return self.rows - self.done - self.failed


class Batch:
    """The jobs of a table, to be rendered by some servers.

    workflow: the API prompt that the rows' values are put into. `stop` ends the run early; `notes`
    are lines for the user, oldest first.
    """

    def __init__(
        self,
        workflow: Prompt,
        jobs: Sequence[Job],
        store: JobStore,
        view: View,
        servers: Iterable[str],
    ):
        self.workflow, self.store, self.view = workflow, store, view
        self.jobs: dict[str, list[Job]] = {}
        for job in jobs:
            self.jobs.setdefault(job.key, []).append(job)
        waiting = [key for key in self.jobs if store.record(key) is None]
        self.schedule = Schedule(waiting, servers)
        self.stop = threading.Event()
        self.notes: list[str] = []
        self._before = len(jobs) - sum(len(self.jobs[key]) for key in waiting)
        self._errors: dict[str, Record] = {}

    @property
    def over(self) -> bool:
        """Whether the workers have nothing more to do."""
        schedule = self.schedule
        return self.stop.is_set() or schedule.finished or schedule.broken or not schedule.servers

    def prompt(self, key: str) -> Prompt:
        return self.jobs[key][0].prompt(self.workflow)

    def finish(self, key: str, record: Record, files: Iterable[tuple[str, bytes]]) -> None:
        """Bring the job home and show it under the name of each of its rows."""
        self.store.keep(key, record, files)
        for job in self.jobs[key]:
            self.view.show(job)
        self.schedule.done(key)

    def fail(self, key: str, server: str, error: str) -> None:
        """A node failed, or the server refused the job."""
        self._errors[key] = Record("failed", server, error=error)
        if self.schedule.failed(key, server):
            self._give_up(key)

    def lose(self, key: str, server: str, reason: str) -> None:
        """The server was lost with the job, or dropped it."""
        self._errors[key] = Record("failed", server, error=reason)
        if self.schedule.lost(key):
            self._give_up(key)

    def leave(self, server: str) -> None:
        """The server has gone, and with it the last hope of what failed on all others."""
        for key in self.schedule.leave(server):
            self._give_up(key)

    def _give_up(self, key: str) -> None:
        record = self._errors[key]
        self.store.keep(key, record)
        numbers = [str(job.row) for job in self.jobs[key]]
        rows = f"Row{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
        self.notes.append(f"{rows} failed on {record.server}: {record.error}")

    def count(self) -> Count:
        ended = {"done": 0, "failed": 0}
        for key, jobs in self.jobs.items():
            record = self.store.record(key)
            if record:
                ended[record.status] += len(jobs)
        rows = sum(len(jobs) for jobs in self.jobs.values())
        return Count(rows, ended["done"], ended["failed"], self._before)
