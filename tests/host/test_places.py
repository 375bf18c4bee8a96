"""Place Pictures: drawn by the wired model and kept, or the user's own."""

from pathlib import Path

import comfy.sd
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from detex_pack.nodes.places import PlacePictures

SIDE = 64


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path / "detex_prior"


@pytest.fixture
def wired(model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, output: Path) -> dict:
    return {"model": model, "clip": clip, "vae": vae, "resolution": SIDE, "steps": 2, "seed": 3}


def pictures_of(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*.png")}


def test_a_place_that_is_added_leaves_the_others_as_they_are(wired: dict, output: Path):
    places = PlacePictures.execute(names="beach\nforest", each=1, **wired).args[0]
    assert places.names == ("beach", "forest")
    assert places.pictures.shape == (2, SIDE, SIDE, 3)
    before = pictures_of(output)
    more = PlacePictures.execute(names="street\nbeach\nforest", each=1, **wired)
    assert torch.equal(more.args[0].pictures[1:], places.pictures)
    assert more.ui.value.startswith("3 pictures, 2 found, 1 drawn")
    assert before.items() <= pictures_of(output).items()


def test_only_what_is_missing_is_drawn_again_and_is_the_same(wired: dict, output: Path):
    first = PlacePictures.execute(names="beach", each=2, **wired).args[0]
    next(output.rglob("00002.png")).unlink()
    again = PlacePictures.execute(names="beach", each=2, **wired)
    assert again.ui.value.startswith("2 pictures, 1 found, 1 drawn")
    assert torch.equal(again.args[0].pictures, first.pictures)


def test_places_do_not_begin_with_the_same_noise(wired: dict):
    drawn = PlacePictures.execute(names="beach\nbeach ball", each=1, **wired).args[0].pictures
    assert (drawn[0] - drawn[1]).abs().mean() > 0.02


def test_own_pictures_need_no_model():
    own = torch.rand(2, SIDE, 96, 3)
    settings = {"resolution": SIDE, "each": 1, "images": own}
    places = PlacePictures.execute(names="beach\nforest", **settings).args[0]
    assert torch.equal(places.pictures, own[:, :, 16:80])


def test_without_model_pictures_and_folder_the_node_says_what_to_wire():
    with pytest.raises(ValueError, match="nothing to take the places from"):
        PlacePictures.execute(names="beach", resolution=SIDE, each=1)


def test_a_prompt_without_the_place_is_refused(wired: dict):
    with pytest.raises(ValueError, match=r"lacks \{place\}"):
        PlacePictures.execute(names="beach", each=1, prompt="photo of a beach", **wired)


def test_a_name_that_fits_into_no_prompt_is_refused(wired: dict):
    with pytest.raises(ValueError, match="is too long"):
        PlacePictures.execute(names="very " * 70 + "sandy beach", each=1, **wired)


def test_a_folder_that_changes_is_read_again(tmp_path: Path):
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "beach.png")
    (tmp_path / "beach.txt").write_text("sandy beach", encoding="utf-8")
    before = PlacePictures.fingerprint_inputs(folder=str(tmp_path))
    assert before == PlacePictures.fingerprint_inputs(folder=str(tmp_path))
    (tmp_path / "beach.txt").write_text("stony beach", encoding="utf-8")
    assert before != PlacePictures.fingerprint_inputs(folder=str(tmp_path))
    settings = {"names": "", "resolution": SIDE, "each": 1, "folder": str(tmp_path)}
    assert PlacePictures.execute(**settings).args[0].names == ("stony beach",)
