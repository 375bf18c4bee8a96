"""The command `python -m detex.batch`, and one table as part of another command."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from .api_prompt import ObjectInfo
from .client import ServerLost
from .engine import Engine
from .job import make_jobs
from .jobqueue import FAILURES_IN_A_ROW
from .meter import Meter
from .needs import needs_of
from .options import engine_for, parser
from .outbox import Outbox
from .progress import status, write_progress
from .run import Run
from .sheet import write_sheet
from .store import STORE, JobStore
from .table import Table, read_table
from .view import RESULTS, View
from .words import check_words, words_in
from .workflow import inputs_of, listing, read_workflow

NOTE_EVERY, WRITE_EVERY = 2.0, 15.0  # s between two writings of progress.json, of results.csv
WRITE_SHARE = 20  # at most one part in so many of the time goes into writing results.csv
ALL_DONE, SOME_LEFT, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command -> its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["status"]:
        return exit_status(lambda: _status(words[1:]))
    return exit_status(lambda: run_table(parser().parse_args(words)))


def exit_status(command: Callable[[], int]) -> int:
    """Its exit status; wrong input and Ctrl-C are told in a line and not by a traceback."""
    try:
        return command()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Run the same command again to go on.\n")
        return INTERRUPTED


def run_table(options: argparse.Namespace) -> int:
    """Render what these options name, or list what a table can set -> the exit status.

    Raises ValueError and OSError for wrong input, before anything is queued.
    """
    if options.table is not None and options.out is None:
        raise ValueError("--out is missing: name the folder for the pictures.")
    table = read_table(options.table, product=options.product) if options.table else None
    engine = engine_for(options)
    try:
        info = _schema(engine)
        return _render(options, table, engine, info) if table else _list_inputs(options, info)
    finally:
        engine.close({})


def heed_terminate() -> None:
    """A cluster's way to say Ctrl-C, and Windows'."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.default_int_handler)


def _status(words: Sequence[str]) -> int:
    form = argparse.ArgumentParser(prog="python -m detex.batch status")
    form.add_argument("out", type=Path, metavar="DIR", help="the folder that --out named")
    sys.stdout.write(status(form.parse_args(words).out) + "\n")
    return ALL_DONE


def _schema(engine: Engine) -> ObjectInfo:
    """The nodes of the first server that answers."""
    errors = []
    for server in engine.servers:
        try:
            return engine.result(engine.call(server, "object_info"))
        except ServerLost as error:
            errors.append(str(error))
    raise ValueError("\n".join([*errors, "Start a server, or correct its address."]))


def _list_inputs(options: argparse.Namespace, info: ObjectInfo) -> int:
    inputs = inputs_of(read_workflow(options.workflow, info), info)
    sys.stdout.write(f"A table can set:\n{listing(inputs)}\n")
    return ALL_DONE


def _render(options: argparse.Namespace, table: Table, engine: Engine, info: ObjectInfo) -> int:
    workflow = read_workflow(options.workflow, info)
    inputs = inputs_of(workflow, info)
    outbox = Outbox(options.table.parent)
    workflow = outbox.fill(workflow, inputs)
    jobs = make_jobs(table, workflow, inputs, outbox)
    check_words(jobs, workflow, lambda file: _words_of(file, outbox, engine))
    needs = needs_of(workflow, jobs, inputs, outbox.files.values())
    with JobStore(options.out / STORE) as store:
        if options.retry_failed:
            store.forget_failures()
        view = View(options.out, store, jobs, table.columns)
        view.arrange()
        run = Run(workflow, jobs, store, view, engine, needs, options.patience)
        watch = Watch(run)
        try:
            run.go(watch)
        finally:
            watch.close()
            _write_results(view)
        return _conclude(run, options.out / RESULTS)


def _words_of(file: str, outbox: Outbox, engine: Engine) -> Collection[str] | None:
    """Of a concept that is sent, or that the first server which answers has."""
    if file in outbox.files:
        return words_in(Path(outbox.files[file].path))
    for server in engine.servers:
        with suppress(ServerLost):
            return engine.result(engine.call(server, "concept_words", file))
    return None


class Watch:
    """What is looked after while a run goes on: the bar, progress.json, results.csv."""

    def __init__(self, run: Run):
        self.run, self.meter, self.begun = run, Meter(run), time.time()
        self._noted = self._written = time.monotonic()
        self._pause = WRITE_EVERY

    def __call__(self) -> None:
        self.meter.show()
        now = time.monotonic()
        if now - self._noted > NOTE_EVERY:
            self._noted = now
            write_progress(self.run, self.begun)
        if now - self._written > self._pause:
            with suppress(PermissionError):  # open in a spreadsheet; it is written again
                self.run.view.write_results()
            self._written = time.monotonic()
            self._pause = max(WRITE_EVERY, WRITE_SHARE * (self._written - now))

    def close(self) -> None:
        self.meter.close()
        write_progress(self.run, self.begun)


def _write_results(view: View) -> None:
    try:
        view.write_results()
        write_sheet(view)
    except PermissionError as error:
        raise ValueError(
            f"{error} Close the program that has {RESULTS} open and run the same command again; "
            "nothing will be rendered twice."
        ) from error


def _conclude(run: Run, results: Path) -> int:
    count = run.count()
    parts = [f"{count.done} done", f"{count.failed} failed", f"{count.open} not rendered"]
    sys.stdout.write(f"{count.rows} rows: {', '.join(parts)}; {count.before} of them before.\n")
    sys.stdout.write(f"See {results}\n")
    if run.queue.broken:
        sys.stdout.write(
            f"Stopped after {FAILURES_IN_A_ROW} failures in a row. Correct the workflow or the "
            "table, then run the same command again.\n"
        )
    elif count.open:
        sys.stdout.write("No server is left. Run the same command again when one answers.\n")
    if count.failed:
        sys.stdout.write("What failed is not tried again, except with --retry-failed.\n")
    return SOME_LEFT if count.failed or count.open else ALL_DONE
