"""Rendering a table over real servers: once, completely, and with clear words where it fails."""

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import psutil
import pytest

from detex_pack.detex.batch.__main__ import main
from devtools.batch_jobs import BatchJob, ctrl_c, saved, toys, wait_for
from devtools.graphs import node
from devtools.server import ComfyServer

SLOW, QUICK = 400, 8  # sampling steps: a job that is never waited for; one of a second or so
RED, GREEN = 0xFF0000, 0x00FF00
COLOURS = f"Paint.color,name\n{RED},red\n{GREEN},green\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture
def colours(server: ComfyServer, tmp_path: Path) -> BatchJob:
    """Two rows that cost nothing to render, in the page's own format."""
    paint = {"id": 1, "type": "EmptyImage", "title": "Paint", "widgets_values": [8, 8, 1, 0]}
    wire = [{"name": "images", "type": "IMAGE", "link": 1}]
    save = {"id": 2, "type": "SaveImage", "widgets_values": ["colour"], "inputs": wire}
    nodes = [{"mode": 0, **entry} for entry in (paint, save)]
    workflow = {"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]]}
    return BatchJob(tmp_path, workflow, COLOURS, server.url)


def colour_of(content: bytes) -> tuple[int, ...]:
    return PIL.Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))


def test_every_row_has_its_picture_and_a_second_run_renders_nothing(colours, server):
    before = saved(server)
    first = colours.run()
    assert first.returncode == 0, first.stderr
    assert "2 rows: 2 done, 0 failed, 0 not rendered; 0 of them before." in first.stdout
    pictures = colours.pictures()
    assert list(pictures) == ["0001_red.png", "0002_green.png"]
    assert [colour_of(p) for p in pictures.values()] == [(255, 0, 0), (0, 255, 0)]
    second = colours.run()
    assert second.returncode == 0
    assert "2 of them before." in second.stdout
    assert saved(server) == before + 2
    assert colours.pictures() == pictures
    for line in colours.results():
        assert (line["status"], line["server"]) == ("done", server.url)
        assert float(line["seconds"]) >= 0


def test_only_the_changed_row_is_rendered_again(colours, server):
    colours.run()
    before = saved(server)
    blue = 0x0000FF
    colours.write_table(f"Paint.color,name\n{blue},blue\n{RED},red\n{GREEN},still green\n")
    assert colours.run().returncode == 0
    assert saved(server) == before + 1
    assert {name: colour_of(p) for name, p in colours.pictures().items()} == {
        "0001_blue.png": (0, 0, 255),
        "0002_red.png": (255, 0, 0),
        "0003_still green.png": (0, 255, 0),
    }


def test_a_wrong_table_is_refused_before_anything_is_queued(colours, server):
    before = server.log_text().count("got prompt")
    colours.write_table("Paint.colour,height\n1,x\n")
    ended = colours.run()
    assert ended.returncode == 2
    assert 'Column "Paint.colour" names no input of the workflow.' in ended.stderr
    assert "1.color" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert server.log_text().count("got prompt") == before
    assert not colours.out.exists()


def test_without_a_table_the_names_are_listed(colours, capsys):
    workflow = str(colours.folder / "w.json")
    assert main(["--server", colours.servers[0], "--workflow", workflow]) == 0
    assert "1.color            Paint.color" in capsys.readouterr().out


def test_a_failing_row_is_told_with_its_node_and_not_tried_again(server, tmp_path):
    workflow = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "2": node("SaveImage", images=["1", 0], filename_prefix="good"),
    }
    table = "color,Save Image.filename_prefix\n1,good\n2,../bad\n3,good\n"
    job = BatchJob(tmp_path, workflow, table, server.url)
    ended = job.run()
    assert ended.returncode == 1
    assert f"Row 2 failed on {server.url}: node 2 (SaveImage)" in ended.stderr
    assert [line["status"] for line in job.results()] == ["done", "failed", "done"]
    assert "outside the output" in job.results()[1]["error"]
    asked = server.log_text().count("got prompt")
    assert job.run().returncode == 1
    assert server.log_text().count("got prompt") == asked
    job.run("--retry-failed")
    assert server.log_text().count("got prompt") == asked + 1


def test_a_job_that_the_server_refuses_is_told(server, tmp_path):
    workflow = {"1": node("SaveImage", filename_prefix="x")}
    job = BatchJob(tmp_path, workflow, "filename_prefix\na\n", server.url)
    ended = job.run()
    assert ended.returncode == 1
    assert "node 1 (SaveImage): Required input is missing" in ended.stderr


