"""Load Subject Folder, Prompt Grid and Labelled Grid in real graphs."""

import asyncio
from pathlib import Path

import folder_paths
import pytest
import torch
from graphs import Keep, executor_errors, node, run, training_graph
from PIL import Image

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.photos.photos import photo_hash
from detex_pack.nodes.concept import SaveEmbeddings
from detex_pack.nodes.folder import LoadSubjectFolder


def put_photo(folder: Path, name: str, shade: int, size: tuple[int, int] = (72, 64)) -> None:
    """A flat photo with a block on it, and the block's mask beside it."""
    folder.mkdir(exist_ok=True)
    photo, mask = Image.new("RGB", size, (shade, 90, 40)), Image.new("L", size)
    for image, colour in ((photo, (20, 200, 220)), (mask, 255)):
        image.paste(colour, (12, 10, 32, 30))
    photo.save(folder / f"{name}.png")
    mask.save(folder / f"{name}.mask.png")


@pytest.fixture
def photo_folder(executor) -> Path:
    """Three photos in ComfyUI's input folder."""
    folder = Path(folder_paths.get_input_directory()) / "toy"
    for name, shade, size in (("a10", 10, (72, 64)), ("a9", 90, (64, 72)), ("a1", 200, (64, 64))):
        put_photo(folder, name, shade, size)
    return folder


def folder_graph(**train) -> dict:
    graph = training_graph("TinyModels", **train)
    graph["photos"] = node("DETEXLoadSubjectFolder", folder='"toy" ')
    graph["subject"]["inputs"] |= {"class_word": "ball"}
    graph["train"]["inputs"]["lambda_pr"] = 0.0
    del graph["train"]["inputs"]["prior_images"]
    graph["names"] = node("KeepAll", value=["photos", 2], name="names")
    graph["concept"] = node("Keep", value=["train", 0], name="concept")
    graph["preview"] = node("Keep", value=["subject", 1], name="preview")
    return graph


def test_folder_trains_a_concept_with_its_photos_in_natural_order(executor, photo_folder: Path):
    run(executor, folder_graph())
    assert executor.success, executor_errors(executor)
    assert Keep.kept["names"] == ["a1.png", "a9.png", "a10.png"]
    assert Keep.kept["concept"].photo_count == 3
    assert Keep.kept["preview"].shape[0] == 1


def cached(executor) -> set[str]:
    return {
        name
        for event, d in executor.status_messages
        if event == "execution_cached"
        for name in d["nodes"]
    }


def test_changed_photo_is_noticed_and_a_touched_one_is_not(executor, photo_folder: Path):
    run(executor, folder_graph())
    (photo_folder / "a9.png").touch()
    run(executor, folder_graph())
    assert {"photos", "train"} <= cached(executor)
    put_photo(photo_folder, "a9", 91, (64, 72))
    run(executor, folder_graph())
    assert not {"photos", "train"} & cached(executor)
    assert executor.success, executor_errors(executor)


def test_folder_from_another_node_is_looked_at_every_time(executor, photo_folder: Path):
    def look() -> list[str]:
        graph = {
            "demo": node("DETEXDemoSubject", number=1, count=1, seed=0),  # the word "ball"
            "photos": node("DETEXLoadSubjectFolder", folder=["demo", 2]),
            "names": node("KeepAll", value=["photos", 2], name="names"),
        }
        run(executor, graph)
        assert executor.success, executor_errors(executor)
        return Keep.kept["names"]

    folder = photo_folder.rename(photo_folder.with_name("ball"))
    assert look() == ["a1.png", "a9.png", "a10.png"]
    (folder / "a1.mask.png").unlink()
    (folder / "a1.png").unlink()
    assert look() == ["a9.png", "a10.png"]


def test_wrong_folder_fails_the_graph_with_our_message(executor, photo_folder: Path):
    graph = folder_graph()
    graph["photos"]["inputs"]["folder"] = "tyo"
    run(executor, graph)
    assert "photos: There is no folder" in executor_errors(executor)[0]


def test_known_photos_keep_their_numbers_when_files_are_renamed(
    executor, photo_folder: Path, concept: Concept
):
    images, _, names = asyncio.run(LoadSubjectFolder.execute("toy")).args
    known = Concept(**(vars(concept) | {"photo_hashes": tuple(photo_hash(i[0]) for i in images)}))
    for name in ("a1.png", "a1.mask.png"):  # P1 now sorts last
        (photo_folder / name).rename(photo_folder / f"z{name[1:]}")
    put_photo(photo_folder, "new", 5)
    again, _, new_names = asyncio.run(LoadSubjectFolder.execute("toy", known)).args
    assert names[0] == "a1.png" and new_names == ["z1.png", "a9.png", "a10.png", "new.png"]
    assert torch.equal(images[0], again[0])


def grid_graph(**settings) -> dict:
    widgets = {"prompts": "a [V] ball\na red [V] ball", "poses": "0-1", "backgrounds": "2,3"}
    sampler = {"seed": 1, "steps": 1, "cfg": 2.0, "sampler_name": "ddim", "scheduler": "normal"}
    return {
        "models": node("TinyModels"),
        "load": node(
            "DETEXLoadEmbeddings", model=["models", 0], file="toy.safetensors", strength=1.0
        ),
        "grid": node(
            "DETEXPromptGrid", clip=["models", 1], concept=["load", 1], **(widgets | settings)
        ),
        "negative": node("CLIPTextEncode", clip=["models", 1], text=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["load", 0],
            positive=["grid", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            denoise=1.0,
            **sampler,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["models", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix=["grid", 2]),
        "sheet": node(
            "DETEXLabelledGrid",
            images=["decode", 0],
            labels=["grid", 2],
            cell=64,
            title="toy",
            columns=0,
        ),
        "texts": node("KeepAll", value=["grid", 1], name="texts"),
        "pictures": node("KeepAll", value=["decode", 0], name="pictures"),
        "page": node("Keep", value=["sheet", 0], name="page"),
    }


def test_stock_nodes_work_through_the_grid_and_the_sheet_shows_it(
    executor, model_folders: Path, concept: Concept
):
    SaveEmbeddings.execute(concept, "toy", False)
    run(executor, grid_graph())
    assert executor.success, executor_errors(executor)
    texts, pictures = Keep.kept["texts"], Keep.kept["pictures"]
    assert len(texts) == len(pictures) == 8
    assert texts[3] == "a [V] ball with [P1] view in [B3] background"
    assert not torch.equal(pictures[0], pictures[1])
    saved = {path.name for path in (model_folders / "output").iterdir()}
    assert len(saved) == 8
    assert "a [V] ball, view P1 + background B3_00001_.png" in saved
    # two columns of pictures, four rows, under the title
    page = Keep.kept["page"]
    assert page.shape[2] == 48 + 2 * (64 + 6) + 6
    assert page.shape[1] > 4 * (64 + 6)


def test_grid_with_a_photo_that_is_not_there_fails_before_sampling(
    executor, model_folders: Path, concept: Concept
):
    SaveEmbeddings.execute(concept, "toy", False)
    run(executor, grid_graph(poses="1-4"))
    assert "grid: The prompt asks for [P4], but this concept has" in executor_errors(executor)[0]
