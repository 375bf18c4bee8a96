"""A card's ComfyUI at a port that another program has been faster to take.

The ComfyUI here is a page of code that answers as the real one does, and like it ends where its
port is taken. tests/host/test_batch.py has the real one.
"""

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from detex_pack.detex.batch import card
from detex_pack.detex.batch.card import CardServer, Comfy
from detex_pack.detex.batch.client import ServerLost

MAIN = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Comfy(BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {"/system_stats": {"system": {"argv": sys.argv}}, "/object_info": {}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answers[self.path]).encode())

    def log_message(self, *_):
        pass

HTTPServer.allow_reuse_address = sys.platform != "win32"
port = int(sys.argv[sys.argv.index("--port") + 1])
try:
    server = HTTPServer(("127.0.0.1", port), Comfy)
except OSError:
    sys.exit(f"Port {port} is already in use on address 127.0.0.1.")
server.serve_forever()
"""


@pytest.fixture
def comfy(tmp_path: Path) -> Comfy:
    (tmp_path / "main.py").write_text(MAIN)
    return Comfy(tmp_path, logs=tmp_path / "logs")


@pytest.fixture
def server(comfy: Comfy) -> Iterator[CardServer]:
    made = CardServer("card 0", comfy, patience=1)
    made.client.patience = 1  # for the other program, which does not answer
    yield made
    made.close([])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that some other program listens on, and does not answer."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def offer(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Have these be found free before any other: they are taken between that and the start."""
    found = itertools.chain(ports, iter(card._free_port, None))
    monkeypatch.setattr(card, "_free_port", lambda: next(found))


def test_a_port_that_another_program_takes_is_given_up_for_another(server, taken, monkeypatch):
    offer(monkeypatch, taken)
    assert server.object_info() == {}
    assert server.client.url != f"http://127.0.0.1:{taken}"


def test_another_comfyui_at_the_port_is_not_taken_for_the_card_s(comfy, server, monkeypatch):
    """Its pictures would lie in another folder, and two cards would share one server."""
    other = CardServer("card 1", comfy, patience=1)
    try:
        other.object_info()
        offer(monkeypatch, int(other.client.url.rpartition(":")[2]))
        server.object_info()
        assert server.client.url != other.client.url
        assert server._output in server.client.arguments()
    finally:
        other.close([])


def test_a_card_whose_port_another_comfyui_has_since_is_started_again(comfy, server, monkeypatch):
    server.object_info()
    first = server.client.url
    psutil.Process(server._process.pid).children()[0].kill()
    server._process.wait()
    other = CardServer("card 1", comfy, patience=1)
    offer(monkeypatch, int(first.rpartition(":")[2]))
    try:
        other.object_info()
        assert other.client.url == first
        server.object_info()
        assert server.client.url != first
    finally:
        other.close([])


def test_a_card_that_finds_every_port_taken_says_so(server, taken, monkeypatch):
    offer(monkeypatch, *[taken] * card.PORTS)
    with pytest.raises(ServerLost, match=f"other programs took the ports {taken}, {taken}"):
        server.object_info()


def test_a_comfyui_that_ends_for_another_reason_is_not_tried_again(comfy, server):
    (comfy.folder / "main.py").write_text("raise SystemExit('no module named torch')")
    with pytest.raises(ServerLost, match="no module named torch"):
        server.object_info()
    assert server.log.read_text().count("no module named torch") == 1
