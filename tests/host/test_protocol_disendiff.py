"""DisenDiff's protocol from photos to tables, on the demo model; then again with picture masks."""

from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.evaluate.command import main
from detex_pack.detex.toys.subjects import demo_subject
from devtools.server import ComfyServer
from devtools.small_bench import write_clip

PROMPTS = {
    "global": "photo of a <new1> {0} and <new2> {1}\n",
    "subject1": "photo of a <new1> {0}\n<new1> {0} in water background\n",
    "subject2": "photo of a <new2> {1}\n<new2> {1} in water background\n",
}
LESS = "--steps 3 --prior 2 --pictures 2 --sampling-steps 4 --rate 25"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of two toys side by side, masks, prompts and an encoder."""
    folder = tmp_path_factory.mktemp("scenes")
    toys = [demo_subject(number, 1, seed=0) for number in (0, 3)]
    words = [toy.class_word for toy in toys]
    name = "_".join(words)
    planes = [torch.zeros(64, 128, 3) for _ in toys]
    for i, (plane, toy) in enumerate(zip(planes, toys, strict=True)):
        plane[:, 64 * i : 64 * i + 64] = toy.masks[0][..., None]
    photo = torch.cat([toy.images[0] for toy in toys], dim=1)
    for part in ("images", "masks"):
        (folder / part / name).mkdir(parents=True)
    as_picture(photo).save(folder / "images" / name / "toys.png")
    for number, plane in enumerate(planes, start=1):
        as_picture(plane).save(folder / "masks" / name / f"subject{number}.png")
    (folder / "prompts").mkdir()
    for part, text in PROMPTS.items():
        (folder / "prompts" / f"{name}_{part}.txt").write_text(text.format(*words))
    write_clip(folder / "clip")
    return folder


def words(home: Path, out: Path, server: str, *more: str) -> list[str]:
    line = ["--photos", str(home), "--masks", str(home / "masks"), "--server", server]
    line += ["--encoders", str(home / "clip"), "--out", str(out), *LESS.split(), *more]
    return ["disendiff", *line, "--methods", "disendiff_masks,custom_diffusion",
            "--checkpoint", "demo"]  # fmt: skip


def jobs(out: Path) -> dict[Path, int]:
    """Trainings and rows of pictures that are home, and when they came."""
    return {file: file.stat().st_mtime_ns for file in out.glob("*/**/record.json")}


@pytest.mark.slow
def test_one_photo_of_two_concepts_becomes_tables_for_both_and_for_each(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out, masks = tmp_path / "out", tmp_path / "picture_masks"
    with ComfyServer() as server:
        assert main(words(home, out, server.url)) == 0, capsys.readouterr().err
        made = jobs(out)
        assert len(made) == 2 + 2 * 5  # trainings, and five prompts for each of them
        masks.mkdir()
        for picture in out.glob("pictures/*.png"):
            as_picture(torch.ones(64, 64, 3)).save(masks / picture.name)
        told = (out / "tables.md").read_text()
        again = words(home, out, server.url, "--picture-masks", str(masks))
        assert main(again) == 0, capsys.readouterr().err
    assert jobs(out) == made
    assert (
        "1 of 1 photos, 1 or 2 prompts each of each kind (Combined, Concept 1, Concept 2)" in told
    )
    assert "2 pictures a prompt, 2 methods: 20 pictures by demo" in told
    for kind in ("Combined", "Concept 1", "Concept 2"):
        assert f"## {kind}: methods" in told
    assert "| method | CLIP-T | CLIP-I | CLIP-I fg_ref |\n" in told
    with_masks = (out / "tables.md").read_text()
    assert "| method | CLIP-T | CLIP-I | CLIP-I fg_ref | CLIP-I fg_both |\n" in with_masks
    for line in told.splitlines():  # the other scores are as they were
        assert line.removesuffix(" |") in with_masks
    page = (out / "index.html").read_text()
    assert "<h1>DisenDiff</h1>" in page and "Concept 2: DisenDiff, held to masks" in page
    for part in page.split('src="')[1:]:
        assert (out / unquote(part.partition('"')[0])).is_file()
