"""DreamBench's protocol from photos to tables, on the demo model: killed twice, and not at all."""

from pathlib import Path
from urllib.parse import unquote

import pytest

from detex_pack.detex.evaluate.command import main
from devtools.server import ComfyServer
from devtools.small_bench import bench_words, kill_when, records, write_bench

ROWS = 8  # of pictures: two methods, subjects and prompts
LESS = "--steps 3 --prior 2 --pictures 2 --sampling-steps 6 --references 2 --rate 25"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, masks and encoders."""
    folder = tmp_path_factory.mktemp("bench")
    write_bench(folder)
    return folder


def words(home: Path, out: Path, server: str) -> list[str]:
    return bench_words(home, out, server, "demo", LESS)


@pytest.mark.slow
def test_killed_twice_it_ends_in_the_same_tables(home: Path, tmp_path: Path, capsys):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    with ComfyServer() as server:
        assert main(words(home, calm, server.url)) == 0, capsys.readouterr().err
    learned, drawn = killed / "trainings" / "features", killed / "pictures"
    with ComfyServer() as server:
        kill_when(words(home, killed, server.url), lambda: records(learned) > 0)
        assert not drawn.exists()
        kill_when(words(home, killed, server.url), lambda: records(drawn) > 1)
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
