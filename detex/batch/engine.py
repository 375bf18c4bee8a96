"""Calls to servers, which go on while the driver does other things: with threads, for one server.

Those of several go through Ray (rays).
"""

from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from .server import Server

QUEUED = 2  # prompts at a server: one runs, one waits, so that it never idles

Call = Any  # a handle of a call that goes on; hashable


class Engine(Protocol):
    servers: tuple[str, ...]  # names

    def call(self, server: str, method: str, *arguments: Any) -> Call:
        """Begin a method of `Server`."""
        ...

    def wait(self, calls: Collection[Call], timeout: float) -> Collection[Call]:
        """Those that have ended, as soon as one has."""
        ...

    def result(self, call: Call) -> Any:
        """What the call brings, once it has ended. Raises ServerLost where what did it has died."""
        ...

    def share(self, content: bytes) -> Any:
        """A content that several calls take, as their argument."""
        ...

    def close(self, queued: dict[str, list[str]]) -> None:
        """End all calls; servers take these prompts back, where they can."""
        ...


class Threads:
    """One server, called from threads of this process."""

    def __init__(self, name: str, server: Server):
        self.server, self.servers = server, (name,)
        self._pool = ThreadPoolExecutor(QUEUED + 1)

    def call(self, server: str, method: str, *arguments: Any) -> "Future[Any]":  # noqa: ARG002
        return self._pool.submit(getattr(self.server, method), *arguments)

    def wait(self, calls: "Collection[Future[Any]]", timeout: float) -> "set[Future[Any]]":
        return wait(calls, timeout, FIRST_COMPLETED).done

    def result(self, call: "Future[Any]") -> Any:
        return call.result()

    def share(self, content: bytes) -> bytes:
        return content

    def close(self, queued: dict[str, list[str]]) -> None:
        self.server.close(queued.get(self.servers[0], ()))
        self._pool.shutdown()