def test_a_server_without_the_workflow_s_nodes_is_told(server, tmp_path):
    job = BatchJob(tmp_path, {"1": node("NoSuchNode")}, "x\n1\n", server.url)
    ended = job.run()
    assert ended.returncode == 2
    assert "no node named NoSuchNode" in ended.stderr


def test_no_server_at_all_is_told(tmp_path):
    job = BatchJob(tmp_path, {"1": node("SaveImage")}, "x\n1\n", "http://127.0.0.1:9")
    ended = job.run()
    assert ended.returncode == 2
    assert "http://127.0.0.1:9 does not answer" in ended.stderr
    assert "Start a server, or correct its address." in ended.stderr


def test_what_someone_takes_out_of_the_queue_is_rendered_all_the_same(server, tmp_path):
    job = BatchJob(tmp_path, toys(QUICK), "seed\n1\n2\n", server.url)
    before = saved(server)
    process = job.start()
    wait_for(lambda: len(server.queued()) == 2)
    server._send("/queue", {"clear": True})
    server.interrupt()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "2 done" in output
    assert saved(server) == before + 2


@pytest.fixture
def heeded_ctrl_c() -> Iterator[None]:
    """A shell that runs the tests in the background has all that they start ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_takes_back_its_own_prompts_and_no_others(server, tmp_path):
    job = BatchJob(tmp_path, toys(SLOW), "seed\n11\n12\n13\n", server.url)
    process = job.start()
    wait_for(lambda: len(server.queued()) == 2)
    other = server.queue(toys(1) | {"8": node("SaveImage", images=["6", 0], filename_prefix="o")})
    ctrl_c(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. Run the same command again to go on." in errors
    assert "Traceback" not in errors
    wait_for(lambda: server.history(other))
    assert server.history(other)["status"]["status_str"] == "success"
    wait_for(lambda: not server.queued())
    assert [line["status"] for line in job.results()] == ["waiting"] * 3


def test_a_killed_command_goes_on_with_what_the_server_renders(server, tmp_path):
    """The jobs that it had asked for are neither lost nor asked for twice."""
    job = BatchJob(tmp_path, toys(QUICK), "seed\n21\n22\n23\n", server.url)
    before = saved(server)
    process = job.start()
    wait_for(lambda: len(server.queued()) == 2)
    process.kill()
    process.communicate()
    ended = job.run()
    assert ended.returncode == 0, ended.stderr
    assert saved(server) == before + 3
    assert len(job.pictures()) == 3


@pytest.mark.slow
def test_a_server_killed_midway_loses_nothing_and_nothing_is_rendered_twice(server, tmp_path):
    count = 36  # so many that the other server has not made them all before this one dies
    rows = "".join(f"{seed},toy {seed}\n" for seed in range(100, 100 + count))
    (tmp_path / "job").mkdir()
    with ComfyServer() as doomed:
        servers = server.url, doomed.url
        job = BatchJob(tmp_path / "job", toys(QUICK), "KSampler.seed,name\n" + rows, *servers)
        before = saved(server)
        process = job.start()
        kill_between_two_pictures(doomed, job)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert f"{doomed.url} does not answer" in errors
        lines = job.results()
        assert [line["status"] for line in lines] == ["done"] * count
        there = [line["server"] for line in lines].count(doomed.url)
        assert 2 <= there == saved(doomed) < count
        assert saved(server) - before == count - there
    assert list(job.pictures()) == [line["files"] for line in lines]
    assert len(set(job.pictures().values())) == count
    second = job.run()  # with a server that is no more
    assert second.returncode == 0, second.stderr
    assert f"{count} of them before" in second.stdout
    assert saved(server) - before == count - there


@pytest.mark.slow
def test_the_only_server_may_be_started_again(tmp_path):
    (tmp_path / "job").mkdir()
    with ComfyServer(tmp_path / "base") as first:
        table = "seed\n" + "".join(f"{seed}\n" for seed in range(200, 205))
        job = BatchJob(tmp_path / "job", toys(QUICK), table, first.url)
        process = job.start("--patience", "600")
        kill_between_two_pictures(first, job)
    with ComfyServer(tmp_path / "base", port=first.port) as second:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert f"{second.url} answers again." in errors
        assert saved(second) == 5  # both servers save in one folder
    assert len(set(job.pictures().values())) == 5


def kill_between_two_pictures(server: ComfyServer, job: BatchJob) -> None:
    """End the server while it renders, when all that it has saved is home."""
    process = psutil.Process(server.pid)

    def ended() -> bool:
        process.suspend()
        home = sum(record["server"] == server.url for record in job.records())
        if home >= 2 and saved(server) == home:
            process.kill()
            return True
        process.resume()
        return False

    wait_for(ended)
