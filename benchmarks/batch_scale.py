"""What a run costs its driver: with the real store, and simulated for 1,000 cards.

    python -m benchmarks.batch_scale --out runs/batch_scale.json

The servers are simulated: each has a rendered picture ready when it is asked. Measured are the
driver's milliseconds a job with everything it writes (5,000 rows over 4 and over 1,000 servers),
and its memory and time for 1,000,000 rows with a store that writes nothing. docs/batch_rendering.md
has the result.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import psutil

from devtools.pack_host import register_pack

register_pack()

from detex_pack.detex.batch.job import Job, make_jobs
from detex_pack.detex.batch.run import Run
from detex_pack.detex.batch.server import Ending, Welcome
from detex_pack.detex.batch.store import STORE, JobStore, Record
from detex_pack.detex.batch.table import Row, Table
from detex_pack.detex.batch.view import View
from detex_pack.detex.batch.workflow import Input

PICTURE = os.urandom(100_000)
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
        self._begun: deque[int] = deque()
        self._answers: dict[int, Any] = {}
        self._count = 0

    def call(self, server: str, method: str, *arguments: Any) -> int:  # noqa: ARG002
        self._count += 1
        ending = Ending("done", "", 2.0, (("1.png", PICTURE),))
        self._answers[self._count] = Welcome() if method == "enter" else ending
        self._begun.append(self._count)
        return self._count

    def wait(self, calls: Collection[int], timeout: float) -> list[int]:  # noqa: ARG002
        return [self._begun.popleft()]

    def result(self, call: int) -> Any:
        return self._answers.pop(call)

    def share(self, content: bytes) -> bytes:
        return content

    def close(self, queued: dict[str, list[str]]) -> None:
        pass


class Weightless(JobStore):
    """A store that remembers and writes nothing."""

    def keep(self, key: str, record: Record, files: Iterable[tuple[str, bytes]] = ()) -> None:
        self._records[key] = Record(record.status, record.server, record.seconds,
                                    {name: key for name, _ in files})  # fmt: skip

    def write_queued(self) -> None:
        pass


class Unseen(View):
    def show(self, job: Job) -> None:
        pass


def table(rows: int) -> Table:
    cells = ({"Positive.text": f"a [V] dog, picture {n}", "seed": str(n)} for n in range(rows))
    return Table(("Positive.text", "seed"), tuple(Row(n, c) for n, c in enumerate(cells, 1)))


def measured(rows: int, servers: int, store: type[JobStore], view: type[View]) -> dict[str, Any]:
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


def memory() -> int:
    return psutil.Process().memory_info().rss


def facts() -> dict[str, str]:
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = []
    for rows, servers, store, view in (
        (1_000_000, 1000, Weightless, Unseen),
        (6000, 4, JobStore, View),
        (6000, 1000, JobStore, View),
    ):
        runs.append(measured(rows, servers, store, view))
        print(json.dumps(runs[-1]), flush=True)
        options.out.write_text(json.dumps({**facts(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
