"""Which server renders which job, and when a job is given up. No server is asked here."""

import threading
from collections import Counter, deque
from collections.abc import Iterable

MOST_TRIES = 2  # of a job whose node fails, each on another server
MOST_LOSSES = 3  # of a job whose server is lost; it may be what takes them down
FAILURES_IN_A_ROW = 10  # then the workflow itself is broken


class Schedule:
    """Jobs by key, servers by URL. Its methods may be called from any thread."""

    def __init__(self, keys: Iterable[str], servers: Iterable[str]):
        self._waiting = deque(dict.fromkeys(keys))
        self._present = set(servers)
        self._in_flight: set[str] = set()
        self._failed_on: dict[str, set[str]] = {}
        self._losses: Counter[str] = Counter()
        self._in_a_row = 0
        self._guard = threading.RLock()

    @property
    def finished(self) -> bool:
        with self._guard:  # a job that changes hands is in neither for a moment
            return not (self._waiting or self._in_flight)

    @property
    def broken(self) -> bool:
        """Whether so many jobs failed without a success between that the rest is not worth it."""
        return self._in_a_row >= FAILURES_IN_A_ROW

    @property
    def servers(self) -> int:
        """How many servers are there."""
        return len(self._present)

    def take(self, server: str) -> str | None:
        """The next job that this server has not failed at."""
        with self._guard:
            for key in self._waiting:
                if server not in self._failed_on.get(key, ()):
                    return self._start(key)
        return None

    def adopt(self, key: str) -> bool:
        """Take this very job, which the server has already; False where it is not waiting."""
        with self._guard:
            return key in self._waiting and bool(self._start(key))

    def _start(self, key: str) -> str:
        self._waiting.remove(key)
        self._in_flight.add(key)
        return key

    def done(self, key: str) -> None:
        with self._guard:
            self._in_flight.discard(key)
            self._in_a_row = 0

    def failed(self, key: str, server: str) -> bool:
        """A node failed, or the server refused the job -> whether it is given up."""
        with self._guard:
            tried = self._failed_on.setdefault(key, set())
            tried.add(server)
            given_up = len(tried) >= MOST_TRIES or tried >= self._present
            return self._end_or_repeat(key, given_up)

    def lost(self, key: str) -> bool:
        """The server was lost with the job, or dropped it -> whether it is given up."""
        with self._guard:
            self._losses[key] += 1
            return self._end_or_repeat(key, self._losses[key] >= MOST_LOSSES)

    def _end_or_repeat(self, key: str, given_up: bool) -> bool:  # noqa: FBT001
        self._in_flight.discard(key)
        if given_up:
            self._in_a_row += 1
        else:
            self._waiting.appendleft(key)
        return given_up

    def leave(self, server: str) -> list[str]:
        """The server has gone -> the jobs that no server is left for, now given up."""
        with self._guard:
            self._present.discard(server)
            tried = self._failed_on
            hopeless = [k for k in self._waiting if k in tried and tried[k] >= self._present]
            if not self._present:
                return []  # a later run may try them elsewhere
            for key in hopeless:
                self._waiting.remove(key)
            return hopeless

    def come(self, server: str) -> None:
        """The server is there, or there again."""
        with self._guard:
            self._present.add(server)
