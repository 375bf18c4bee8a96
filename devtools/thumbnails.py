"""Draw workflows/*.jpg, each from what its workflow shows: `python -m devtools.thumbnails`.

The page shows these pictures in its template browser. The workflows for Stable Diffusion run on
the demo model, with its words and rates.
"""

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from detex_pack.detex.batch.api_prompt import MUTED, to_api_prompt

from .graphs import Graph, upstream, with_demo_model
from .host_process import exit_on_terminate
from .server import ComfyServer
from .workflows import FOLDER, demo_settings, read_workflow, write_photos

COUNT = 4  # pictures of a prompt
SIDE, GAP = 512, 8  # pixels of a thumbnail
PAPER, ARROW = (24, 26, 30), (122, 178, 255)
SAVE = "Save Decoupled Embeddings"  # shows no picture, but use_concept needs its file

Pictures = dict[str, list[Image.Image]]  # by the title of the node that shows them


def run_workflow(server: ComfyServer, name: str, titles: Collection[str]) -> Pictures:
    """Run a bundled workflow as far as these nodes need it; where it has muted nodes, a second
    time with them awake.
    """
    workflow = read_workflow(name)
    info = server.object_info()
    found = server.pictures(upstream(suited(to_api_prompt(workflow, info)), titles))
    if asleep := [node for node in workflow["nodes"] if node["mode"] == MUTED]:
        for node in asleep:
            node["mode"] = 0
        found = server.pictures(upstream(suited(to_api_prompt(workflow, info)), titles))
    return found


def suited(prompt: Graph) -> Graph:
    """The prompt as it is where it is made for the demo model, else fitted to it."""
    if any(entry["class_type"] == "DETEXDemoModel" for entry in prompt.values()):
        return prompt
    for entry in with_demo_model(prompt).values():
        entry["inputs"] |= demo_settings(entry["class_type"])
        if entry["class_type"] == "DETEXPlacePictures":
            entry["inputs"]["folder"] = "places"  # of write_photos
        if entry["class_type"] == "EmptyLatentImage":
            entry["inputs"]["batch_size"] = COUNT
        texts = {k: v for k, v in entry["inputs"].items() if isinstance(v, str)}
        entry["inputs"] |= {name: in_demo_words(text) for name, text in texts.items()}
    return prompt


def in_demo_words(text: str) -> str:
    """What the demo model has words for."""
    return text.replace("dog", "ball").replace("on the beach", "in sand background")


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """The first four pictures, two by two."""
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    cell = (SIDE - GAP) // 2
    for i, picture in enumerate(pictures[:4]):
        place = (i % 2 * (cell + GAP), i // 2 * (cell + GAP))
        page.paste(picture.resize((cell, cell), Image.Resampling.BICUBIC), place)
    return page


def pairs(*columns: Sequence[Image.Image]) -> Image.Image:
    """The first two pictures of two lists, side by side."""
    return grid([column[row] for row in range(2) for column in columns])


def before_and_after(photos: Sequence[Image.Image], sheets: Sequence[Image.Image]) -> Image.Image:
    """Photos above, an arrow, the first sheet below."""
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    cell = (SIDE - 5 * GAP) // 4
    for i, photo in enumerate(photos[:4]):
        page.paste(photo.resize((cell, cell)), (GAP + i * (cell + GAP), GAP))
    pen, x, tip = ImageDraw.Draw(page), SIDE // 2, cell + 6 * GAP
    pen.line((x, cell + 2 * GAP, x, tip - 14), fill=ARROW, width=10)
    pen.polygon([(x - 22, tip - 18), (x + 22, tip - 18), (x, tip)], fill=ARROW)
    room = SIDE - 2 * GAP, SIDE - tip - 2 * GAP
    sheet = ImageOps.contain(sheets[0], room, Image.Resampling.LANCZOS)
    page.paste(sheet, ((SIDE - sheet.width) // 2, tip + GAP))
    return page


def folded(sheets: Sequence[Image.Image]) -> Image.Image:
    """The first sheet, twice as wide as it should be: its right half below its left one."""
    (sheet, *_), middle = sheets, sheets[0].width // 2
    halves = [sheet.crop((left, 0, left + middle, sheet.height)) for left in (0, middle)]
    return first_of_each(*[[half] for half in halves])


def first_of_each(*lists: Sequence[Image.Image]) -> Image.Image:
    """One below the other, each as wide as the page or as high as its share of it."""
    pictures = [pictures[0] for pictures in lists]
    page = Image.new("RGB", (SIDE, SIDE), pictures[0].getpixel((0, 0)))
    share = (SIDE - (len(pictures) + 1) * GAP) // len(pictures)
    for i, picture in enumerate(pictures):
        picture = ImageOps.contain(picture, (SIDE - 2 * GAP, share), Image.Resampling.LANCZOS)
        top = GAP + i * (share + GAP) + (share - picture.height) // 2
        page.paste(picture, ((SIDE - picture.width) // 2, top))
    return page


Draw = Callable[..., Image.Image]  # of the pictures of each title

DRAW: dict[str, tuple[Draw, tuple[str, ...]]] = {  # how, from what which nodes show
    "quickstart": (before_and_after, ("The photos", "Labelled Grid")),
    "train_detex": (folded, ("Bright is the subject", SAVE)),
    "train_folder": (folded, ("Bright is the subject",)),
    "train_many": (folded, ("Bright is the subject",)),
    "use_concept": (grid, ("Save Image",)),
    "pose_and_background": (pairs, ("P1 in B1", "P3 in B1")),
    "several_concepts": (pairs, ("The ball", "The heart")),
    "prompt_grid": (first_of_each, ("Labelled Grid",)),
    "evaluate_concept": (first_of_each, ("Best to worst, full strength", "Side by side")),
    "attention_preview": (first_of_each, ("Where the learned words look",)),
    "whole_litter": (first_of_each, ("The litter",)),
    "export_concept": (pairs, ("With [V]", "With its LoRA and its embedding", "Exact LoRA")),
}


def main() -> None:
    exit_on_terminate()
    parser = argparse.ArgumentParser(prog="devtools.thumbnails", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(DRAW), help="workflows; all of them")
    parser.add_argument("--base", type=Path, help="server folder that keeps what is learned")
    options = parser.parse_args()
    with ComfyServer(options.base) as server:
        write_photos(server.base / "input")
        for name in options.names:
            draw, titles = DRAW[name]
            found = run_workflow(server, name, titles)
            picture = draw(*[found[title] for title in titles if title in found])
            picture.save(FOLDER / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
