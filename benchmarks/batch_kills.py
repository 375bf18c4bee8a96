"""Kill what renders a table, at random moments: every row must come once, with the same bytes.

    python -m benchmarks.batch_kills --out runs/batch_kills.json

Two ComfyUI servers with the demo model, 40 rows, and 20 runs in which one of these happens: SIGKILL
of a server, of an actor, of the driver, of a Ray node, of a card's ComfyUI; a server that hangs;
one that answers rubbish; a full disk. docs/batch_rendering.md has the result. Linux, as root for
the full disk.
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from devtools.batch_cluster import LOOPBACK, cluster, comfys, processes
from devtools.batch_jobs import BatchJob, toys, wait_for
from devtools.host_process import exit_on_terminate
from devtools.server import ComfyServer

from .batch_scale import facts

ROWS, STEPS = 40, 2
TABLE = "seed\n" + "".join(f"{seed}\n" for seed in range(1, ROWS + 1))
RUNS = {  # how many of each, done in rounds
    "server hangs": 3,
    "server answers rubbish": 3,
    "driver killed": 3,
    "actor killed": 2,
    "disk full": 2,
    "server killed": 3,
    "card's ComfyUI killed": 1,
    "card's actor killed": 1,
    "Ray node killed": 2,
}
PATIENCE = ("--patience", "5")


class Doubtful(ThreadingHTTPServer):
    """Hands everything on to a server, until it is to answer rubbish."""

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.rubbish = target, ""
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Doubtful

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        status, content = 200, self.server.rubbish.encode()
        if not content:
            kind = {"Content-Type": self.headers.get("Content-Type") or "text/plain"}
            request = urllib.request.Request(
                self.server.target + self.path, body, kind, method=self.command
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    content = answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Rack:
    """Two servers that outlive the runs, and are started again where a run has killed one."""

    def __init__(self, folder: Path, rng: random.Random):
        self.folder, self.rng = folder, rng
        self.servers = [ComfyServer(folder / name) for name in ("a", "b")]
        self.count = 0

    def up(self) -> None:
        for number, server in enumerate(self.servers):
            if not server.is_running():
                again = ComfyServer(server.base, port=server.port)
                self.servers[number] = again.__enter__()

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def job(self, *urls: str, out: Path | None = None) -> BatchJob:
        self.count += 1
        folder = self.folder / f"job{self.count}"
        folder.mkdir()
        job = BatchJob(folder, toys(STEPS), TABLE, *(urls or [s.url for s in self.servers]))
        job.out = out or job.out
        return job

    def moment(self, job: BatchJob) -> None:
        """Wait for a random one, between the third row and the thirtieth."""
        rows = self.rng.randint(3, 30)
        wait_for(lambda: len(job.records()) >= rows, 300)
        time.sleep(self.rng.random())


Harm = Callable[[Rack], tuple[BatchJob, str]]  # -> the job, and what the command said


def told(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return output + errors


def server_killed(rack: Rack) -> tuple[BatchJob, str]:
    job = rack.job()
    process = job.start()
    rack.moment(job)
    psutil.Process(rack.servers[1].pid).kill()
    said = told(process)
    rack.servers[1].stop()
    return job, said


def server_hangs(rack: Rack) -> tuple[BatchJob, str]:
    job = rack.job()
    process = job.start(*PATIENCE)
    rack.moment(job)
    hanging = psutil.Process(rack.servers[1].pid)
    hanging.suspend()
    said = told(process)
    hanging.resume()
    return job, said


def server_answers_rubbish(rack: Rack) -> tuple[BatchJob, str]:
    doubtful = Doubtful(rack.servers[1].url)
    job = rack.job(rack.servers[0].url, doubtful.url)
    process = job.start(*PATIENCE)
    rack.moment(job)
    doubtful.rubbish = rack.rng.choice(["<html>Sign in</html>", "{}", "[1]", "\x00\xff", "null"])
    said = told(process)
    doubtful.shutdown()
    return job, f"{doubtful.rubbish!r}: {said}"


def driver_killed(rack: Rack) -> tuple[BatchJob, str]:
    job = rack.job()
    process = job.start()
    rack.moment(job)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    psutil.wait_procs(family, 20)
    assert not [p for p in family if p.is_running()], "Ray has outlived its driver"
    return job, told(job.start())


def actor_killed(rack: Rack) -> tuple[BatchJob, str]:
    job = rack.job()
    process = job.start()
    rack.moment(job)
    rack.rng.choice(processes(psutil.Process(process.pid), "ray::Server")).kill()
    return job, told(process)


def disk_full(rack: Rack) -> tuple[BatchJob, str]:
    out = rack.folder / f"disk{rack.count}"
    out.mkdir()
    size = rack.rng.randint(400, 900)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", out], check=True)
    try:
        job = rack.job(out=out)
        first = job.run()
        assert first.returncode == 2, first.stderr
        assert "No space left" in first.stderr, first.stderr
        subprocess.run(["mount", "-o", "remount,size=50m", out], check=True)
        said = told(job.start())
        check(job, {})
        kept = rack.folder / f"kept{rack.count}"
        subprocess.run(["cp", "-r", out, kept], check=True)
        job.out = kept
        return job, first.stderr + said
    finally:
        subprocess.run(["umount", out], check=True)


def on_a_cluster(harm: Callable[[Rack, Any, list[Any]], None]) -> Harm:
    def run(rack: Rack) -> tuple[BatchJob, str]:
        with cluster(rack.folder / "cards") as (rays, nodes, where):
            job = rack.job()
            job.servers = ()
            process = job.start(*where)
            rack.moment(job)
            harm(rack, rays, nodes)
            return job, told(process)

    return run


def kill_comfy(rack: Rack, rays: Any, nodes: list[Any]) -> None:  # noqa: ARG001
    cards = [p for p in comfys(psutil.Process()) if "cards" in " ".join(p.cmdline())]
    rack.rng.choice(cards).kill()


def kill_card_actor(rack: Rack, rays: Any, nodes: list[Any]) -> None:  # noqa: ARG001
    rack.rng.choice(processes(psutil.Process(), "ray::CardServer")).kill()


def kill_node(rack: Rack, rays: Any, nodes: list[Any]) -> None:
    rays.remove_node(rack.rng.choice(nodes), allow_graceful=False)


HARMS: dict[str, Harm] = {
    "server killed": server_killed,
    "server hangs": server_hangs,
    "server answers rubbish": server_answers_rubbish,
    "driver killed": driver_killed,
    "actor killed": actor_killed,
    "disk full": disk_full,
    "card's ComfyUI killed": on_a_cluster(kill_comfy),
    "card's actor killed": on_a_cluster(kill_card_actor),
    "Ray node killed": on_a_cluster(kill_node),
}


def check(job: BatchJob, undisturbed: dict[str, bytes]) -> None:
    """Every row once, nothing lost, nothing doubled, nothing half, the same bytes."""
    lines = job.results()
    assert [line["status"] for line in lines] == ["done"] * ROWS
    assert [line["files"] for line in lines] == [f"{n:04d}.png" for n in range(1, ROWS + 1)]
    assert len(job.records()) == len({line["job"] for line in lines}) == ROWS
    assert not list(job.out.rglob("*.part"))
    assert job.pictures() == (undisturbed or job.pictures())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(HARMS))
    options = parser.parse_args()
    exit_on_terminate()
    os.environ.update(LOOPBACK)
    rack = Rack(Path(tempfile.mkdtemp(prefix="batch-kills-")), random.Random(options.seed))
    entries = []
    try:
        rack.up()
        first = rack.job()
        told(first.start())
        for name in in_rounds(RUNS if options.only is None else {options.only: 1}):
            rack.up()
            begin = time.monotonic()
            job, said = HARMS[name](rack)
            check(job, first.pictures())
            entries.append({"harm": name, "seconds": round(time.monotonic() - begin, 1)})
            print(json.dumps(entries[-1] | {"said": said}), flush=True)
            result = facts() | {"seed": options.seed, "rows": ROWS, "runs": entries}
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    finally:
        rack.close()


def in_rounds(runs: dict[str, int]) -> list[str]:
    """Each once, then those that come twice, and so on."""
    most = max(runs.values())
    return [name for turn in range(most) for name, count in runs.items() if count > turn]


if __name__ == "__main__":
    main()
