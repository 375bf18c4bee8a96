"""Which job is next for which server, and when a job is given up. No server is asked here."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Mapping

MOST_TRIES = 2  # of a job whose node fails, each on another server
MOST_LOSSES = 3  # of a job whose server is lost; it may be what takes them down
FAILURES_IN_A_ROW = 10  # then the workflow itself is broken


class JobQueue:
    """groups: job -> what it loads, in the order of the table. A server stays with a group as long
    as it has jobs, so that checkpoints and concepts are loaded once.
    """

    def __init__(self, groups: Mapping[str, Hashable]):
        self._fresh: dict[Hashable, OrderedDict[str, None]] = {}  # group -> its jobs
        for key, group in groups.items():
            self._fresh.setdefault(group, OrderedDict())[key] = None
        self._groups = dict(groups)
        self._again: list[str] = []  # jobs that come back, the next ones of any server
        self._at: dict[str, Hashable] = {}  # server -> the group that it is at
        self._failed_on: dict[str, set[str]] = {}
        self._losses: Counter[str] = Counter()
        self._in_a_row = 0

    @property
    def empty(self) -> bool:
        return not (self._fresh or self._again)

    @property
    def troubled(self) -> bool:
        """Whether jobs have come back that were not rendered."""
        return bool(self._again)

    @property
    def broken(self) -> bool:
        """Whether so many jobs failed without a success between that the rest is not worth it."""
        return self._in_a_row >= FAILURES_IN_A_ROW

    def __contains__(self, key: str) -> bool:
        return key in self._again or key in self._fresh.get(self._groups.get(key), ())

    def take(self, server: str) -> str | None:
        """The next job for this server: one that came back and has not failed here, else of its
        group, else of a group that nobody is at, else of the largest.
        """
        for key in self._again:
            if server not in self._failed_on.get(key, ()):
                self._again.remove(key)
                return key
        if not self._fresh:
            return None
        if self._at.get(server) not in self._fresh:
            taken = set(self._at.values())
            largest = max(self._fresh, key=lambda group: len(self._fresh[group]))
            free = (group for group in self._fresh if group not in taken)
            self._at[server] = next(free, largest)
        key = next(iter(self._fresh[self._at[server]]))
        self._remove(key)
        return key

    def adopt(self, key: str) -> bool:
        """Take this very job, which a server has already; False where it is not waiting."""
        if key not in self:
            return False
        self._remove(key)
        return True

    def _remove(self, key: str) -> None:
        if key in self._again:
            self._again.remove(key)
            return
        group = self._groups[key]
        del self._fresh[group][key]
        if not self._fresh[group]:
            del self._fresh[group]

    def done(self) -> None:
        """A job has succeeded."""
        self._in_a_row = 0

    def failed(self, key: str, server: str, present: Collection[str]) -> bool:
        """A node failed, or the server refused the job -> whether it is given up."""
        tried = self._failed_on.setdefault(key, set())
        tried.add(server)
        return self._end_or_repeat(key, given_up=len(tried) >= MOST_TRIES or tried >= set(present))

    def lost(self, key: str) -> bool:
        """The server was lost with the job, or dropped it -> whether it is given up."""
        self._losses[key] += 1
        return self._end_or_repeat(key, given_up=self._losses[key] >= MOST_LOSSES)

    def _end_or_repeat(self, key: str, *, given_up: bool) -> bool:
        if given_up:
            self._in_a_row += 1
        else:
            self._again.insert(0, key)
        return given_up

    def hopeless(self, present: Collection[str]) -> list[str]:
        """The jobs that have failed on all servers that are left, now given up.

        Without any server none is: a later run may try them elsewhere.
        """
        ended = [key for key in self._again if self._failed_on.get(key, set()) >= set(present)]
        for key in ended if present else ():
            self._again.remove(key)
        return ended if present else []
