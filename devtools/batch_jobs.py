"""The command detex.batch over a workflow, where it runs, and what comes of it."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from detex_pack.detex.batch.api_prompt import to_api_prompt

from .graphs import Graph, upstream
from .host_process import own_group, prepare_base
from .pack_host import ROOT, host_folder
from .workflows import read_workflow

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
# A node whose cores are all busy answers late; one that has died closes its connection at once.
PATIENT = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}
RAY_NODE = {
    "include_dashboard": False,
    "node_ip_address": "127.0.0.1",
    "num_cpus": 1,
    "object_store_memory": 200 * 2**20,
}
HANGS = 3600.0  # seconds, after which nothing comes any more, however slow and busy the machine


def training(steps: int, info: dict[str, Any], snapshot_every: int = 50) -> Graph:
    """A toy is learned and saved: a row chooses toy and name."""
    graph = to_api_prompt(read_workflow("export_concept"), info)
    by_type = {entry["class_type"]: entry["inputs"] for entry in graph.values()}
    by_type["DETEXDemoSubject"]["count"] = 2
    by_type["DETEXTrain"] |= {"steps": steps, "batch_size": 1, "snapshot_every": snapshot_every}
    by_type["DETEXTrain"]["lambda_pr"] = 0.0
    del by_type["DETEXTrain"]["prior_images"]
    (save,) = (entry for entry in graph.values() if entry["_meta"]["title"] == "Exact LoRA")
    save["inputs"]["stock_files"] = False
    return upstream(graph, ["Exact LoRA"])


class BatchJob:
    """A folder with a workflow and a table, and the command that renders them."""

    def __init__(self, folder: Path, workflow: dict[str, Any], table: str, *servers: str):
        self.folder, self.servers = folder, servers
        self.out = folder / "out"
        folder.mkdir(exist_ok=True)
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
        output, errors = process.communicate(timeout=HANGS)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def results(self) -> list[dict[str, str]]:
        with (self.out / "results.csv").open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def all_done(self, rows: int) -> list[dict[str, str]]:
        """The results, of which every row must be done, each with a job of its own."""
        lines = self.results()
        assert [line["status"] for line in lines] == ["done"] * rows, lines
        assert len({line["job"] for line in lines}) == rows
        return lines

    def records(self) -> list[dict[str, Any]]:
        """The jobs that are home, while the command may still run."""
        found = (self.out / ".jobs").glob("??/*/record.json")  # not the half ones, *.part
        return [json.loads(file.read_text()) for file in found]

    def pictures(self) -> dict[str, bytes]:
        found = sorted(self.out.rglob("*.png"))  # long tables have a folder for each 1,000 rows
        return {path.name: path.read_bytes() for path in found if ".jobs" not in path.parts}


def ended_well(process: "subprocess.Popen[str]") -> str:
    """Wait for the command's end -> what it said."""
    output, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 0, errors
    return output + errors


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@contextmanager
def cluster(folder: Path, nodes: int = 2) -> Iterator[tuple[Any, list[Any], list[str]]]:
    """A Ray cluster on this machine's loopback, each node with a card that is none.

    -> the cluster, its nodes beside the head, and the options with which the command uses it.
    folder: where the ComfyUIs work, all in one, on the CPU.
    """
    os.environ.update(LOOPBACK)  # read when Ray is imported
    from ray.cluster_utils import Cluster

    rays = Cluster(
        initialize_head=True, head_node_args={**RAY_NODE, "num_gpus": 0, "_system_config": PATIENT}
    )
    try:
        added = [rays.add_node(**RAY_NODE, num_gpus=1) for _ in range(nodes)]
        comfy = ["--comfyui", str(host_folder()), "--comfyui-args", comfy_arguments(folder)]
        yield rays, added, ["--ray", str(rays.address), *comfy]
    finally:
        rays.shutdown()


def comfy_arguments(folder: Path) -> str:
    """Of a ComfyUI that the command starts: on the CPU, working in this folder with this pack."""
    prepare_base(folder)
    return f"--cpu --disable-api-nodes --base-directory {folder}"


def processes(parent: psutil.Process, word: str) -> list[psutil.Process]:
    """Its descendants with this word in their command lines."""
    found = []
    for process in parent.children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def comfys(parent: psutil.Process) -> list[psutil.Process]:
    """The ComfyUIs that the actors below this process have started."""
    found = processes(parent, "detex-card-")  # their folders; other servers of a test have none
    return [process for process in found if "guard.py" not in " ".join(process.cmdline())]
