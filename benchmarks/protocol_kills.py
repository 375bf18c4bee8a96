"""DreamBench's protocol at Stable Diffusion 1.5's size, killed twice, beside a run that is not.

    OMP_NUM_THREADS=1 nice -n 5 python -m benchmarks.protocol_kills FOLDER

Two subjects, two prompts, two methods; random weights, pictures of 64 pixels, few steps. Command
and ComfyUI are killed when the first concept is there, and again among the pictures. Tables and
page must come out the same, byte for byte.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from devtools.checkpoints import write_checkpoint, write_clip_vision
from devtools.host_process import prepare_base
from devtools.pack_host import register_pack
from devtools.server import ComfyServer
from devtools.small_bench import bench_words, kill_when, records, write_bench

from .machine import facts

register_pack()

from detex_pack.detex.evaluate.command import main as evaluate

CHECKPOINT, VISION = "random_sd15.safetensors", "random_vitl14.safetensors"
LESS = (
    "--steps 3 --prior 2 --pictures 2 --sampling-steps 3 --references 2 --resolution 64 "
    f"--clip-vision {VISION}"
)
SAME = ("tables.md", "index.html")


class Bench:
    """A ComfyUI's folder, and what the command makes with it."""

    def __init__(self, home: Path, name: str):
        self.home, self.out = home, home / name / "out"
        self.server = ComfyServer(home / name / "server")
        prepare_base(self.server.base)
        for file, kind in ((CHECKPOINT, "checkpoints"), (VISION, "clip_vision")):
            link = self.server.base / "models" / kind / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((home / file).resolve())

    def words(self) -> list[str]:
        return bench_words(self.home, self.out, self.server.url, CHECKPOINT, LESS)

    def done(self) -> dict[str, int]:
        """Rows that are home."""
        trainings = sum(records(folder) for folder in self.out.glob("trainings/*/"))
        return {"trainings": trainings, "pictures": records(self.out / "pictures")}

    def kill_when(self, reached: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """Run until it is reached, then kill command and server -> what was done."""
        with self.server as server:
            kill_when(self.words(), lambda: reached(self.done()))
            psutil.Process(server.pid).kill()
        return self.done()

    def finish(self) -> None:
        with self.server:
            status = evaluate(self.words())
        if status:
            sys.exit(f"The command ended with {status}: see {self.server.log}")

    def digests(self) -> dict[str, str]:
        return {n: hashlib.sha256((self.out / n).read_bytes()).hexdigest() for n in SAME}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="an empty one; not in the repository")
    home = parser.parse_args().folder.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"  # more threads add in another order
    home.mkdir(parents=True, exist_ok=True)
    write_bench(home)
    write_checkpoint(home / CHECKPOINT, "sd15")
    write_clip_vision(home / VISION)
    calm, killed = Bench(home, "calm"), Bench(home, "killed")
    start = time.monotonic()
    calm.finish()
    between = time.monotonic()
    kills = [
        killed.kill_when(lambda done: done["trainings"] > 0),
        killed.kill_when(lambda done: done["pictures"] > 1),
    ]
    killed.finish()
    seconds = {"calm": round(between - start), "killed": round(time.monotonic() - between)}
    found = {"rows": calm.done(), "done at each kill": kills, "seconds": seconds}
    found |= {"digests": calm.digests(), "same": calm.digests() == killed.digests()}
    print(json.dumps({**found, **facts()}, indent=1))
    sys.exit(not found["same"])


if __name__ == "__main__":
    main()
