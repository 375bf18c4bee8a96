"""Kill what renders a table, at random moments: every row must come once, with the same bytes."""

import http.client
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from devtools.batch_jobs import HANGS, BatchJob, cluster, comfys, ended_well, processes, wait_for
from devtools.graphs import toys
from devtools.server import ComfyServer

ROWS, STEPS = 40, 10
TABLE = "seed\n" + "".join(f"{seed}\n" for seed in range(1, ROWS + 1))
IMPATIENT = ("--patience", "5")
NONSENSE = ["<html>Sign in</html>", "{}", "[1]", "\x00\xff", "null"]
RAYS_AGENTS = ("DashboardAgent", "RuntimeEnvAgent")

Process = subprocess.Popen[str]


class Doubtful(ThreadingHTTPServer):
    """Hands everything on to a server, until it is to answer rubbish."""

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.rubbish = port, ""
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Doubtful

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = 200, self.server.rubbish.encode()
        if not content:
            line = http.client.HTTPConnection("127.0.0.1", self.server.target)
            line.request(self.command, self.path, body, dict(self.headers))
            answer = line.getresponse()
            status, content = answer.status, answer.read()
            line.close()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Rack:
    """Two servers that outlive the runs, and are put in order where a run has harmed one."""

    def __init__(self, folder: Path, rng: random.Random):
        self.folder, self.rng, self.count = folder, rng, 0
        self.pace = 0.0  # seconds a row of an undisturbed run
        self.servers = [ComfyServer(folder / name) for name in ("a", "b")]
        self.doubtful = Doubtful(self.servers[1].port)
        self.rays: Any = None  # the cluster, and its nodes beside the head
        self.nodes: list[Any] = []

    def up(self) -> None:
        self.doubtful.rubbish = ""
        for server in self.servers:
            if server.is_running():
                psutil.Process(server.pid).resume()
            else:
                server.__enter__()

    def close(self) -> None:
        self.doubtful.shutdown()
        for server in self.servers:
            server.close()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def job(self) -> BatchJob:
        self.count += 1
        return BatchJob(self.folder / f"job{self.count}", toys(STEPS), TABLE, *self.urls)


Options = AbstractContextManager[tuple[str, ...]]  # of the command, while the place is there


def on_servers(_: Rack, __: BatchJob) -> Options:
    return nullcontext(IMPATIENT)


def through_doubtful(rack: Rack, job: BatchJob) -> Options:
    job.servers = (rack.urls[0], rack.doubtful.url)
    return nullcontext(IMPATIENT)


@contextmanager
def on_small_disk(rack: Rack, job: BatchJob) -> Iterator[tuple[str, ...]]:
    disk, job.out = job.out, job.folder / "small"
    job.out.mkdir()
    size = f"size={rack.rng.randint(400, 900)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", job.out], check=True)
    try:
        yield ()
        subprocess.run(["cp", "-r", job.out, disk], check=True)
    finally:
        subprocess.run(["umount", job.out], check=True)
        job.out = disk


@contextmanager
def on_cards(rack: Rack, job: BatchJob) -> Iterator[tuple[str, ...]]:
    job.servers = ()
    with cluster(rack.folder / "cards") as (rack.rays, rack.nodes, where):
        yield tuple(where)


def kill_server(rack: Rack, *_: object) -> None:
    psutil.Process(rack.servers[1].pid).kill()


def hang_server(rack: Rack, *_: object) -> None:
    psutil.Process(rack.servers[1].pid).suspend()


def answer_rubbish(rack: Rack, *_: object) -> None:
    rack.doubtful.rubbish = rack.rng.choice(NONSENSE)
    print(repr(rack.doubtful.rubbish), flush=True)


def kill_actor(rack: Rack, _: BatchJob, process: Process) -> None:
    rack.rng.choice(processes(psutil.Process(process.pid), "ray::Server")).kill()


