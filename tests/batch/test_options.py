"""Which servers the command's options ask for, and what is said where that cannot be."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from detex_pack.detex.batch import rays
from detex_pack.detex.batch.card import CardServer, Comfy
from detex_pack.detex.batch.engine import Engine, Threads
from detex_pack.detex.batch.options import engine_for, headers_of, parser

NOBODY = "http://127.0.0.1:9"


def engine(*words: str) -> Engine:
    return engine_for(parser().parse_args(["--workflow", "w.json", *words]))


def test_one_server_is_called_from_threads():
    asked = engine("--server", "127.0.0.1:9")
    assert isinstance(asked, Threads)
    assert asked.servers == (NOBODY,)


def test_without_a_server_comfyui_is_started_where_the_pack_is_told_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("detex_pack.detex.batch.options.USUAL", NOBODY)
    (tmp_path / "main.py").touch()
    asked = engine("--comfyui", str(tmp_path), "--comfyui-args", "--cpu --base-directory 'a b'")
    assert isinstance(asked, Threads) and isinstance(asked.server, CardServer)
    assert asked.server.comfy.folder == tmp_path
    assert list(asked.server.comfy.arguments) == ["--cpu", "--base-directory", "a b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--server", "a", "--server", "http://a/"], "--server http://a is given twice"),
        (["--server", "a", "--gpus", "1"], "Give either --server, or --gpus and --ray"),
        (["--ray", "head:6379"], "--ray needs --comfyui PATH"),
        (
            ["--gpus", "some", "--comfyui", "{comfy}"],
            '--gpus some: give a number of cards, or "all"',
        ),
        (["--gpus", "0", "--comfyui", "{comfy}"], "--gpus 0: give a number"),
        (
            ["--gpus", "1", "--comfyui", "nowhere"],
            "There is no ComfyUI in nowhere. Name its folder",
        ),
        (
            ["--ray", "127.0.0.1:9", "--comfyui", "/x"],
            "The Ray cluster at 127.0.0.1:9 does not answer",
        ),
        (
            ["--gpus", "1", "--comfyui", "{comfy}", "--comfyui-args", "--cpu --port=8188"],
            "--comfyui-args has --port, but each card's ComfyUI has a free port of its own",
        ),
        (["--server", "a", "--header", "secret"], '--header must read "Name: value"'),
    ],
)
def test_what_does_not_go_together_is_told(words, message, tmp_path: Path):
    (tmp_path / "main.py").touch()
    with pytest.raises(ValueError, match=message):
        engine(*(word.format(comfy=tmp_path) for word in words))


def test_without_ray_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="need Ray: pip install ray"):
        engine("--server", "a", "--server", "b")


def test_a_cluster_of_another_version_is_told():
    error = RuntimeError("Version mismatch: The cluster was started with: Ray: 2.50 Python: 3.10")
    told = rays._refusal("head:6379", error)
    assert "head:6379 is of another version: Version mismatch" in told
    assert "Install the same Ray and Python here" in told


class BusyCluster:
    """Ray, with cards that others hold."""

    def __init__(self, cards: int, free: int):
        self.cards, self.free, self.open = cards, free, True

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": self.cards} if self.cards else {}

    def available_resources(self) -> dict[str, float]:
        return {"GPU": self.free} if self.free else {}

    def shutdown(self) -> None:
        self.open = False


@pytest.mark.parametrize(
    ("cards", "free", "asked", "told"),
    [
        (0, 0, None, r"has 0 card\(s\) that Ray sees, 0 of them free; wanted: one"),
        (4, 1, 2, r"has 4 card\(s\) that Ray sees, 1 of them free; wanted: 2"),
        (4, 1, None, r"has 4 card\(s\) that Ray sees, 1 of them free; wanted: 4"),
    ],
)
def test_cards_that_are_not_free_are_told(
    monkeypatch: pytest.MonkeyPatch, cards: int, free: int, asked: int | None, told: str
):
    ray = BusyCluster(cards, free)
    monkeypatch.setattr(rays, "connect", lambda _: ray)
    with pytest.raises(ValueError, match=f"The cluster at head:6379 {told}. Ask for fewer"):
        rays.of_cards(asked, "head:6379", Comfy(Path("comfy")), patience=1.0)
    assert not ray.open


def test_headers_are_read_from_the_command_and_from_files(tmp_path: Path):
    (tmp_path / "h").write_text("Authorization: Bearer a:b\n\nX-Team: red\n")
    assert headers_of(["Cookie: c", f"@{tmp_path / 'h'}"]) == {
        "Cookie": "c",
        "Authorization": "Bearer a:b",
        "X-Team": "red",
    }


def test_what_an_actor_started_ends_with_it():
    """The guard's standard input closes when who holds the pipe has died."""
    guard = Path(rays.__file__).with_name("guard.py")
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    command = [sys.executable, str(guard), *sleeper]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdin
    assert process.stdout.readline().strip() == b"up"
    process.stdin.close()
    assert process.stdout.read() == b""  # the sleeper, which had it open too, is gone
    process.wait(10)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a guard that is killed leaves it")
def test_what_an_actor_started_ends_with_its_guard():
    """Ray kills the children of a worker that has died, the guard among them."""
    guard = Path(rays.__file__).with_name("guard.py")
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    command = [sys.executable, str(guard), *sleeper]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout and process.stdout.readline().strip() == b"up"
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
