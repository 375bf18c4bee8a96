"""The progress of a run, on one line of a terminal, or on a line now and then in a log."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from ..canvas.units import duration
from .run import Count, Run

BAR = 24  # cells
LOG_EVERY = 30.0  # s between two lines where nobody sees a bar move


class Meter:
    """Shows a run. stream: a terminal or not; clock: seconds."""

    def __init__(
        self,
        run: Run,
        stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.run, self.stream, self.clock = run, stream, clock
        self._begin = clock()
        self._logged = self._begin
        self._width = 0  # of the line that stands

    def show(self) -> None:
        """The notes that have come, then how far it is."""
        self.show_notes()
        if self.stream.isatty():
            line = self.line()
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        elif self.clock() - self._logged >= LOG_EVERY:
            self._logged = self.clock()
            self.stream.write(self.line() + "\n")
        self.stream.flush()

    def show_notes(self) -> None:
        while self.run.notes:
            self._wipe()
            self.stream.write(self.run.notes.pop(0) + "\n")

    def close(self) -> None:
        """The last notes; the line of the bar is left empty."""
        self.show_notes()
        self._wipe()
        self.stream.flush()

    def _wipe(self) -> None:
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self._width = 0

    def line(self) -> str:
        """ "[######------] 120/3000, 2 failed, 2 servers, 1.4 s a job, 1 h 07 min left"."""
        count = self.run.count()
        ended = count.done + count.failed
        cells = BAR * ended // max(count.rows, 1)
        bar = f"[{'#' * cells:-<{BAR}}] {ended}/{count.rows}"
        servers = len(self.run.present)
        failed = [f"{count.failed} failed"] if count.failed else []
        here = f"{servers} server{'' if servers == 1 else 's'}"
        return ", ".join([bar, *failed, here, *self._speed(count)])

    def _speed(self, count: Count) -> list[str]:
        fresh = count.done + count.failed - count.before
        if not fresh:
            return []
        each = (self.clock() - self._begin) / fresh
        return [f"{each:.1f} s a job", f"{duration(each * count.open)} left"]