def kill_driver(_: Rack, job: BatchJob, process: Process) -> Process:
    """The run must end with it, save Ray's own agents, which see later that their node is gone."""
    driver = psutil.Process(process.pid)
    agents = [agent for name in RAYS_AGENTS for agent in processes(driver, name)]
    family = [p for p in driver.children(recursive=True) if p not in agents]
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_alive, family)))
    return job.start()


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_comfy(rack: Rack, *_: object) -> None:
    cards = [p for p in comfys(psutil.Process()) if "cards" in " ".join(p.cmdline())]
    rack.rng.choice(cards).kill()


def kill_card_actor(rack: Rack, *_: object) -> None:
    rack.rng.choice(processes(psutil.Process(), "ray::CardServer")).kill()


def kill_node(rack: Rack, *_: object) -> None:
    rack.rays.remove_node(rack.rng.choice(rack.nodes), allow_graceful=False)


def enlarge_disk(_: Rack, job: BatchJob, process: Process) -> Process:
    """The command has ended, or will, as the disk is full."""
    output, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 2, output
    assert "No space left" in errors, errors
    subprocess.run(["mount", "-o", "remount,size=50m", job.out], check=True)
    return job.start()


Harm = Callable[[Rack, BatchJob, Process], Process | None]  # -> the command, where it began anew

HARMS: dict[str, tuple[int, Callable[[Rack, BatchJob], Options], Harm]] = {  # how many of each
    "server hangs": (3, on_servers, hang_server),
    "server answers rubbish": (3, through_doubtful, answer_rubbish),
    "driver killed": (3, on_servers, kill_driver),
    "actor killed": (2, on_servers, kill_actor),
    "disk full": (2, on_small_disk, enlarge_disk),
    "server killed": (3, on_servers, kill_server),
    "card's ComfyUI killed": (1, on_cards, kill_comfy),
    "card's actor killed": (1, on_cards, kill_card_actor),
    "Ray node killed": (2, on_cards, kill_node),
}


def harmed(rack: Rack, name: str) -> BatchJob:
    """A run that comes to harm at a random moment, from the third row to about the thirtieth."""
    _, place, harm = HARMS[name]
    job, rows = rack.job(), rack.rng.randint(3, 20)
    with place(rack, job) as options:
        process = job.start(*options)
        wait_for(lambda: len(job.records()) >= rows or process.poll() is not None)
        time.sleep(10 * rack.pace * rack.rng.random())
        print(ended_well(harm(rack, job, process) or process), flush=True)
    return job


def check(job: BatchJob, pictures: dict[str, bytes]) -> None:
    """Every row once, nothing lost, nothing doubled, nothing half, the same bytes."""
    lines = job.all_done(ROWS)
    assert [line["files"] for line in lines] == [f"{n:04d}.png" for n in range(1, ROWS + 1)]
    assert len(job.records()) == ROWS
    assert not list(job.out.rglob("*.part"))
    assert job.pictures() == pictures


def kills(folder: Path, *, seed: int, only: str | None) -> Iterator[dict[str, Any]]:
    """Two servers with the demo model, or two cards of a Ray cluster, 40 rows; 20 runs. Linux, as
    root for the full disk.
    """
    rack, runs = Rack(folder, random.Random(seed)), []
    try:
        rack.up()
        undisturbed = rack.job()
        process = undisturbed.start()
        wait_for(undisturbed.records)
        begin = time.monotonic()
        ended_well(process)
        rack.pace = (time.monotonic() - begin) / ROWS
        for name in [only] if only else in_rounds():
            rack.up()
            begin = time.monotonic()
            check(harmed(rack, name), undisturbed.pictures())
            runs.append({"harm": name, "seconds": round(time.monotonic() - begin, 1)})
            yield {"rows": ROWS, "runs": runs}
    finally:
        rack.close()


def in_rounds() -> list[str]:
    """Each once, then those that come twice, and so on."""
    counts = {name: count for name, (count, _, _) in HARMS.items()}
    return [n for turn in range(max(counts.values())) for n in counts if counts[n] > turn]
