"""What the rendering of a table withstands and costs: `python -m benchmarks.batch WHAT --out FILE`.

    kills      harm at random moments: every row must come once, with the same bytes
    soak       many light jobs over several servers, an actor killed every minute
    trainings  trainings on two cards, whose ComfyUIs are killed while they train
    scale      what a run costs its driver, over simulated servers
    protocol   DreamBench's protocol at real size, killed twice

docs/batch_rendering.md has the results, docs/evaluation.md those of the protocol.
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from devtools.batch_jobs import (
    LOOPBACK,
    BatchJob,
    cluster,
    comfys,
    ended_well,
    processes,
    training,
    wait_for,
)
from devtools.graphs import Graph, node
from devtools.host_process import exit_on_terminate
from devtools.machine import facts
from devtools.server import ComfyServer

from .batch_kills import HARMS, kills
from .batch_protocol import protocol
from .batch_scale import scale

KILL_EVERY = 60.0  # s
BARE = 300  # prompts that the bare server is measured with
STEPS, SNAPSHOT = 150, 10  # of a training


def light(colour: int = 0) -> Graph:
    return {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=colour),
        "2": node("SaveImage", images=["1", 0], filename_prefix="light"),
    }


def bare_rate(server: ComfyServer) -> float:
    """Jobs a second of a server that has them all in its queue."""
    begin = time.monotonic()
    for colour in range(BARE):
        server.queue(light(0x100000 + colour))
    wait_for(lambda: not server.queued())
    return BARE / (time.monotonic() - begin)


def disturb(process: "subprocess.Popen[str]", rng: random.Random) -> tuple[list[int], int]:
    """Kill while the command runs -> the driver's memory each second, kills."""
    driver, begin = psutil.Process(process.pid), time.monotonic()
    seen: list[int] = []
    kills = 0
    while process.poll() is None:
        time.sleep(1)
        if driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
            seen.append(driver.memory_info().rss)
        if time.monotonic() - begin > KILL_EVERY * (kills + 1):
            rng.choice(processes(driver, "ray::Server")).kill()
            kills += 1
    return seen, kills


def soak(folder: Path, *, seed: int, rows: int, servers: int) -> Iterator[dict[str, Any]]:
    """Does the driver stay small, and how far is the rate from that of one bare server in the same
    run, which is given all prompts at once?
    """
    with ExitStack() as stack:
        running = [stack.enter_context(ComfyServer()) for _ in range(servers)]
        table = "color\n" + "".join(f"{colour}\n" for colour in range(rows))
        job = BatchJob(folder, light(), table, *(server.url for server in running))
        rate = bare_rate(running[0])
        begin = time.monotonic()
        process = job.start()
        seen, killed = disturb(process, random.Random(seed))
        seconds = time.monotonic() - begin
        ended_well(process)
    job.all_done(rows)
    assert len(job.pictures()) == rows
    rest = seen[len(seen) // 4 :]  # after Ray and the first jobs
    yield {
        "rows": rows,
        "servers": servers,
        "kills": killed,
        "seconds": round(seconds),
        "jobs_a_second": round(rows / seconds, 1),
        "bare_server_jobs_a_second": round(rate, 1),
        "driver_mb": [round(min(rest) / 2**20), round(max(rest) / 2**20)],
    }


def concepts(job: BatchJob, rows: int) -> list[bytes]:
    """What the table has brought, in its order."""
    return [(job.out / line["files"]).read_bytes() for line in job.all_done(rows)]


def kill_cards(folder: Path, seed: int, count: int, finished: Callable[[], bool]) -> int:
    """Kill a card's ComfyUI when a training has a snapshot -> how many were killed."""
    runs, rng = folder / "user" / "__detex" / "runs", random.Random(seed)
    for number in range(count):
        known = set(runs.rglob("step_*"))
        wait_for(lambda seen=known: set(runs.rglob("step_*")) - seen or finished())
        time.sleep(rng.random() / 2)
        if finished():
            return number
        rng.choice(comfys(psutil.Process())).kill()
        wait_for(lambda: len(comfys(psutil.Process())) == 2 or finished())
    return count


def continued(job: BatchJob) -> int:
    """How often a training has gone on from a snapshot, by all logs of cards on this machine."""
    logs = [*(job.out / ".jobs").glob("logs/*.log")]
    logs += Path(tempfile.gettempdir()).glob("detex-batch/*.log")
    return sum(log.read_text().count("Continued after step") for log in logs)


def trainings(folder: Path, *, seed: int, rows: int, kills: int) -> Iterator[dict[str, Any]]:
    """The cards are those of a Ray cluster on this machine, and share a user folder: a killed
    training goes on from its snapshot at the other card. The concepts must have the bytes of an
    undisturbed run.
    """
    lines = "".join(f"{n},toy {n},toy_{n}\n" for n in range(1, rows + 1))
    table = f"number,name,Exact LoRA.name\n{lines}"
    with ComfyServer(folder / "calm") as server:
        graph = training(STEPS, server.object_info(), snapshot_every=SNAPSHOT)
        calm = BatchJob(folder / "one", graph, table, server.url)
        ended_well(calm.start())
    job = BatchJob(folder / "two", graph, table)
    begin, before = time.monotonic(), continued(job)
    with cluster(folder / "cards") as (_, _, where):
        process = job.start(*where)
        killed = kill_cards(folder / "cards", seed, kills, lambda: len(job.records()) == rows)
        print(ended_well(process), flush=True)
    assert concepts(job, rows) == concepts(calm, rows)
    assert killed == kills, f"the trainings ended after {killed} of {kills} kills"
    resumed = continued(job) - before
    assert resumed, "no training went on from a snapshot"
    yield {
        "trainings": rows,
        "steps": STEPS,
        "killed": killed,
        "continued": resumed,
        "seconds": round(time.monotonic() - begin),
    }


MEASURES: dict[str, tuple[Callable[..., Iterator[dict[str, Any]]], dict[str, int]]] = {
    "kills": (kills, {}),
    "soak": (soak, {"rows": 2000, "servers": 4}),
    "trainings": (trainings, {"rows": 10, "kills": 4}),
    "scale": (scale, {"rows": 1_000_000, "kept": 6000}),
    "protocol": (protocol, {}),
}


def main() -> None:
    exit_on_terminate()
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it: more threads give other bytes, and wait
    os.environ.update(LOOPBACK)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, (measure, counts) in MEASURES.items():
        command = commands.add_parser(name, description=measure.__doc__)
        command.add_argument("--out", type=Path, required=True, help="the JSON file")
        command.add_argument("--seed", type=int, default=0)
        for option, default in counts.items():
            command.add_argument(f"--{option}", type=int, default=default, help=f"({default})")
    commands.choices["kills"].add_argument("--only", choices=list(HARMS), help="this harm, once")
    options = vars(parser.parse_args())
    what, out = options.pop("what"), options.pop("out")
    folder = Path(tempfile.mkdtemp(prefix=f"batch-{what}-"))
    for found in MEASURES[what][0](folder, **options):
        result = json.dumps(facts() | {"seed": options["seed"]} | found, indent=1)
        out.write_text(f"{result}\n", encoding="utf-8")
        print(result, flush=True)


if __name__ == "__main__":
    main()
