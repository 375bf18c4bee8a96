"""An engine without servers: each answers by a list of how its calls end."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from detex_pack.detex.batch.server import Ending, Welcome

Answer = Ending | Welcome | None | Callable[[dict[str, Any]], Ending]


class Simulated:
    """answers: for each server, how its renderings end, one after the other; the last for ever.

    welcomes: how it is found, likewise. `calls` are all that were begun: (server, method,
    arguments).
    """

    def __init__(
        self,
        answers: Mapping[str, Sequence[Answer]],
        welcomes: Mapping[str, Sequence[Answer]] | None = None,
    ):
        self.servers = tuple(answers)
        given = {server: (welcomes or {}).get(server, [Welcome()]) for server in answers}
        self._answers = {"render": dict(answers), "enter": given, "receive": {}, "drop": {}}
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []
        self.closed: dict[str, list[str]] | None = None

    def call(self, server: str, method: str, *arguments: Any) -> int:
        self.calls.append((server, method, arguments))
        return len(self.calls) - 1

    def wait(self, calls: Collection[int], timeout: float) -> list[int]:  # noqa: ARG002
        return sorted(calls)[:1]

    def result(self, call: int) -> Any:
        server, method, arguments = self.calls[call]
        if method == "receive":
            return Welcome()
        if method == "drop":
            return None
        first, *rest = self._answers[method][server]
        self._answers[method][server] = rest or [first]
        return first(arguments[1]) if callable(first) else first

    def share(self, content: bytes) -> bytes:
        return content

    def close(self, queued: dict[str, list[str]]) -> None:
        self.closed = queued

    def rendered(self, server: str) -> list[str]:
        """The prompts that this server was given, by their one value."""
        return [a[1] for s, method, a in self.calls if (s, method) == (server, "render")]
