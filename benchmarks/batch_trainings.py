"""Ten trainings in one table, on two cards, whose ComfyUIs are killed while they train.

    python -m benchmarks.batch_trainings --out runs/batch_trainings.json

The cards are those of a Ray cluster on this machine, and share a user folder: a killed training
goes on from its snapshot at the other card. The concepts must have the bytes of an undisturbed run.
docs/batch_rendering.md has the result.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import psutil

from devtools.batch_cluster import cluster, comfys
from devtools.batch_jobs import BatchJob, training, wait_for
from devtools.host_process import exit_on_terminate
from devtools.server import ComfyServer

from .batch_scale import facts

TRAININGS, STEPS, SNAPSHOT, KILLS = 10, 40, 5, 4
TABLE = "number,name,5.name\n" + "".join(f"{n},toy {n},toy_{n}\n" for n in range(1, TRAININGS + 1))


def concepts(job: BatchJob) -> list[bytes]:
    """What the table has brought, in its order."""
    lines = job.results()
    assert [line["status"] for line in lines] == ["done"] * TRAININGS, lines
    return [(job.out / line["files"]).read_bytes() for line in lines]


def kill_some(folder: Path, job: BatchJob, rng: random.Random) -> int:
    """Kill a card's ComfyUI when a training has a snapshot -> how many were killed."""
    runs = folder / "user" / "__detex" / "runs"
    for number in range(KILLS):
        known = set(runs.rglob("step_*"))
        wait_for(lambda seen=known: set(runs.rglob("step_*")) - seen or finished(job), 300)
        time.sleep(5 * rng.random())
        if finished(job):
            return number
        rng.choice(comfys(psutil.Process())).kill()
        wait_for(lambda: len(comfys(psutil.Process())) == 2, 120)
    return KILLS


def finished(job: BatchJob) -> bool:
    return len(job.records()) == TRAININGS


def main() -> None:
    exit_on_terminate()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batch-trainings-"))
    with ComfyServer(folder / "calm") as server:
        graph = training(STEPS, server.object_info(), snapshot_every=SNAPSHOT)
        (folder / "one").mkdir()
        calm = BatchJob(folder / "one", graph, TABLE, server.url)
        assert calm.run().returncode == 0
    (folder / "two").mkdir()
    job = BatchJob(folder / "two", graph, TABLE)
    begin = time.monotonic()
    with cluster(folder / "cards") as (_, _, where):
        process = job.start(*where)
        killed = kill_some(folder / "cards", job, random.Random(options.seed))
        output, errors = process.communicate(timeout=1200)
        print(output, errors)
    assert concepts(job) == concepts(calm)
    logs = "".join(p.read_text() for p in (job.out / ".jobs").glob("logs/*.log"))
    logs += "".join(p.read_text() for p in Path(tempfile.gettempdir()).glob("detex-batch/*.log"))
    result = {
        "trainings": TRAININGS,
        "steps": STEPS,
        "killed": killed,
        "continued": logs.count("Continued after step"),
        "seconds": round(time.monotonic() - begin),
    }
    options.out.write_text(json.dumps(facts() | {"seed": options.seed} | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
