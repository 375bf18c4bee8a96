"""One server's part of a run: keep its queue filled, bring home what it has rendered."""

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from .batch import Batch
from .client import Client, PromptError, ServerLost, failure
from .store import Record
from .workflow import missing_nodes

QUEUED = 2  # prompts at a server: one runs, one waits, so that it never idles
LOOK_EVERY = 0.5  # s between two looks at the history
QUEUE_EVERY = 5.0  # s between two looks at the queue, whose answer may be long
KNOCK_EVERY = 2.0  # s between two tries to reach a lost server
LEAVE_PATIENCE = 5.0  # s that a server gets to take back its prompts


class Worker:
    """Renders the batch's jobs on one server until there are none or the batch stops.

    patience: seconds without an answer after which the server's jobs go to others.
    """

    def __init__(self, client: Client, batch: Batch, patience: float):
        self.client, self.batch, self.patience = client, batch, patience
        self.url = client.url
        self._in_flight: dict[str, str] = {}  # prompt id -> key
        self._known = False  # whether the server was looked at since it was last away
        self._away_since: float | None = None
        self._queue_seen = 0.0

    def run(self) -> None:
        """Returns when the batch is over, or if the server lacks a node of the workflow."""
        try:
            while not self.batch.over:
                try:
                    if not (self._known or self._enter()):
                        return
                    self._collect()
                    self._fill()
                except ServerLost as error:
                    self._on_silence(error)
                    self.batch.stop.wait(KNOCK_EVERY)
                else:
                    self._on_answer()
                    self.batch.stop.wait(LOOK_EVERY)
        finally:
            self._take_back()

    def _on_answer(self) -> None:
        if self._away_since is not None:
            self._away_since = None
            self.batch.notes.append(f"{self.url} answers again.")

    def _enter(self) -> bool:
        """Look at a server that has come, or come back -> whether it has the workflow's nodes."""
        missing = missing_nodes(self.batch.workflow, self.client.object_info())
        if missing:
            names = ", ".join(missing)
            self.batch.notes.append(f"{self.url} is left out: it has no node named {names}.")
            self.batch.leave(self.url)
            return False
        self._adopt()
        self._known = True
        self.batch.schedule.come(self.url)
        return True

    def _adopt(self) -> None:
        """Go on with what this server was asked for before; take back what is not wanted now."""
        asked = self.batch.store.queued_at(self.url)
        here = self.client.queued() if asked else set()
        for prompt_id, key in asked.items():
            if prompt_id in self._in_flight:
                continue
            is_known = prompt_id in here or self.client.history(prompt_id)
            if is_known and self.batch.schedule.adopt(key):
                self._in_flight[prompt_id] = key
            else:
                self._cancel(prompt_id)

    def _cancel(self, prompt_id: str) -> None:
        self.client.cancel(prompt_id)
        self.batch.store.note_home(prompt_id)

    def _fill(self) -> None:
        while len(self._in_flight) < QUEUED and not self.batch.over:
            key = self.batch.schedule.take(self.url)
            if key is None:
                return
            prompt_id = str(uuid.uuid4())
            self._in_flight[prompt_id] = key
            self.batch.store.note_queued(prompt_id, key, self.url)
            try:
                self.client.queue(self.batch.prompt(key), prompt_id=prompt_id)
            except PromptError as error:
                self._forget(prompt_id)
                self.batch.fail(key, self.url, str(error))

    def _forget(self, prompt_id: str) -> None:
        del self._in_flight[prompt_id]
        self.batch.store.note_home(prompt_id)

    def _collect(self) -> None:
        """Bring home what has ended; find out what the server does not know of any more."""
        for prompt_id, key in list(self._in_flight.items()):
            entry = self.client.history(prompt_id)
            if entry:
                self._bring_home(key, entry)
                self._forget(prompt_id)
        if self._in_flight and time.monotonic() - self._queue_seen > QUEUE_EVERY:
            self._queue_seen = time.monotonic()
            here = self.client.queued()
            for prompt_id in self._in_flight.keys() - here:
                if not self.client.history(prompt_id):
                    key = self._in_flight[prompt_id]
                    self._forget(prompt_id)
                    self.batch.lose(key, self.url, "it was taken out of the server's queue")

    def _bring_home(self, key: str, entry: dict[str, Any]) -> None:
        status = entry.get("status") or {}
        messages = dict(status.get("messages") or [])
        if "execution_interrupted" in messages:
            self.batch.lose(key, self.url, "it was interrupted on the server")
        elif status.get("status_str") == "error":
            self.batch.fail(key, self.url, str(failure(entry)))
        else:
            try:
                record = Record("done", self.url, _seconds(messages))
                self.batch.finish(key, record, self._files(entry))
            except PromptError as error:
                self.batch.fail(key, self.url, f"a picture could not be fetched: {error}")

    def _files(self, entry: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        for number, file in enumerate(saved_files(entry), 1):
            yield f"{number}{PurePosixPath(file['filename']).suffix}", self.client.image(**file)

    def _on_silence(self, error: ServerLost) -> None:
        """Give its jobs to others: at once where the server has stopped, else after a while."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self.batch.notes.append(f"{error} Trying again every {KNOCK_EVERY:.0f} s.")
        is_late = now - self._away_since > self.patience
        if error.stopped or is_late:
            self._known = False
            for key in self._in_flight.values():
                self.batch.lose(key, self.url, f"the server was lost with it ({error})")
            self._in_flight.clear()  # not forgotten: the server may come back with them
        if is_late:
            self.batch.leave(self.url)

    def _take_back(self) -> None:
        self.client.patience = LEAVE_PATIENCE
        with suppress(ServerLost, PromptError):
            for prompt_id in self._in_flight:
                self._cancel(prompt_id)


def saved_files(entry: dict[str, Any]) -> list[dict[str, str]]:
    """What the nodes have saved, in the order of the nodes' numbers: filename, subfolder, type.

    Files of the temporary folder (previews) count only where nothing else was saved.
    """
    outputs = sorted((entry.get("outputs") or {}).items(), key=lambda item: _order(item[0]))
    found = [
        {"filename": file["filename"], "subfolder": file.get("subfolder", ""), "type": kind}
        for _, output in outputs
        for values in output.values()
        for file in (values if isinstance(values, list) else [])
        if isinstance(file, dict) and file.get("filename")
        for kind in [file.get("type", "output")]
    ]
    kept = [file for file in found if file["type"] == "output"] or found
    return [file for place, file in enumerate(kept) if file not in kept[:place]]


def _order(node: str) -> tuple[int, str]:
    return (int(node), "") if node.isdecimal() else (sys.maxsize, node)


def _seconds(messages: dict[str, dict[str, Any]]) -> float | None:
    """How long the server has computed, by its own clock."""
    begin = messages.get("execution_start", {}).get("timestamp")
    end = messages.get("execution_success", {}).get("timestamp")
    return None if begin is None or end is None else (end - begin) / 1000
