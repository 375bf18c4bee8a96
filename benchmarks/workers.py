"""Processes that run cells side by side; a crash of one loses its cell, not the grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict
from queue import SimpleQueue
from threading import Lock
from typing import IO, Any

from .cells import ROOT, STRIPS, Cell

Answer = dict[str, Any]  # {"seconds": {...}} or {"error": "..."}
COMMAND = (sys.executable, "-m", "benchmarks.cell")


class Worker:
    """One process of benchmarks.cell, started when first needed and after each crash."""

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.command = command
        self.log = STRIPS / f"worker_{number}.log"
        self.process: subprocess.Popen | None = None
        self._lock = Lock()  # one thread runs the cells, another stops
        self._stopped = False

    def run(self, line: str) -> Answer:
        """Sends one cell and waits for its answer."""
        process = self._started()
        try:
            to, back = self._pipes(process)
            to.write(line)
            to.flush()
            answer = back.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        with process:  # closes its pipes
            status = process.wait()
        return {"error": f"the process ended with status {status}; see {self.log}"}

    @staticmethod
    def _pipes(process: subprocess.Popen) -> tuple[IO[str], IO[str]]:
        assert process.stdin is not None and process.stdout is not None
        return process.stdin, process.stdout

    def stop(self) -> None:
        """Ends the process, mid-cell if need be; another is not started."""
        with self._lock:
            self._stopped = True
            if self.process is not None and self.process.poll() is None:
                with self.process:
                    self.process.terminate()

    def _started(self) -> subprocess.Popen:
        with self._lock:
            if self._stopped:
                raise RuntimeError("This worker was stopped.")
            if self.process is None or self.process.poll() is not None:
                self.process = self._new()
            return self.process

    def _new(self) -> subprocess.Popen:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )


def run_cells(
    cells: Sequence[Cell], count: int, command: Sequence[str] = COMMAND
) -> Generator[tuple[Cell, Answer], None, None]:
    """Runs every cell on `count` workers and gives each as it is done.

    Closing the iterator stops the workers.
    """
    if not cells:
        return
    workers = [Worker(number, command) for number in range(count)]
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def job(cell: Cell) -> Answer:
        worker = free.get()
        try:
            return worker.run(json.dumps(asdict(cell)) + "\n")
        finally:
            free.put(worker)

    with ThreadPoolExecutor(count) as pool:
        pending = {pool.submit(job, cell): cell for cell in cells}
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        finally:
            for future in pending:
                future.cancel()
            for worker in workers:
                worker.stop()
