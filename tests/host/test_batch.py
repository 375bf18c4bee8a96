"""Rendering a table over real servers: once, completely, and with clear words where it fails."""

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import PIL.Image
import psutil
import pytest

from detex_pack.detex.batch import card
from detex_pack.detex.batch.card import CardServer, Comfy
from detex_pack.detex.batch.command import main
from devtools.batch_jobs import (
    BatchJob,
    cluster,
    comfy_arguments,
    comfys,
    training,
    wait_for,
)
from devtools.graphs import node, toys
from devtools.host_process import free_port
from devtools.pack_host import host_folder
from devtools.server import ComfyServer

SLOW, QUICK = 400, 8  # sampling steps: a job that is never waited for; one of a second or so
RED, GREEN = 0xFF0000, 0x00FF00
COLOURS = f"Paint.color,name\n{RED},red\n{GREEN},green\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


class Elsewhere(HTTPServer):
    """A server that is no ComfyUI; it remembers the headers that matter."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Deaf)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.headers: dict[str, str] = {}


class Deaf(BaseHTTPRequestHandler):
    server: Elsewhere

    def do_GET(self) -> None:
        names = ("Authorization", "X-Team")
        self.server.headers = {name: self.headers[name] for name in names}
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def saved(server: ComfyServer) -> int:
    """How many pictures this server has ever saved."""
    return len(list((server.base / "output").rglob("*.png")))


def ctrl_c(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGINT)


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
    other = server.queue(
        toys(1) | {"o": node("SaveImage", images=["toy pixels", 0], filename_prefix="o")}
    )
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
    count = 24  # so many that the other server has not made them all before this one dies
    rows = "".join(f"{seed},toy {seed}\n" for seed in range(100, 100 + count))
    (tmp_path / "job").mkdir()
    with ComfyServer() as doomed:
        servers = server.url, doomed.url
        job = BatchJob(tmp_path / "job", toys(QUICK // 2), "KSampler.seed,name\n" + rows, *servers)
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


@pytest.mark.slow
def test_where_no_server_is_one_is_started_and_ends_with_the_command(colours, tmp_path):
    """It is that of --comfyui, with a folder of its own for what it saves."""
    base, colours.servers = tmp_path / "base", ()
    comfy = comfy_arguments(base)
    ended = colours.run("--comfyui", str(host_folder()), "--comfyui-args", comfy)
    assert ended.returncode == 0, ended.stderr
    assert [line["server"] for line in colours.results()] == ["ComfyUI", "ComfyUI"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(base) in str(p.info["cmdline"])]
    assert not list((base / "output").iterdir())


@pytest.mark.slow
def test_a_card_whose_port_another_comfyui_has_is_started_at_another(server, tmp_path, monkeypatch):
    ports = iter((server.port, free_port(), free_port()))
    monkeypatch.setattr(card, "_free_port", lambda: next(ports))
    arguments = comfy_arguments(tmp_path / "base").split()
    ours = CardServer("card 0", Comfy(host_folder(), arguments, tmp_path), patience=5)
    try:
        assert "EmptyImage" in ours.object_info()
        assert ours.client.url != server.url
        assert f"Port {server.port} is already in use" in ours.log.read_text()
    finally:
        ours.close([])


@pytest.mark.slow
def test_the_cards_of_a_cluster_share_a_table_and_one_that_dies_is_started_again(tmp_path):
    with cluster(tmp_path / "base") as (_, _, where):
        # enough rows that a card which starts a minute after the other finds some left
        job = BatchJob(tmp_path, toys(4 * QUICK), "seed\n" + "".join(f"{n}\n" for n in range(48)))
        process = job.start(*where)
        both = {"card 0", "card 1"}
        wait_for(lambda: {record["server"] for record in job.records()} == both)
        comfys(psutil.Process())[0].kill()
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert "48 rows: 48 done, 0 failed" in output
        assert "does not answer" in errors
    assert len(set(job.pictures().values())) == 48


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


def picture_file(path: Path, colour: str) -> Path:
    PIL.Image.new("RGB", (8, 8), colour).save(path)
    return path


def test_pictures_of_this_machine_are_sent_and_known_by_content(server, tmp_path):
    workflow = {
        "1": node("LoadImage", image="none.png"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="sent"),
    }
    picture_file(tmp_path / "photo.png", "red")
    job = BatchJob(tmp_path, workflow, "image\nphoto.png\n", server.url)
    ended = job.run()
    assert ended.returncode == 0, ended.stderr
    assert colour_of(job.pictures()["0001.png"]) == (255, 0, 0)
    picture_file(tmp_path / "photo.png", "lime")  # another content is another job
    assert job.run().returncode == 0
    assert colour_of(job.pictures()["0001.png"]) == (0, 255, 0)
    assert len(list((server.base / "input" / "detex").glob("photo-*.png"))) == 2


def test_a_product_renders_each_of_one_column_with_each_of_the_other(colours):
    colours.write_table(f"Paint.color,Paint.width\n{RED},8\n{GREEN},16\n,24\n")
    ended = colours.run("--product")
    assert ended.returncode == 0, ended.stderr
    values = [(line["Paint.color"], line["Paint.width"]) for line in colours.results()]
    assert values == [(str(c), w) for c in (RED, GREEN) for w in ("8", "16", "24")]
    sheet = (colours.out / "contact_sheet.html").read_text(encoding="utf-8")
    assert sheet.count("<img") == 6
    assert f"Paint.color: {GREEN}<br>Paint.width: 24" in sheet


def test_status_tells_how_far_a_stopped_run_came(colours, capsys):
    colours.run()
    assert main(["status", str(colours.out)]) == 0
    told = capsys.readouterr().out
    assert "2 of 2 rows done, 0 failed, 0 open." in told
    assert ", stopped " in told
    assert main(["status", str(colours.folder)]) == 2
    assert "No run has begun in" in capsys.readouterr().err


def test_headers_go_with_every_request(elsewhere, tmp_path, capsys):
    (tmp_path / "token").write_text("Authorization: Bearer secret\n")
    (tmp_path / "w.json").write_text("{}")
    command = ["--server", elsewhere.url, "--workflow", str(tmp_path / "w.json")]
    assert main([*command, "--header", f"@{tmp_path / 'token'}", "--header", "X-Team: a"]) == 2
    assert elsewhere.headers == {"Authorization": "Bearer secret", "X-Team": "a"}


def painting() -> dict[str, Any]:
    """The toys' workflow with a concept in it, whose file a row names."""
    workflow = toys(2)
    load = {"model": ["demo", 0], "file": "none.safetensors", "strength": 1}
    workflow["load"] = node("DETEXLoadEmbeddings", **load)
    text = {"text": "photo of a [V] ball", "pose": 0, "background": 0}
    workflow["text"] = node("DETEXComposePrompt", clip=["demo", 1], concept=["load", 1], **text)
    workflow["toy sample"]["inputs"]["model"] = ["load", 0]
    return workflow


def test_a_table_trains_concepts_and_the_next_one_paints_them(server, tmp_path):
    graph = training(4, server.object_info())
    table = "number,name,Exact LoRA.name\n1,one,toy_one\n2,two,toy_two\n"
    trained = BatchJob(tmp_path, graph, table, server.url)
    ended = trained.run()
    assert ended.returncode == 0, ended.stderr
    files = [line["files"] for line in trained.results()]
    assert files == ["0001_one.safetensors", "0002_two.safetensors"]
    (tmp_path / "next").mkdir()
    rows = "".join(f"../out/{file},{pose}\n" for file, pose in zip(files, (1, 2), strict=True))
    painted = BatchJob(tmp_path / "next", painting(), "file,pose\n" + rows, server.url)
    ended = painted.run()
    assert ended.returncode == 0, ended.stderr
    assert len(set(painted.pictures().values())) == 2
    painted.write_table(f"file,pose\n../out/{files[0]},9\n../out/{files[1]},2\n")
    refused = painted.run()
    assert refused.returncode == 2
    assert "Row 1 asks for [P9], but 0001_one-" in refused.stderr
    assert "has [V], [P1], [P2], [B1], [B2]." in refused.stderr
