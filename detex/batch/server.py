"""What is done at one server: wait for it, give it what it lacks, render a job to its end there."""

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from .client import CONCEPT, Client, PromptError, ServerLost, failure
from .needs import Needs, lacking

ANSWER_WITHIN = 20.0  # s for one answer of a server
LOOK_FIRST, LOOK_EVERY = 0.02, 0.5  # s between two looks at the history, of a job's first moments
QUEUE_EVERY = 5.0  # s between two looks at the queue, whose answer may be long
KNOCK_EVERY = 2.0  # s between two tries to reach a lost server
LEAVE_PATIENCE = 5.0  # s that a server gets to take back its prompts

Answer = TypeVar("Answer")


class Welcome(NamedTuple):
    """How a server was found. lacks: what it has not of the jobs' needs, in words."""

    lacks: tuple[str, ...] = ()
    unsent: tuple[str, ...] = ()  # files of `Needs.files` that it does not have yet
    others: int = 0  # prompts of other people that run or wait there


class Ending(NamedTuple):
    """How a job ended at a server.

    status: "done"; "failed" at a node, or refused; "lost", dropped by a server that is in order;
    "away", lost with its server.
    """

    status: str
    error: str = ""
    seconds: float | None = None  # that the server computed
    files: tuple[tuple[str, bytes], ...] = ()


class Server:
    """One server. Its methods block, and may be called from several threads.

    patience: seconds without an answer after which a server that is only silent counts as lost.
    """

    def __init__(self, url: str, patience: float, headers: Mapping[str, str] | None = None):
        self.client = Client(url, ANSWER_WITHIN, headers)
        self.patience = patience
        self._closed = threading.Event()

    def object_info(self) -> dict[str, Any]:
        return self.client.object_info()

    def concept_words(self, name: str) -> list[str] | None:
        return self.client.concept_words(name)

    def enter(self, needs: Needs, noted: Collection[str], patient: bool) -> Welcome | Ending:  # noqa: FBT001
        """Look at a server that has come, or come back; patient: wait for it for ever if need be.

        noted: ids of the prompts that are this run's.
        """
        while True:
            try:
                lacks = lacking(needs, self.client.object_info())
                unsent = [f.name for f in needs.files if not self.client.has(f.folder, f.name)]
                others = self.client.queued() - set(noted)
            except ServerLost as error:
                if not patient or self._closed.wait(KNOCK_EVERY):
                    return Ending("away", str(error))
            else:
                return Welcome(tuple(lacks), tuple(unsent), len(others))

    def receive(self, places: Iterable[tuple[str, str]], *contents: bytes) -> Welcome | Ending:
        """Take files. places: (folder, name) of each."""
        refusals = []
        for (folder, name), content in zip(places, contents, strict=True):
            try:
                self._patiently(lambda f=folder, n=name, c=content: self.client.upload(f, n, c))
            except PromptError as error:  # or it is there, from a server with the same folders
                if not self.client.has(folder, name):
                    refusals.append(f"it does not take the file {name} ({error})")
            except ServerLost as error:
                return Ending("away", str(error))
        return Welcome(tuple(refusals))

    def render(self, prompt_id: str, prompt: dict[str, Any]) -> Ending:
        """Render the prompt to its end and bring its files.

        A prompt that the server knows by this id is not queued again, so that a call may be
        repeated, by a later run too.
        """
        try:
            self._patiently(lambda: self._queue_once(prompt_id, prompt))
            entry = self._entry(prompt_id)
            return self._brought(entry) if entry else _DROPPED
        except PromptError as error:
            return Ending("failed", str(error))
        except ServerLost as error:
            return Ending("away", str(error))

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask a silent server again. Raises ServerLost where it has stopped, or stays silent."""
        end = time.monotonic() + self.patience
        while True:
            try:
                return ask()
            except ServerLost as error:
                if error.stopped or self._closed.is_set() or time.monotonic() > end:
                    raise
            self._closed.wait(KNOCK_EVERY)

    def _queue_once(self, prompt_id: str, prompt: dict[str, Any]) -> None:
        if not (self.client.history(prompt_id) or prompt_id in self.client.queued()):
            self.client.queue(prompt, prompt_id=prompt_id)

    def _entry(self, prompt_id: str) -> dict[str, Any]:
        """The history entry, once it is there; {} where the server has dropped the prompt."""
        begin = queue_seen = time.monotonic()
        while not self._closed.is_set():
            entry = self._patiently(lambda: self.client.history(prompt_id))
            now = time.monotonic()
            if not entry and now - queue_seen > QUEUE_EVERY:
                queue_seen = now
                if prompt_id not in self._patiently(self.client.queued):
                    return self._patiently(lambda: self.client.history(prompt_id))
            if entry:
                return entry
            self._closed.wait(min(LOOK_EVERY, max(LOOK_FIRST, (now - begin) / 10)))
        return {}

    def _brought(self, entry: dict[str, Any]) -> Ending:
        status = entry.get("status") or {}
        messages = dict(status.get("messages") or [])
        if "execution_interrupted" in messages:
            return Ending("lost", "it was interrupted on the server")
        if status.get("status_str") == "error":
            return Ending("failed", str(failure(entry)))
        try:
            return Ending("done", "", _seconds(messages), tuple(self._files(entry)))
        except PromptError as error:
            return Ending("failed", f"a picture could not be fetched: {error}")

    def _files(self, entry: dict[str, Any]) -> Iterable[tuple[str, bytes]]:
        for number, file in enumerate(saved_files(entry), 1):
            content = self._patiently(lambda file=file: self.client.image(**file))
            yield f"{number}{PurePosixPath(file['filename']).suffix}", content

    def drop(self, prompt_ids: Iterable[str]) -> None:
        """Take these prompts out of the queue, where the server answers."""
        with suppress(ServerLost, PromptError):
            for prompt_id in prompt_ids:
                self.client.cancel(prompt_id)

    def close(self, prompt_ids: Iterable[str]) -> None:
        """Let what waits return, and drop these."""
        self._closed.set()
        self.client.patience = LEAVE_PATIENCE
        self.drop(prompt_ids)


_DROPPED = Ending("lost", "it was taken out of the server's queue")


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
    kept = [file for file in found if file["type"] in ("output", CONCEPT)] or found
    return [file for place, file in enumerate(kept) if file not in kept[:place]]


def _order(node: str) -> tuple[int, str]:
    return (int(node), "") if node.isdecimal() else (sys.maxsize, node)


def _seconds(messages: dict[str, dict[str, Any]]) -> float | None:
    """How long the server has computed, by its own clock."""
    begin = messages.get("execution_start", {}).get("timestamp")
    end = messages.get("execution_success", {}).get("timestamp")
    return None if begin is None or end is None else (end - begin) / 1000
