"""Place Pictures: drawn by the wired model and kept, or the user's own."""

from dataclasses import replace
from pathlib import Path

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from detex_pack.detex.host.denoiser import training_session
from detex_pack.detex.host.runs import ResumeStore
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.photos.places import Places
from detex_pack.detex.photos.recipe import COMPOSITES
from detex_pack.detex.training.config import TrainConfig
from detex_pack.nodes.places import PlacePictures
from detex_pack.nodes.subject import SubjectImages
from detex_pack.nodes.train import suited

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


def test_bar_moves_over_the_pictures_that_are_drawn(wired: dict, monkeypatch: pytest.MonkeyPatch):
    bars = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: bars.append((value, total))
    )
    PlacePictures.execute(names="beach\nforest", each=1, **wired)
    drawn = [bar for bar in bars if bar[1] == bars[-1][1]]
    bars.clear()
    PlacePictures.execute(names="forest\ngarden\nbeach", each=1, **wired)  # one is new
    assert bars[-1] == (drawn[-1][0] // 2, drawn[-1][1] // 2)
    assert all(value <= total for value, total in bars)


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


def test_a_long_name_of_an_own_picture_is_refused_where_clip_is_wired(clip: comfy.sd.CLIP):
    own = {"names": "very " * 70 + "sandy beach", "images": torch.rand(1, SIDE, SIDE, 3)}
    with pytest.raises(ValueError, match="is too long"):
        PlacePictures.execute(resolution=SIDE, each=1, clip=clip, **own)


# ---- wired into Subject Images -------------------------------------------------------------------

SMALL = 32  # the tiny model's training picture


@pytest.fixture
def places() -> Places:
    pictures = torch.rand(3, SMALL, SMALL, 3, generator=torch.Generator().manual_seed(2))
    return Places(pictures, ("sandy beach", "pine forest", "office desk"))


@pytest.fixture
def wide(photos: list[Tensor]) -> list[Tensor]:
    """The photos at twice their size: Subject Images refuses smaller ones."""
    return [photo.repeat_interleave(2, 0).repeat_interleave(2, 1) for photo in photos]


@pytest.fixture
def placed(wide, masks, vae: comfy.sd.VAE, clip_vision, places: Places) -> Photos:
    widgets = {"class_word": "ball", "attribute": "auto", "resolution": SMALL}
    widgets |= {"blank": "random", "scaled_copies": 0, "seed": 0}
    large = [mask.repeat_interleave(2, 0).repeat_interleave(2, 1) for mask in masks]
    made = SubjectImages.execute(
        [photo[None] for photo in wide],
        [vae],
        masks=[mask[None] for mask in large],
        clip_vision=[clip_vision],
        places=[places],
        **{name: [value] for name, value in widgets.items()},
    )
    return made.args[0].photos


def test_places_take_the_place_of_blanks(placed: Photos):
    assert placed.blanked is None
    assert placed.composites.latents.shape == (3, COMPOSITES, 4, 8, 8)
    assert placed.latents.shape[1] == 1  # no copies in random colours


def test_where_there_are_composites_no_word_is_centered(placed: Photos):
    assert suited(placed, 0.5) == {"center_poses": False}
    assert suited(replace(placed, composites=None), 0.5) == {}


def test_where_no_composite_without_pose_is_trained_on_words_stay_centered(placed: Photos):
    assert suited(placed, 0.0) == {}
    made = placed.composites
    posed = tuple(tuple(said._replace(words="VP") for said in row) for row in made.said)
    assert suited(replace(placed, composites=replace(made, said=posed)), 0.5) == {}


def test_a_training_on_places_runs_and_ends_alike_each_time(train, placed: Photos):
    settings = {"photos": placed, "steps": 3, "prior": None}
    first, losses = train(DetexConfig.recommended(), **settings)
    again, _ = train(DetexConfig.recommended(), **settings)
    assert all(torch.isfinite(torch.tensor(values)).all() for values in losses.terms.values())
    assert torch.equal(first.words["V"]["l"], again.words["V"]["l"])


def test_a_place_that_is_too_long_is_refused_before_the_first_step(
    model: ModelPatcher, clip: comfy.sd.CLIP, placed: Photos
):
    made = placed.composites
    row = (made.said[0][0]._replace(place="very " * 70 + "sandy beach"), *made.said[0][1:])
    photos = replace(placed, composites=replace(made, said=(row, *made.said[1:])))
    settings = None, DetexConfig.recommended(keep_weight=0.0), TrainConfig(batch_size=1)
    with training_session(model, clip, (1, 4, 8, 8)) as opened:
        with pytest.raises(ValueError, match="beach background.* longer than 77 tokens"):
            Detex(photos, *settings, *opened)


def test_another_place_is_another_run(
    train, placed: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_paths, "get_system_user_directory", lambda _: str(tmp_path))
    renamed = tuple(
        tuple(said._replace(place=said.place.replace("beach", "shore")) for said in row)
        for row in placed.composites.said
    )
    other = replace(placed, composites=replace(placed.composites, said=renamed))
    for photos in (placed, other):
        train(DetexConfig.recommended(), photos=photos, store=ResumeStore(0))
    assert len(list((tmp_path / "runs").iterdir())) == 2
