"""Render a table of jobs over one or several ComfyUI servers, without the page.

Each row of the table is a job; each column sets one input of the workflow, by the node's number,
title or type and the input's name ("6.seed", "KSampler.seed"), or by the input's name alone where
only one node has it. Without --table, the names that a table can use are listed. Run the same
command again to go on: what is done is not rendered again. See docs/batch_rendering.md.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from .api_prompt import ObjectInfo
from .batch import Batch
from .client import Client, ServerLost
from .job import make_jobs
from .meter import Meter
from .schedule import FAILURES_IN_A_ROW
from .store import JobStore
from .table import read_table
from .view import RESULTS, View
from .worker import Worker
from .workflow import inputs_of, listing, read_workflow

STORE = ".jobs"
ANSWER_WITHIN = 20.0  # s for one answer of a server
SHOW_EVERY, WRITE_EVERY = 0.5, 15.0  # s between two looks at the bar, at results.csv
ALL_DONE, SOME_LEFT, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command -> its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _list_inputs(options) if options.table is None else _render(options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Run the same command again to go on.\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m detex.batch", description=__doc__)
    add = parser.add_argument
    add("--server", action="append", required=True, metavar="URL", help="one or more of them")
    add("--workflow", type=Path, required=True, help="JSON, saved or exported by the page")
    add("--table", type=Path, help="CSV in UTF-8, with a head")
    add("--out", type=Path, help="folder for the pictures and results.csv")
    add("--retry-failed", action="store_true", help="try again what failed in earlier runs")
    silent = "how long a server may be silent before others take its jobs (default: 60)"
    add("--patience", type=float, default=60.0, metavar="SECONDS", help=silent)
    return parser


def _clients(urls: Sequence[str]) -> list[Client]:
    clients = [Client(url, ANSWER_WITHIN) for url in urls]
    known = [client.url for client in clients]
    for url in known:
        if known.count(url) > 1:
            raise ValueError(f"--server {url} is given twice. Give each server once.")
    return clients


def _schema(clients: Sequence[Client]) -> ObjectInfo:
    """The nodes of the first server that answers."""
    errors = []
    for client in clients:
        try:
            return client.object_info()
        except ServerLost as error:
            errors.append(str(error))
    raise ValueError("\n".join([*errors, "Start a server, or correct its address."]))


def _list_inputs(options: argparse.Namespace) -> int:
    info = _schema(_clients(options.server))
    inputs = inputs_of(read_workflow(options.workflow, info), info)
    sys.stdout.write(f"A table can set:\n{listing(inputs)}\n")
    return ALL_DONE


def _render(options: argparse.Namespace) -> int:
    if options.out is None:
        raise ValueError("--out is missing: name the folder for the pictures.")
    clients = _clients(options.server)
    table = read_table(options.table)
    info = _schema(clients)
    workflow = read_workflow(options.workflow, info)
    jobs = make_jobs(table, workflow, inputs_of(workflow, info))
    with JobStore(options.out / STORE) as store:
        if options.retry_failed:
            store.forget_failures()
        view = View(options.out, store, jobs)
        view.arrange()
        batch = Batch(workflow, jobs, store, view, [client.url for client in clients])
        try:
            _work(batch, clients, options.patience)
        finally:
            _write_results(view)
        return _conclude(batch, options.out / RESULTS)


def _work(batch: Batch, clients: Sequence[Client], patience: float) -> None:
    """Run the workers to their end; on Ctrl-C, and where one fails, they take back their jobs."""
    meter, written = Meter(batch), time.monotonic()
    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(Worker(client, batch, patience).run) for client in clients]
        try:
            while wait(running, timeout=SHOW_EVERY).not_done:
                if any(worker.done() and worker.exception() for worker in running):
                    break
                meter.show()
                if time.monotonic() - written > WRITE_EVERY:
                    written = time.monotonic()
                    with suppress(PermissionError):  # open in a spreadsheet; it is written again
                        batch.view.write_results()
        finally:
            batch.stop.set()
    meter.close()
    for worker in running:
        worker.result()


def _write_results(view: View) -> None:
    try:
        view.write_results()
    except PermissionError as error:
        raise ValueError(
            f"{error}. Close the program that has {RESULTS} open and run the same command again; "
            "nothing will be rendered twice."
        ) from error


def _conclude(batch: Batch, results: Path) -> int:
    count = batch.count()
    parts = [f"{count.done} done", f"{count.failed} failed", f"{count.open} not rendered"]
    sys.stdout.write(f"{count.rows} rows: {', '.join(parts)}; {count.before} of them before.\n")
    sys.stdout.write(f"See {results}\n")
    if batch.schedule.broken:
        sys.stdout.write(
            f"Stopped after {FAILURES_IN_A_ROW} failures in a row. Correct the workflow or the "
            "table, then run the same command again.\n"
        )
    elif count.open:
        sys.stdout.write("No server is left. Run the same command again when one answers.\n")
    if count.failed:
        sys.stdout.write("What failed is not tried again, except with --retry-failed.\n")
    return SOME_LEFT if count.failed or count.open else ALL_DONE


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's way to say Ctrl-C
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.default_int_handler)
    sys.exit(main())
