"""How long the rest takes, told as soon as it was measured."""

import statistics
import time
from collections.abc import Callable

from ..canvas.units import duration, in_seconds
from .loop import Run, Watcher

WARM_UP, MEASURED = 1, 3  # steps, after the first: a card is slow at the beginning

Say = Callable[[str], None]


class Pace:
    """Times the first pieces of a work, steps or pictures, and says once how long the rest takes:
    "After the first 5: 595 steps at 0.21 s, about 2 min".

    warm_up: how many times are left out, after the first call, which starts the clock; measured: of
    how many the median counts, as now and then something else comes between.
    """

    def __init__(
        self,
        pieces: str,
        say: Say,
        warm_up: int,
        measured: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.pieces, self.say, self.clock = pieces, say, clock
        self.warm_up, self.measured = warm_up, measured
        self.seconds: list[float] = []  # of a piece, each time
        self.last: tuple[float, float] | None = None  # how many were done, and when
        self.told = False

    def done(self, count: int, of_all: int) -> None:
        """So many pieces of all are done by now."""
        if self.told:
            return
        now = self.clock()
        if self.last is not None and count > self.last[0]:
            self.seconds.append((now - self.last[1]) / (count - self.last[0]))
        self.last = count, now
        left = of_all - count
        if len(self.seconds) == self.warm_up + self.measured and left > 1:
            each = statistics.median(self.seconds[self.warm_up :])
            rest = duration(left * each)
            told = f"{left} {self.pieces} at {in_seconds(each)}"
            self.say(f"After the first {count}: {told}, about {rest}")
            self.told = True


class TimeLeft(Watcher):
    """Says how long a run, or the rest of a resumed one, will take."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.perf_counter):
        self.pace = Pace("steps", say, WARM_UP, MEASURED, clock)

    def on_step(self, run: Run) -> None:
        if not self.pace.told:
            run.history["total"][-1].item()  # waits for the card, which may be behind
            self.pace.done(run.step, run.config.steps)
