"""Trains every arm on many subjects, measures what the words carry, and tests the hypotheses.

python -m benchmarks.disentangle --quick       2 subjects, Custom Diffusion and DETEX: which way?
python -m benchmarks.disentangle               the main grid; a stopped one goes on where it was
python -m benchmarks.disentangle --study arms  every arm; or on_places; or a sweep: rho, photos...
python -m benchmarks.disentangle --report      docs/science.md from the cells that are there
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import Any

import torch

from .arms import arm_named
from .cells import FILE, STRIPS, Cell, DamagedCell, load
from .hypotheses import (
    PLACES_AGAIN,
    PLACES_FIRST,
    PREDECLARED,
    STUDIES,
    Grid,
    judge_hypothesis,
    study,
)
from .measures import TITLES, measured
from .workers import Worker

COMMAND = (sys.executable, "-m", "benchmarks.cell")


def absent(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that must be run; says which files are damaged."""
    missing = []
    for cell in cells:
        try:
            found = load(cell)
        except DamagedCell as error:
            print(f"To be done again: {error}")
            found = None
        if found is None:
            missing.append(cell)
    return missing


def run_cells(
    cells: Sequence[Cell], count: int, command: Sequence[str] = COMMAND
) -> Generator[tuple[Cell, dict[str, Any]], None, None]:
    """Run every cell in one of `count` processes; -> each as it is done, with its {"seconds": ...}
    or, where it failed, {"error": ...}. Closing the iterator stops the processes.
    """
    workers = [Worker(command, STRIPS / f"worker_{number}.log") for number in range(count)]
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def job(cell: Cell) -> tuple[Cell, dict[str, Any]]:
        worker = free.get()
        try:
            return cell, worker.ask(asdict(cell))
        except RuntimeError as error:
            return cell, {"error": str(error)}
        finally:
            free.put(worker)

    with ThreadPoolExecutor(max(1, count)) as pool:
        jobs = [pool.submit(job, cell) for cell in cells]
        try:
            for done in as_completed(jobs):
                yield done.result()
        finally:
            for waiting in jobs:
                waiting.cancel()
            for worker in workers:
                worker.stop()


def run_grid(cells: Sequence[Cell], workers: int) -> dict[Cell, str]:
    """Runs what is absent and says how it goes; -> the cells that failed, and why."""
    todo = absent(cells)
    print(f"{len(cells) - len(todo)} of {len(cells)} cells are there; {len(todo)} to run.")
    failed, started = {}, time.monotonic()
    with closing(run_cells(todo, min(workers, len(todo)))) as answers:
        for number, (cell, answer) in enumerate(answers, 1):
            seconds = time.monotonic() - started
            left = seconds / number * (len(todo) - number) / 60
            told = answer.get("error") or _told(answer["seconds"])
            print(f"[{number}/{len(todo)}, {left:.0f} min left] {cell}: {told}", flush=True)
            if "error" in answer:
                failed[cell] = answer["error"]
    return failed


def _told(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g} s" for name, value in seconds.items())


def print_hypotheses(grid: Grid) -> None:
    """Each hypothesis that the grid's arms can answer, in one line."""
    tables = {eye: measured(grid.cells(), eye) for eye in ("judge", "reader")}
    for hypothesis in (*PREDECLARED, *PLACES_FIRST, *PLACES_AGAIN):
        if not set(hypothesis.arms) <= set(grid.arms):
            continue
        found, missing = judge_hypothesis(hypothesis, tables[hypothesis.eye], grid)
        head = f"{hypothesis.name}, {hypothesis.claim}: {TITLES[hypothesis.measure]}"
        if found is None:
            print(f"{head}: {len(missing)} cells are missing, the first: {missing[0]}")
            continue
        holds = hypothesis.sign * found.estimate + hypothesis.margin > 0
        print(
            f"{head}: {found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}] over {found.n} "
            f"subjects, p {found.p:.3g} unadjusted; the direction is "
            f"{'as' if holds else 'NOT as'} predicted"
        )


def grid_of(options: argparse.Namespace) -> Grid:
    """The grid that the command line asks for."""
    grid = study("quick" if options.quick else options.study, options.subjects, options.seeds)
    given: dict[str, Any] = {
        "rhos": options.rho,
        "photos": options.photos,
        "steps": options.steps,
        "arms": options.arms,
    }
    return replace(grid, **{name: value for name, value in given.items() if value})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs or reports; -> exit status, 1 where cells failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.report:
        # they need matplotlib, which a run does not
        from .report import write_report
        from .tables import readme_table

        print(f"wrote {write_report(options.subjects, options.seeds)}; README's table is now:\n")
        print(readme_table())
        return 0
    try:
        grid = grid_of(options)
    except ValueError as error:
        parser.error(str(error))
    try:
        failed = run_grid(grid.cells(), options.workers)
    except KeyboardInterrupt:
        print("\nStopped. Finished cells are kept; the same command goes on from them.")
        return 130
    for cell, error in failed.items():
        print(f"FAILED {cell}: {error}", file=sys.stderr)
    if len(grid.rhos) == len(grid.photos) == len(grid.steps) == 1:
        print_hypotheses(grid)
    else:
        print("The sweep's table: python -m benchmarks.disentangle --report")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disentangle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Cells are kept in {FILE}.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="2 subjects, 1 seed, two arms")
    add("--study", choices=STUDIES, default="main")
    add("--subjects", type=int, help="how many (8)")
    add("--seeds", type=int, help="a subject (main grid: 2)")
    add("--arms", type=_arms, help="names with commas between; see benchmarks/arms.py")
    add("--rho", type=float, nargs="+", help="share of photos with one background and position")
    add("--photos", type=int, nargs="+")
    add("--steps", type=int, nargs="+")
    workers = 6 if torch.cuda.is_available() else os.cpu_count() or 1
    add("--workers", type=int, default=workers, help="processes side by side")
    add("--report", action="store_true", help="write docs/science.md; runs nothing")
    return parser


def _arms(text: str) -> tuple[str, ...]:
    try:
        return tuple(arm_named(name.strip()).name for name in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
