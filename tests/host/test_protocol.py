"""DreamBench's protocol from photos to tables, on the demo model: killed twice, and not at all."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.evaluate.command import main
from detex_pack.detex.toys.subjects import demo_subject
from devtools.batch_jobs import HANGS, wait_for
from devtools.host_process import own_group
from devtools.pack_host import ROOT
from devtools.server import ComfyServer
from devtools.small_encoders import write_clip, write_dino

LIST = """subject_name,class
ball_one,{0}
ball_two,{1}
lost,vase

Object Prompts
'a {{0}} {{1}} in water background'.format(unique_token, class_token),
'a small {{0}} {{1}}'.format(unique_token, class_token),

Live Subject Prompts
'a {{0}} {{1}} wearing a hat'.format(unique_token, class_token),
"""
ROWS = 8  # of pictures: two methods, subjects and prompts
LESS = "--steps 3 --prior 2 --pictures 2 --sampling-steps 6 --references 2 --rate 25"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, masks and encoders."""
    folder = tmp_path_factory.mktemp("bench")
    toys = {name: demo_subject(number, 3, seed=0) for number, name in
            enumerate(("ball_one", "ball_two"))}  # fmt: skip
    for name, toy in toys.items():
        for kind, planes in (("photos", toy.images), ("masks", toy.masks)):
            (folder / kind / name).mkdir(parents=True)
            for i, plane in enumerate(planes):
                shown = plane if plane.ndim == 3 else plane[..., None].repeat(1, 1, 3)
                as_picture(shown).save(folder / kind / name / f"{i:02d}.png")
    text = LIST.format(*(toy.class_word for toy in toys.values()))
    (folder / "photos" / "prompts_and_classes.txt").write_text(text)
    write_clip(folder / "clip")
    write_dino(folder / "dino")
    return folder


def words(home: Path, out: Path, server: str) -> list[str]:
    line = ["--photos", str(home / "photos"), "--masks", str(home / "masks"), "--server", server]
    line += ["--encoders", str(home / "clip"), str(home / "dino"), "--out", str(out)]
    return ["dreambench", *line, "--methods", "detex,textual_inversion", "--checkpoint", "demo",
            *LESS.split()]  # fmt: skip


def records(folder: Path) -> int:
    return len(list((folder / ".jobs").glob("??/*/record.json")))


def kill_when(home: Path, out: Path, server: str, done: Callable[[], bool]) -> None:
    command = [sys.executable, "-m", "detex.evaluate", *words(home, out, server)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **pipes, **own_group())
    wait_for(lambda: done() or process.poll() is not None)
    assert process.poll() is None, process.communicate(timeout=HANGS)[0]
    process.kill()
    process.wait()


@pytest.mark.slow
def test_killed_twice_it_ends_in_the_same_tables(home: Path, tmp_path: Path, capsys):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    with ComfyServer() as server:
        assert main(words(home, calm, server.url)) == 0, capsys.readouterr().err
    learned, drawn = killed / "trainings" / "features", killed / "pictures"
    with ComfyServer() as server:
        kill_when(home, killed, server.url, lambda: records(learned) > 0)
        assert not drawn.exists()
        kill_when(home, killed, server.url, lambda: records(drawn) > 1)
        assert records(drawn) < ROWS and not (killed / "scores").exists()
        assert main(words(home, killed, server.url)) == 0, capsys.readouterr().err
    for name in ("tables.md", "index.html"):
        assert (killed / name).read_bytes() == (calm / name).read_bytes()
    told = (calm / "tables.md").read_text()
    assert "2 of 3 subjects, 2 prompts each, 2 pictures a prompt, 2 methods: 16 pictures" in told
    assert "| method | CLIP-T | CLIP-I | CLIP-I fg_ref | DINO-I | DINO-I fg_ref |" in told
    assert "| Textual Inversion | " in told and "| DETEX | " in told
    pages = (calm / "index.html").read_text()
    for part in pages.split('src="')[1:]:
        assert (calm / unquote(part.partition('"')[0])).is_file()
