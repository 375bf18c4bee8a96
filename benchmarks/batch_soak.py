"""Many light jobs over several servers, an actor killed every minute: does the driver stay small?

    python -m benchmarks.batch_soak --out runs/batch_soak.json

The rate is compared with that of one bare server in the same run, which is given all prompts at
once. docs/batch_rendering.md has the result.
"""

import argparse
import json
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from devtools.batch_cluster import processes
from devtools.batch_jobs import BatchJob, wait_for
from devtools.graphs import node
from devtools.host_process import exit_on_terminate
from devtools.server import ComfyServer

from .batch_scale import facts

KILL_EVERY = 60.0  # s
BARE = 300  # prompts that the bare server is measured with


def light(colour: int = 0) -> dict[str, Any]:
    return {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=colour),
        "2": node("SaveImage", images=["1", 0], filename_prefix="light"),
    }


def bare_rate(server: ComfyServer) -> float:
    """Jobs a second of a server that has them all in its queue."""
    begin = time.monotonic()
    for colour in range(BARE):
        server.queue(light(0x100000 + colour))
    wait_for(lambda: not server.queued(), 600)
    return BARE / (time.monotonic() - begin)


def soaked(job: BatchJob, rows: int, rng: random.Random) -> tuple[list[int], int, float]:
    """The command over all rows -> the driver's memory each second, kills, seconds."""
    process = job.start()
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
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    lines = job.results()
    assert [line["status"] for line in lines] == ["done"] * rows
    assert len({line["job"] for line in lines}) == rows == len(job.pictures()), output
    return seen, kills, time.monotonic() - begin


def main() -> None:
    exit_on_terminate()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batch-soak-"))
    with ExitStack() as stack:
        servers = [stack.enter_context(ComfyServer()) for _ in range(options.servers)]
        table = "color\n" + "".join(f"{colour}\n" for colour in range(options.rows))
        job = BatchJob(folder, light(), table, *(server.url for server in servers))
        rate = bare_rate(servers[0])
        seen, kills, seconds = soaked(job, options.rows, random.Random(options.seed))
    rest = seen[len(seen) // 4 :]  # after Ray and the first jobs
    result = {
        "rows": options.rows,
        "servers": options.servers,
        "kills": kills,
        "seconds": round(seconds),
        "jobs_a_second": round(options.rows / seconds, 1),
        "bare_server_jobs_a_second": round(rate, 1),
        "driver_mb": [round(min(rest) / 2**20), round(max(rest) / 2**20)],
    }
    options.out.write_text(json.dumps(facts() | {"seed": options.seed} | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
