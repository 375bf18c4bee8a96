"""DreamBench's protocol at Stable Diffusion 1.5's size, killed twice, beside a run that is not."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from detex_pack.detex.evaluate.command import main as evaluate
from devtools.checkpoints import write_checkpoint, write_clip_vision
from devtools.host_process import prepare_base
from devtools.server import ComfyServer
from devtools.small_bench import bench_words, kill_when, records, write_bench

CHECKPOINT, VISION = "random_sd15.safetensors", "random_vitl14.safetensors"
LESS = (
    "--steps 3 --prior 2 --pictures 2 --sampling-steps 3 --references 2 --resolution 64 "
    f"--clip-vision {VISION}"
)


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
            raise RuntimeError(f"The command ended with {status}: see {self.server.log}")

    def digests(self) -> dict[str, str]:
        pages = (self.out / name for name in ("tables.md", "index.html"))
        return {page.name: hashlib.sha256(page.read_bytes()).hexdigest() for page in pages}


def protocol(folder: Path, *, seed: int) -> Iterator[dict[str, Any]]:
    """Two subjects, two prompts, two methods; random weights, pictures of 64 pixels, few steps.
    Command and ComfyUI are killed when the first concept is there, and again among the pictures.
    Tables and page must come out the same, byte for byte.
    """
    write_bench(folder)
    write_checkpoint(folder / CHECKPOINT, "sd15", seed)
    write_clip_vision(folder / VISION, seed)
    calm, killed = Bench(folder, "calm"), Bench(folder, "killed")
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
    if calm.digests() != killed.digests():
        raise RuntimeError(f"Killed and calm runs differ: {calm.out} and {killed.out}")
    yield found | {"digests": calm.digests()}
