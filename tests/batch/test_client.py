"""The client of a server: addresses, answers that are not a ComfyUI's, what a prompt has saved."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from detex_pack.detex.batch.client import Client, PromptError, ServerLost, server_url
from detex_pack.detex.batch.server import saved_files


class Rubbish(BaseHTTPRequestHandler):
    """Answers one and the same, whatever is asked."""

    said = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.said)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


class OtherPage(BaseHTTPRequestHandler):
    """Some web server: /502 is a proxy without a server behind it, /view is not found."""

    def do_GET(self) -> None:
        status = {"/502": 502, "/404": 404, "/view": 404}.get(self.path.split("?")[0], 200)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), OtherPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
        ("gpu-1:8188", "http://gpu-1:8188"),
        ("https://host/comfy/", "https://host/comfy"),
    ],
)
def test_an_address_may_be_written_as_in_the_browser(text, url):
    assert server_url(text) == url


@pytest.mark.parametrize("text", ["", "ftp://host", "http://"])
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(ValueError, match="is not the address of a server"):
        server_url(text)


@pytest.mark.parametrize("path", ["/queue", "/404", "/502"])
def test_another_web_server_is_no_comfyui(path, elsewhere):
    with pytest.raises(ServerLost, match=f"{elsewhere} does not answer"):
        Client(elsewhere).get(path)


def test_a_prompt_that_another_web_server_took_is_not_queued(elsewhere):
    with pytest.raises(ServerLost, match=f"{elsewhere} does not answer .*/prompt is not what"):
        Client(elsewhere).queue({})


@pytest.fixture(params=["null", "{}", "[1]", "7", '{"a": null}', "\x00\xff", ""])
def rubbish(request: pytest.FixtureRequest) -> Iterator[Client]:
    handler = type("Says", (Rubbish,), {"said": request.param.encode("latin-1")})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Client(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize(
    "ask",
    [Client.arguments, Client.queued, lambda c: c.queue({}), lambda c: c.image("a.png")],
    ids=["arguments", "queued", "queue", "image"],
)
def test_rubbish_is_no_answer_whatever_is_asked(ask, rubbish):
    with pytest.raises(ServerLost):
        ask(rubbish)


@pytest.mark.parametrize("ask", [Client.object_info, lambda c: c.history("id")])
def test_rubbish_tells_of_no_node_and_of_no_finished_prompt(ask, rubbish):
    """An empty answer is one: a ComfyUI's history is empty before the end."""
    try:
        assert ask(rubbish) == {}
    except ServerLost as lost:
        assert "is not what a ComfyUI answers" in str(lost)


def test_a_picture_that_is_gone_is_told_with_its_address(elsewhere):
    with pytest.raises(PromptError, match=r"view\?filename=a.png.*404"):
        Client(elsewhere).image("a.png")


def test_where_nothing_listens_the_server_has_stopped():
    with pytest.raises(ServerLost) as caught:
        Client("http://127.0.0.1:9").queued()
    assert caught.value.stopped


def test_a_lost_server_is_told_from_another_process_too():
    told = pickle.loads(pickle.dumps(ServerLost("card 1", "the actor died")))
    assert str(told) == "card 1 does not answer (the actor died)."


def file(name: str, kind: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": kind}


def test_saved_files_come_in_the_order_of_the_nodes_without_previews():
    outputs = {
        "10": {"images": [file("c.png")]},
        "9": {"images": [file("a.png"), file("b.png")], "animated": [False]},
        "8": {"images": [file("preview.png", "temp")], "text": ["a ball"]},
        "11": {"gifs": [file("d.mp4")], "images": [file("a.png")]},
    }
    names = [f["filename"] for f in saved_files({"outputs": outputs})]
    assert names == ["a.png", "b.png", "c.png", "d.mp4"]


def test_previews_count_where_nothing_else_is_saved():
    outputs = {"8": {"images": [file("preview.png", "temp")]}}
    assert saved_files({"outputs": outputs}) == [file("preview.png", "temp")]


def test_a_workflow_may_save_no_picture():
    assert saved_files({"outputs": {"8": {"text": ["done"]}}}) == []


def test_the_command_needs_python_alone(root: Path):
    command = [sys.executable, "-S", "-m", "detex.batch", "--help"]  # -S: no installed packages
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "--retry-failed" in ended.stdout
