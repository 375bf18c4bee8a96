"""Processes that answer questions, JSON for JSON, a line each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from devtools.machine import ROOT


class Worker:
    """One process, started when it is first needed, and again after it has died."""

    def __init__(self, command: Sequence[str], log: Path | None = None) -> None:
        """log: where its stderr goes, in place of ours."""
        self.command, self.log = command, log
        self.process: subprocess.Popen | None = None
        self._lock = Lock()  # one thread asks, another stops
        self._stopped = False

    def start(self) -> subprocess.Popen:
        with self._lock:
            if self._stopped:
                raise RuntimeError("This worker was stopped.")
            if self.process is None or self.process.poll() is not None:
                self.process = self._new()
            return self.process

    def _new(self) -> subprocess.Popen:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        if self.log is None:
            return subprocess.Popen(self.command, cwd=ROOT, text=True, **pipes)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            return subprocess.Popen(self.command, cwd=ROOT, text=True, stderr=log, **pipes)

    def ask(self, question: Any) -> Any:
        """Send it and wait for the answer. Raises RuntimeError where the process ends instead."""
        process = self.start()
        try:
            print(json.dumps(question), file=process.stdin, flush=True)
            answer = process.stdout.readline() if process.stdout else ""
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        with suppress(BrokenPipeError), process:  # closes its pipes
            process.wait()
        told = f"see {self.log}" if self.log else "its message is above"
        raise RuntimeError(f"the process ended with status {process.returncode}; {told}")

    def stop(self) -> None:
        """End the process, whatever it does; another is not started."""
        with self._lock:
            self._stopped = True
            if self.process is not None and self.process.poll() is None:
                with suppress(BrokenPipeError), self.process:
                    self.process.terminate()


def take_stdout() -> TextIO:
    """In a worker: where answers go. What else is printed from now on goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(answer: Callable[[Any], Any], answers: TextIO) -> None:
    """In a worker: answer every question, until there are no more."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
