"""A training whose server is killed is taken over by another one, and ends with the same bytes."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from devtools.batch_jobs import BatchJob, ended_well, training, wait_for
from devtools.server import ComfyServer

STEPS, SNAPSHOT_EVERY = 12, 3
TABLE = "number,name,Exact LoRA.name\n1,toy,toy\n"


def table_of(folder: Path, *servers: ComfyServer) -> BatchJob:
    graph = training(STEPS, servers[0].object_info(), SNAPSHOT_EVERY)
    return BatchJob(folder / "job", graph, TABLE, *(server.url for server in servers))


def concept(job: BatchJob) -> bytes:
    (line,) = job.all_done(1)
    return (job.out / line["files"]).read_bytes()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The concept of a training that nobody disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    with ComfyServer(folder / "node") as server:
        job = table_of(folder, server)
        ended_well(job.start())
    return concept(job)


def taken_over(folder: Path, users: Sequence[Path]) -> tuple[bytes, str]:
    """Kill the server that trains, once a snapshot is on the disk -> the concept, and the log of
    the server that has trained it. users: the user folder of each of the two servers.
    """
    with ExitStack() as stack:
        servers = []
        for number, user in enumerate(users):
            user.mkdir(parents=True, exist_ok=True)
            arguments = ["--user-directory", str(user)]
            server = ComfyServer(folder / f"node{number}", arguments=arguments)
            servers.append(stack.enter_context(server))
        job = table_of(folder, *servers)
        process = job.start("--patience", "5")
        wait_for(lambda: list(folder.rglob("step_*.safetensors")) or process.poll() is not None)
        (killed,) = (server for server in servers if server.queued())
        psutil.Process(killed.pid).kill()
        assert f"{killed.url} does not answer" in ended_well(process)
        (other,) = (server for server in servers if server is not killed)
        assert [line["server"] for line in job.results()] == [other.url]
        return concept(job), other.log_text()


@pytest.mark.slow
def test_without_a_shared_run_folder_it_begins_anew_elsewhere(calm: bytes, tmp_path: Path):
    found, log = taken_over(tmp_path, [tmp_path / "user0", tmp_path / "user1"])
    assert "Continued after step" not in log
    assert found == calm


@pytest.mark.slow
def test_with_a_shared_run_folder_it_goes_on_from_its_snapshot(calm: bytes, tmp_path: Path):
    found, log = taken_over(tmp_path, [tmp_path / "user"] * 2)
    assert "Continued after step" in log
    assert found == calm
