"""The command detex.batch over a workflow of toys, and what comes of it."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .graphs import node
from .host_process import own_group
from .pack_host import ROOT
from .server import ComfyServer


def toys(steps: int) -> dict[str, Any]:
    """The demo model draws a ball."""
    return {
        "1": node("DETEXDemoModel"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a ball"),
        "3": node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "5": node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
            seed=0,
            steps=steps,
            cfg=4.0,
            sampler_name="ddim",
            scheduler="normal",
            denoise=1.0,
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="toy"),
    }


def training(steps: int, info: dict[str, Any], snapshot_every: int = 50) -> dict[str, Any]:
    """A toy is learned and saved: a row chooses toy and name."""
    small = {"steps": steps, "batch_size": 1, "lambda_pr": 0.0}
    small["snapshot_every"] = snapshot_every
    graph = {
        "1": node("DETEXDemoModel"),
        "2": node("DETEXDemoSubject", number=1, count=2, seed=0),
        "3": node("DETEXSubjectImages", images=["2", 0], masks=["2", 1], clip_vision=["1", 3],
                  vae=["1", 2], class_word=["2", 2], resolution=64),
        "4": node("DETEXTrain", model=["1", 0], clip=["1", 1], subject=["3", 0], **small),
        "5": node("DETEXSaveEmbeddings", concept=["4", 0], name="toy", stock_files=False),
    }  # fmt: skip
    return with_defaults(graph, info)


def with_defaults(graph: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The graph, with the default of every widget that it does not set."""
    for entry in graph.values():
        for name, spec in info[entry["class_type"]]["input"].get("required", {}).items():
            options = spec[1] if len(spec) > 1 else {}
            choices = spec[0] if isinstance(spec[0], list) else options.get("options") or [None]
            value = options.get("default", choices[0])
            if value is not None:
                entry["inputs"].setdefault(name, value)
    return graph


class BatchJob:
    """A folder with a workflow and a table, and the command that renders them."""

    def __init__(self, folder: Path, workflow: dict[str, Any], table: str, *servers: str):
        self.folder, self.servers = folder, servers
        self.out = folder / "out"
        (folder / "w.json").write_text(json.dumps(workflow), encoding="utf-8")
        self.write_table(table)

    def write_table(self, table: str) -> None:
        (self.folder / "jobs.csv").write_text(table, encoding="utf-8")

    def start(self, *more: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "detex.batch", *more]
        for server in self.servers:
            command += ["--server", server]
        command += ["--workflow", str(self.folder / "w.json"), "--out", str(self.out)]
        command += ["--table", str(self.folder / "jobs.csv")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, **pipes, **own_group())

    def run(self, *more: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*more)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def results(self) -> list[dict[str, str]]:
        with (self.out / "results.csv").open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def records(self) -> list[dict[str, Any]]:
        """The jobs that are home, while the command may still run."""
        found = (self.out / ".jobs").glob("??/*/record.json")  # not the half ones, *.part
        return [json.loads(file.read_text()) for file in found]

    def pictures(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.out.glob("*.png"))}


def saved(server: ComfyServer) -> int:
    """How many pictures this server has ever saved."""
    return len(list((server.base / "output").rglob("*.png")))


def ctrl_c(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGINT)


def wait_for(condition: Callable[[], object], timeout: float = 120.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
