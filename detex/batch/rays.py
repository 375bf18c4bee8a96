"""Servers as Ray actors: on the cards of this machine, of a cluster, or anywhere by their address.

Ray places the actors, notices when one, its card or its machine dies, and starts it again: there,
or where a card is free. A job that dies with its actor goes to whichever server is free first, as
with a server that stops; the wait for a server is the one call that Ray repeats.
"""

import os
import signal
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .card import CardServer, Comfy
from .client import ServerLost
from .engine import QUEUED
from .server import LEAVE_PATIENCE, Server

INSTALL = "Several servers and cards need Ray: pip install ray"
CONNECT_WITHIN = 10.0  # s
# a machine whose cores are all busy answers late, and is not dead
PATIENT = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}
ROOM = {"object_store_memory": 512 * 2**20}  # for pictures on their way; more goes to the disk


def import_ray() -> Any:
    """Raises ValueError with the install line where Ray is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415  # only who has several servers needs it
        import ray.exceptions  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(f"{INSTALL} ({error})") from error
    return ray


def connect(address: str | None) -> Any:
    """Ray, on this machine alone, or with the cluster at this address.

    Raises ValueError where the cluster does not answer or is of another version.
    """
    ray = import_ray()
    if address:
        _check_listening(address)
    before = signal.getsignal(signal.SIGTERM)
    alone = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    alone |= {"_system_config": PATIENT}
    code = {"py_modules": [str(Path(__file__).parents[1])]}  # the other machines need not have it
    options = {"address": address, "runtime_env": code} if address else alone | ROOM
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise ValueError(_refusal(address, error)) from error
    signal.signal(signal.SIGTERM, before)
    return ray


def _check_listening(address: str) -> None:
    """Ray itself would try for a minute."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdecimal():  # "auto"
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_WITHIN).close()
    except OSError as error:
        raise ValueError(_refusal(address, error)) from error


def _refusal(address: str | None, error: Exception) -> str:
    if "ersion mismatch" in str(error):
        return (
            f"The Ray cluster at {address} is of another version: {error} Install the same Ray and "
            "Python here, or run the command on one of its machines."
        )
    if address:
        return f"The Ray cluster at {address} does not answer: {error}"
    return f"Ray did not start: {error}"


class Rays:
    """The engine over actors. actors: by the name of the server."""

    def __init__(self, ray: Any, actors: Mapping[str, Any]):
        self.ray, self.actors = ray, dict(actors)
        self.servers = tuple(actors)

    def call(self, server: str, method: str, *arguments: Any) -> Any:
        return getattr(self.actors[server], method).remote(*arguments)

    def wait(self, calls: Collection[Any], timeout: float) -> list[Any]:
        refs = list(calls)
        if not self.ray.wait(refs, timeout=timeout)[0]:
            return []
        return self.ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def result(self, call: Any) -> Any:
        try:
            return self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:  # raised there by what was called
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise ServerLost("Ray's actor", str(error).splitlines()[0]) from error

    def share(self, content: bytes) -> Any:
        return self.ray.put(content)

    def close(self, queued: Mapping[str, list[str]]) -> None:
        if not self.ray.is_initialized():
            return
        calls = [self.call(name, "close", queued.get(name, [])) for name in self.servers]
        self.ray.wait(calls, num_returns=len(calls), timeout=LEAVE_PATIENCE + 1)
        self.ray.shutdown()


def of_servers(urls: Collection[str], patience: float, headers: Mapping[str, str]) -> Rays:
    """An actor on this machine for each server that runs already."""
    ray = connect(None)
    actor = _actor(ray, Server)
    return Rays(ray, {url: actor.remote(url, patience, headers) for url in urls})


def of_cards(count: int | None, address: str | None, comfy: Comfy, patience: float) -> Rays:
    """An actor with a ComfyUI for each card, or for so many of them.

    Raises ValueError where there are not so many.
    """
    ray = connect(address)
    cards = int(ray.cluster_resources().get("GPU", 0))
    free = int(ray.available_resources().get("GPU", 0))
    wanted = cards if count is None else count
    if not 0 < wanted <= free:
        where = f"The cluster at {address}" if address else "This machine"
        ray.shutdown()
        raise ValueError(
            f"{where} has {cards} card(s) that Ray sees, {free} of them free; wanted: "
            f"{wanted or 'one'}. Ask for fewer with --gpus, or start ComfyUI and use --server."
        )
    actor = _actor(ray, CardServer).options(num_gpus=1)
    names = [f"card {number}" for number in range(wanted)]
    return Rays(ray, {name: actor.remote(name, comfy, patience) for name in names})


def _actor(ray: Any, kind: type[Server]) -> Any:
    """Restarted whenever it dies. Only the wait for a server is tried again with it: a job would
    wait for the restart while other servers are free.
    """

    repeat = ray.method(max_task_retries=-1)
    waits = {name: repeat(getattr(kind, name)) for name in ("enter", "object_info")}
    actor = type(kind.__name__, (kind,), waits)
    return ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=QUEUED + 2)(actor)
