"""`python -m detex.batch status DIR`: how far the run of that folder is, or how far it came."""

import time
from pathlib import Path
from typing import Any

from ..canvas.units import duration
from ..concept.files import hold, read_json, write_json
from .run import Run
from .store import STORE

FILE = "progress.json"
SHOWN = 20  # running jobs that are listed


def write_progress(run: Run, begun: float) -> None:
    """Note how far the run is. begun: when, by the wall clock."""
    running = [(t.server, run.jobs[t.key][0].row, t.since) for t in run.tasks.values() if t.key]
    facts = vars(run.count()) | {"begun": begun, "at": time.time(), "running": running}
    write_json(run.store.path / FILE, facts | {"away": sorted(run.away)})


def status(out: Path, now: float | None = None) -> str:
    """A few lines for the user. Raises ValueError where no run has ever begun in this folder."""
    facts = read_json(out / STORE / FILE, "Start the run again; it is written anew.")
    if not facts:
        raise ValueError(f"No run has begun in {out}. Give the folder that --out named.")
    ended, before = facts["done"] + facts["failed"], facts["before"]
    rest = facts["rows"] - ended
    seconds = facts["at"] - facts["begun"]
    lines = [
        f"{facts['done']} of {facts['rows']} rows done, {facts['failed']} failed, {rest} open.",
        _state(out, facts, time.time() if now is None else now),
    ]
    if ended > before:
        pace = seconds / (ended - before)
        lines.append(f"{ended - before} rows in {duration(seconds)}: {pace:.1f} s a row, "
                     f"{duration(pace * rest)} left at this pace.")  # fmt: skip
    if _is_running(out):
        for server, row, since in sorted(facts["running"])[:SHOWN]:
            lines.append(f"  row {row} on {server} for {duration(facts['at'] - since)}")
        lines += [f"  {server} does not answer" for server in facts["away"][:SHOWN]]
    return "\n".join(lines)


def _state(out: Path, facts: dict[str, Any], now: float) -> str:
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["begun"]))
    ago = duration(now - facts["at"])
    is_open = facts["done"] + facts["failed"] < facts["rows"]
    if _is_running(out):
        return f"Running since {begun}; this was so {ago} ago."
    again = " Run the same command again to go on." if is_open else ""
    return f"Begun {begun}, stopped {ago} ago.{again}"


def _is_running(out: Path) -> bool:
    try:
        hold(out / STORE / "lock", "").close()
    except ValueError:
        return True
    return False
