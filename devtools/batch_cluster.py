"""A Ray cluster on this machine's loopback, each node with a card that is none, for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from .host_process import prepare_base
from .pack_host import host_folder

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
# A node whose cores are all busy answers late; one that has died closes its connection at once.
PATIENT = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}
NODE = {
    "include_dashboard": False,
    "node_ip_address": "127.0.0.1",
    "num_cpus": 1,
    "object_store_memory": 200 * 2**20,
}


@contextmanager
def cluster(folder: Path, nodes: int = 2) -> Iterator[tuple[Any, list[Any], list[str]]]:
    """-> the cluster, its nodes beside the head, and the options with which the command uses it.

    folder: where the ComfyUIs work, all in one, on the CPU.
    """
    os.environ.update(LOOPBACK)  # read when Ray is imported
    from ray.cluster_utils import Cluster

    rays = Cluster(
        initialize_head=True, head_node_args={**NODE, "num_gpus": 0, "_system_config": PATIENT}
    )
    try:
        added = [rays.add_node(**NODE, num_gpus=1) for _ in range(nodes)]
        base = prepare_base(folder).parents[1]
        comfy = f"--cpu --disable-api-nodes --base-directory {base}"
        options = ["--ray", rays.address, "--comfyui", str(host_folder()), "--comfyui-args", comfy]
        yield rays, added, options
    finally:
        rays.shutdown()


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
    return [
        p for p in processes(parent, "main.py --port") if "guard.py" not in " ".join(p.cmdline())
    ]
