"""One run over a table: every job is rendered once, by whichever server is free."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .client import ServerLost
from .engine import QUEUED, Call, Engine
from .job import Job, by_weights
from .jobqueue import JobQueue
from .needs import Needs
from .server import KNOCK_EVERY, Ending, Welcome
from .store import JobStore, Record
from .view import View
from .workflow import Prompt

SHOW_EVERY = 0.5  # s between two looks at the bar


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


class Task(NamedTuple):
    """What a call is for: a job, or without one the wait for a server."""

    server: str
    key: str = ""
    prompt_id: str = ""
    since: float = 0.0  # by the wall clock


class Run:
    """The jobs of a table, to be rendered by the servers of an engine.

    workflow: the API prompt that the rows' values are put into. patience: seconds without any
    server after which the run ends. `notes` are lines for the user, oldest first.
    """

    def __init__(
        self,
        workflow: Prompt,
        jobs: Sequence[Job],
        store: JobStore,
        view: View,
        engine: Engine,
        needs: Needs = Needs(),  # noqa: B008
        patience: float = 60.0,
    ):
        self.workflow, self.store, self.view, self.engine = workflow, store, view, engine
        self.needs, self.patience = needs, patience
        self.jobs: dict[str, list[Job]] = {}
        for job in jobs:
            self.jobs.setdefault(job.key, []).append(job)
        self._ended = {"done": 0, "failed": 0}
        waiting = []
        for key, rows in self.jobs.items():
            record = store.record(key)
            if record:
                self._ended[record.status] += len(rows)
            else:
                waiting.append(rows[0])
        self.queue = JobQueue(by_weights(waiting))
        self.rows, self._before = len(jobs), sum(self._ended.values())
        self.tasks: dict[Call, Task] = {}
        self.notes: list[str] = []
        self.present: set[str] = set()  # servers that are given jobs
        self._away = dict.fromkeys(engine.servers, time.monotonic())  # since when
        self._told: set[str] = set()  # of them, those that the user was told of
        self._busy: Counter[str] = Counter()  # server -> how many jobs it has
        self._free: set[str] = set()  # servers that may have one more
        self._errors: dict[str, Record] = {}
        self._shared: dict[str, object] = {}  # the content of files to send, by name

    def go(self, look: Callable[[], None]) -> None:
        """Render until nothing is left to do. look: called about every SHOW_EVERY seconds."""
        try:
            for server in self.engine.servers:
                self._enter(server, patient=False)
            while not self.over:
                self._fill()
                for call in self.engine.wait(self.tasks.keys(), SHOW_EVERY):
                    self._settle(self.tasks.pop(call), call)
                if self.queue.troubled:
                    for key in self.queue.hopeless(self._hoped_for()):
                        self._give_up(key)
                look()
        finally:
            self._stop()

    @property
    def over(self) -> bool:
        finished = self.queue.empty and not self._busy.total()
        return finished or self.queue.broken or not (self.present or self._hoped_for())

    @property
    def away(self) -> frozenset[str]:
        """The servers that are waited for."""
        return frozenset(self._away)

    def _hoped_for(self) -> set[str]:
        """The servers that are there, or away for no longer than the patience."""
        now = time.monotonic()
        return self.present | {s for s, t in self._away.items() if now - t <= self.patience}

    def _enter(self, server: str, *, patient: bool = True) -> None:
        """Ask the server whether it is there; patient: until it is."""
        noted = list(self.store.queued_at(server))
        call = self.engine.call(server, "enter", self.needs, noted, patient)
        self.tasks[call] = Task(server)

    def _settle(self, task: Task, call: Call) -> None:
        try:
            answer = self.engine.result(call)
        except ServerLost as error:  # what called the server has died, with its card or machine
            answer = Ending("away", str(error))
        if task.key:
            self._busy[task.server] -= 1
            self._free.add(task.server)
            self._on_ending(task, answer)
        elif isinstance(answer, Welcome):
            self._welcome(task.server, answer)
        elif answer is not None:
            self._lose(task.server, answer.error)

    def _welcome(self, server: str, found: Welcome) -> None:
        """Take the server in, once it has every file that can be sent."""
        if found.unsent and not found.lacks:
            self._send(server, found.unsent)
            return
        self._away.pop(server, None)
        if found.lacks:
            self.notes.append(f"{server} is left out: {'; '.join(found.lacks)}.")
            return
        if server in self._told:
            self._told.remove(server)
            self.notes.append(f"{server} answers again.")
        if found.others:
            many = f"{found.others} other prompt{'s' * (found.others > 1)}"
            self.notes.append(f"{server} is busy with {many}; this table waits behind.")
        self._drop_unwanted(server)
        self.present.add(server)
        self._free.add(server)

    def _drop_unwanted(self, server: str) -> None:
        """Take back what the server still has of this run and what was done elsewhere since."""
        here = {task.prompt_id for task in self.tasks.values() if task.server == server}
        noted = self.store.queued_at(server).items()
        unwanted = [i for i, key in noted if key not in self.queue and i not in here]
        if unwanted:
            self.tasks[self.engine.call(server, "drop", unwanted)] = Task(server)
            for prompt_id in unwanted:
                self.store.note_home(server, prompt_id)

    def _send(self, server: str, names: Iterable[str]) -> None:
        files = {file.name: file for file in self.needs.files}
        for name in names:
            if name not in self._shared:
                self._shared[name] = self.engine.share(Path(files[name].path).read_bytes())
        places = [(files[name].folder, name) for name in names]
        contents = [self._shared[name] for name in names]
        self.tasks[self.engine.call(server, "receive", places, *contents)] = Task(server)

    def _fill(self) -> None:
        """Give each server that is there as many jobs as it may have."""
        for server in sorted(self._free & self.present) if not self.queue.empty else ():
            while not self.queue.broken:
                if self._busy[server] >= QUEUED:
                    self._free.remove(server)
                    break
                noted = {key: i for i, key in self.store.queued_at(server).items()}
                key = next((key for key in noted if self.queue.adopt(key)), None)
                key = key or self.queue.take(server)
                if key is None:
                    break
                self._render(server, key, noted.get(key) or str(uuid.uuid4()))

    def _render(self, server: str, key: str, prompt_id: str) -> None:
        self.store.note_queued(prompt_id, key, server)
        prompt = self.jobs[key][0].prompt(self.workflow)
        call = self.engine.call(server, "render", prompt_id, prompt)
        self.tasks[call] = Task(server, key, prompt_id, time.time())
        self._busy[server] += 1

    def _on_ending(self, task: Task, ending: Ending) -> None:
        """Keep what a job has brought, or let it be tried again."""
        self._errors[task.key] = Record("failed", task.server, error=ending.error)
        given_up = False
        if ending.status == "done":
            self._finish(task, ending)
        elif ending.status == "failed":
            given_up = self.queue.failed(task.key, task.server, self._hoped_for())
        else:
            given_up = self.queue.lost(task.key)
        if ending.status == "away":  # its prompt stays noted: the server may come back with it
            self._lose(task.server, ending.error)
        else:
            self.store.note_home(task.server, task.prompt_id)
        if given_up:
            self._give_up(task.key)

    def _finish(self, task: Task, ending: Ending) -> None:
        """Bring the job home and show it under the name of each of its rows."""
        record = Record("done", task.server, ending.seconds)
        self.store.keep(task.key, record, ending.files)
        for job in self.jobs[task.key]:
            self.view.show(job)
        self._ended["done"] += len(self.jobs[task.key])
        self.queue.done()

    def _lose(self, server: str, reason: str) -> None:
        """The server has gone, or was not there: wait for it."""
        if server in self._told:
            return
        self._told.add(server)
        self.present.discard(server)
        self._away.setdefault(server, time.monotonic())
        self.notes.append(f"{reason} Trying again every {KNOCK_EVERY:.0f} s.")
        self._enter(server)

    def _give_up(self, key: str) -> None:
        record = self._errors[key]
        self.store.keep(key, record)
        self._ended["failed"] += len(self.jobs[key])
        numbers = [str(job.row) for job in self.jobs[key]]
        rows = f"Row{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
        self.notes.append(f"{rows} failed on {record.server}: {record.error}")

    def _stop(self) -> None:
        """Have the servers take back what they were asked for."""
        queued: dict[str, list[str]] = {}
        for task in self.tasks.values():
            if task.key:
                queued.setdefault(task.server, []).append(task.prompt_id)
        self.engine.close(queued)
        with suppress(OSError):  # a full disk has ended the run
            for server, ids in queued.items():
                for prompt_id in ids:
                    self.store.note_home(server, prompt_id)
            self.store.write_queued()

    def count(self) -> Count:
        return Count(self.rows, self._ended["done"], self._ended["failed"], self._before)
