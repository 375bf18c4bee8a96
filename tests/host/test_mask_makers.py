"""Photos without masks: what is said, when, and whether the steps that it names lead there."""

import asyncio
import json
from pathlib import Path

import folder_paths
import nodes
import pytest
import torch
from comfy_extras.nodes_compositing import JoinImageWithAlpha
from comfy_extras.nodes_mask import InvertMask
from graphs import executor_errors, node, run, training_graph
from PIL import Image

from detex_pack.detex.host.mask_makers import BLUEPRINT, MODELS, SAVED, lacking_masks
from detex_pack.nodes.folder import LoadSubjectFolder
from devtools.pack_host import host_folder


@pytest.fixture
def photo_folder(executor) -> Path:
    """Two photos of a block, one of them with a mask."""
    folder = Path(folder_paths.get_input_directory()) / "toy"
    folder.mkdir()
    mask = Image.new("L", (72, 64))
    mask.paste(255, (12, 10, 32, 30))
    mask.save(folder / "a.mask.png")
    for name, shade in (("a", 10), ("b", 90)):
        photo = Image.new("RGB", (72, 64), (shade, 90, 40))
        photo.paste((20, 200, 220), (12, 10, 32, 30))
        photo.save(folder / f"{name}.png")
    return folder


def failures(executor) -> list[dict]:
    return [d for event, d in executor.status_messages if event == "execution_error"]


def test_masks_that_a_training_lacks_are_asked_for_before_anything_runs(executor, photo_folder):
    graph = training_graph("TinyModels")
    graph["photos"] = node("DETEXLoadSubjectFolder", folder="toy")
    graph["subject"]["inputs"] |= {"class_word": "ball"}
    graph["places"] = node(
        "DETEXPlacePictures",
        model=["models", 0],
        clip=["models", 1],
        vae=["models", 2],
        **{"names": "meadow", "resolution": 64, "each": 1},
    )
    graph["subject"]["inputs"]["places"] = ["places", 0]
    run(executor, graph)
    assert executor_errors(executor)[0].startswith("photos: b.png has no mask. ")
    assert failures(executor)[0]["executed"] == []


def test_masks_that_nothing_trains_on_are_not_asked_for(executor, photo_folder):
    run(executor, {"photos": node("DETEXLoadSubjectFolder", folder="toy"), "seen": seen("photos")})
    assert executor.success, executor_errors(executor)
    said = asyncio.run(LoadSubjectFolder.execute("toy")).ui.as_dict()["text"][0]
    assert "\n\nb.png has no mask. " in said and "a.png has" not in said


def seen(photos: str) -> dict:
    return node("KeepAll", value=[photos, 1], name="masks")


def test_the_model_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    entry = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, MODELS, entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    first = f"Put birefnet.safetensors (huggingface.co/Comfy-Org/BiRefNet) into {tmp_path}"
    assert first in lacking_masks(["b.png"])
    (tmp_path / "birefnet.safetensors").touch()
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    assert "birefnet" not in lacking_masks(["b.png"])
    monkeypatch.delitem(folder_paths.folder_names_and_paths, MODELS)
    assert "wire images into Subject Mask (SAM)" in lacking_masks(["b.png"])


class BlueIsTheSubject:
    """In place of BiRefNet."""

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return (image[..., 2] > 0.5).float()


class LoadBlue:
    RETURN_TYPES = ("BACKGROUND_REMOVAL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {}}

    def load(self) -> tuple:
        return (BlueIsTheSubject(),)


def test_the_steps_that_are_named_make_photos_with_masks(executor, photo_folder, monkeypatch):
    """The nodes inside of ComfyUI's blueprint, between Load Subject Folder and Save Image."""
    RemoveBackground = pytest.importorskip("comfy_extras.nodes_bg_removal").RemoveBackground
    blueprint = json.loads((host_folder() / "blueprints" / f"{BLUEPRINT}.json").read_text("utf-8"))
    (inside,) = blueprint["definitions"]["subgraphs"]
    kinds = {one["type"] for one in inside["nodes"]}
    used = {kind.GET_SCHEMA().node_id: kind for kind in (RemoveBackground, InvertMask)}
    used |= {"JoinImageWithAlpha": JoinImageWithAlpha}
    assert kinds == {*used, "LoadBackgroundRemovalModel"}
    known = nodes.NODE_CLASS_MAPPINGS | used | {"LoadBlue": LoadBlue}
    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", known)
    run(
        executor,
        {
            "photos": node("DETEXLoadSubjectFolder", folder="toy"),
            "model": node("LoadBlue"),
            "mask": node("RemoveBackground", bg_removal_model=["model", 0], image=["photos", 0]),
            "ground": node("InvertMask", mask=["mask", 0]),
            "cut": node("JoinImageWithAlpha", image=["photos", 0], alpha=["ground", 0]),
            "save": node("SaveImage", images=["cut", 0], filename_prefix=f"{SAVED}/photo"),
        },
    )
    assert executor.success, executor_errors(executor)
    saved = Path(folder_paths.get_output_directory()) / SAVED
    photos, masks, _ = asyncio.run(LoadSubjectFolder.execute(str(saved))).args
    before, (drawn, _), _ = asyncio.run(LoadSubjectFolder.execute("toy")).args
    assert len(photos) == len(masks) == 2
    for photo, first, mask in zip(photos, before, masks, strict=True):
        torch.testing.assert_close(photo, first)
        torch.testing.assert_close(mask, drawn)
