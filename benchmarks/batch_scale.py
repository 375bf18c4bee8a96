"""What a run costs its driver: with the real store, and simulated for 1,000 cards.

The servers are simulated: each has a rendered picture ready when it is asked. Measured are the
driver's milliseconds a job with everything it writes (6,000 rows over 4 and over 1,000 servers),
and its memory and time for 1,000,000 rows with a store that writes nothing.
"""

import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from detex_pack.detex.batch.job import Job, make_jobs
from detex_pack.detex.batch.run import Run
from detex_pack.detex.batch.server import Ending, Welcome
from detex_pack.detex.batch.store import STORE, JobStore, Record
from detex_pack.detex.batch.table import Row, Table
from detex_pack.detex.batch.view import View
from detex_pack.detex.batch.workflow import Input

RENDERED = Ending("done", "", 2.0, (("1.png", os.urandom(100_000)),))
WORKFLOW: dict[str, Any] = {
    str(n): {"class_type": f"Node{n}", "inputs": {"text": "a photo of a dog " * 4, "seed": n}}
    for n in range(12)
}
INPUTS = [
    Input("0", "Positive", "Node0", "text", "STRING", {}),
    Input("1", "KSampler", "Node1", "seed", "INT", {}),
]


class Ready:
    """An engine whose calls have ended as soon as they begin; the oldest is served first."""

    def __init__(self, servers: int):
        self.servers = tuple(f"card {n}" for n in range(servers))
        self._numbers = itertools.count()
        self._begun: deque[tuple[int, str]] = deque()

    def call(self, server: str, method: str, *arguments: Any) -> tuple[int, str]:  # noqa: ARG002
        self._begun.append((next(self._numbers), method))
        return self._begun[-1]

    def wait(self, calls: Collection[Any], timeout: float) -> list[Any]:  # noqa: ARG002
        return [self._begun.popleft()]

    def result(self, call: tuple[int, str]) -> Any:
        return Welcome() if call[1] == "enter" else RENDERED

    def share(self, content: bytes) -> bytes:
        return content

    def close(self, queued: dict[str, list[str]]) -> None:
        pass


class Weightless(JobStore):
    """A store that remembers and writes nothing."""

    def keep(self, key: str, record: Record, files: Iterable[tuple[str, bytes]] = ()) -> None:
        names = {name: key for name, _ in files}
        self._records[key] = Record(record.status, record.server, record.seconds, names)

    def write_queued(self) -> None:
        pass


class Unseen(View):
    def show(self, job: Job) -> None:
        pass


def table(rows: int) -> Table:
    cells = ({"Positive.text": f"a [V] dog, picture {n}", "seed": str(n)} for n in range(rows))
    return Table(("Positive.text", "seed"), tuple(Row(n, c) for n, c in enumerate(cells, 1)))


def memory() -> int:
    return psutil.Process().memory_info().rss


def cost(rows: int, servers: int, store: type[JobStore], view: type[View]) -> dict[str, Any]:
    """Time and memory of a run over so many rows."""
    before = memory()
    begin = time.perf_counter()
    jobs = make_jobs(table(rows), WORKFLOW, INPUTS)
    made = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, store(Path(folder) / STORE) as opened:
        shown = view(Path(folder), opened, jobs, ("Positive.text", "seed"))
        if view is View:
            shown.arrange()
        run = Run(WORKFLOW, jobs, opened, shown, Ready(servers))
        seen: list[int] = []
        run.go(lambda: seen.append(memory()) if run.count().done % 1000 == 0 else None)
        ended = time.perf_counter()
        shown.write_results()
        written = time.perf_counter()
        assert run.count().done == rows
        folders = max(len(files) + len(dirs) for _, dirs, files in os.walk(folder))
    return {
        "rows": rows,
        "servers": servers,
        "read_table_s": round(made - begin, 1),
        "ms_a_job": round(1000 * (ended - made) / rows, 3),
        "write_results_s": round(written - ended, 2),
        "memory_mb": round((max(seen) - before) / 2**20),
        "memory_growth_mb": round((seen[-1] - seen[len(seen) // 10]) / 2**20),
        "entries_of_the_largest_folder": folders,
    }


def scale(_: Path, *, seed: int, rows: int, kept: int) -> Iterator[dict[str, Any]]:  # noqa: ARG001
    """rows: of the simulated store. kept: of the real one."""
    runs = []
    for case in (
        (rows, 1000, Weightless, Unseen),
        (kept, 4, JobStore, View),
        (kept, 1000, JobStore, View),
    ):
        runs.append(cost(*case))
        yield {"runs": runs}
