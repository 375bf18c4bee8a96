"""Draw workflows/*.jpg from what the quickstart paints: `python -m devtools.thumbnails`.

The page shows these pictures in its template browser. The workflows for Stable Diffusion get
pictures of the demo model, made by the same graph.
"""

import argparse
import io
import json
from typing import Any

from PIL import Image, ImageDraw

from .make_workflows import FOLDER
from .server import ComfyServer, to_api_prompt

SIDE, GAP = 512, 8
PAPER, INK, ARROW = (24, 26, 30), (236, 236, 236), (122, 178, 255)


def run_quickstart(server: ComfyServer, steps: int | None) -> dict[str, list[Image.Image]]:
    """Title of each preview -> its pictures; "words": those of group 5."""
    workflow = json.loads((FOLDER / "quickstart.json").read_text(encoding="utf-8"))
    prompt = to_api_prompt(workflow, server.object_info())
    maps = by_type(prompt, "DETEXAttentionPreview")
    prompt["words"] = {
        "class_type": "PreviewImage",
        "inputs": {"images": maps["inputs"]["image"]},
        "_meta": {"title": "words"},
    }
    if steps:
        by_type(prompt, "DETEXTrain")["inputs"]["steps"] = steps
    outputs = server.run(prompt)["outputs"]
    return {
        node["_meta"]["title"]: [
            Image.open(io.BytesIO(server.image(**entry))).convert("RGB")
            for entry in outputs[number]["images"]
        ]
        for number, node in prompt.items()
        if node["class_type"] == "PreviewImage"
    }


def by_type(prompt: dict[str, Any], class_type: str) -> dict[str, Any]:
    return next(node for node in prompt.values() if node["class_type"] == class_type)


def grid(pictures: list[Image.Image], side: int) -> Image.Image:
    """The first four pictures, two by two."""
    page = Image.new("RGB", (side, side), PAPER)
    cell = (side - GAP) // 2
    for i, picture in enumerate(pictures[:4]):
        place = (i % 2 * (cell + GAP), i // 2 * (cell + GAP))
        page.paste(picture.resize((cell, cell), Image.Resampling.BICUBIC), place)
    return page


def before_and_after(photos: list[Image.Image], painted: list[Image.Image]) -> Image.Image:
    """Photos above, an arrow, pictures below."""
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    cell = (SIDE - 5 * GAP) // 4
    big = (SIDE - 3 * GAP) // 2
    for i, photo in enumerate(photos[:4]):
        page.paste(photo.resize((cell, cell)), (GAP + i * (cell + GAP), GAP))
    draw_arrow(ImageDraw.Draw(page), SIDE // 2, cell + 3 * GAP, SIDE - big - 3 * GAP)
    for i, picture in enumerate(painted[:2]):
        picture = picture.resize((big, big), Image.Resampling.BICUBIC)
        page.paste(picture, (GAP + i * (big + GAP), SIDE - big - GAP))
    return page


def draw_arrow(pen: ImageDraw.ImageDraw, x: int, top: int, bottom: int) -> None:
    pen.line((x, top, x, bottom - 10), fill=ARROW, width=10)
    pen.polygon([(x - 26, bottom - 30), (x + 26, bottom - 30), (x, bottom)], fill=ARROW)


def top_rows(sheet: Image.Image, rows: int, of: int) -> Image.Image:
    """The first rows of a sheet, in a square."""
    part = sheet.crop((0, 0, sheet.width, sheet.height * rows // of))
    part.thumbnail((SIDE, SIDE))
    page = Image.new("RGB", (SIDE, SIDE), part.getpixel((0, 0)))
    page.paste(part, ((SIDE - part.width) // 2, (SIDE - part.height) // 2))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="devtools.thumbnails", description=__doc__)
    parser.add_argument("--steps", type=int, help="training steps, instead of the workflow's")
    with ComfyServer() as server:
        found = run_quickstart(server, parser.parse_args().steps)
    photos = found["The photos"]
    count = len(found["words"])
    drawn = {
        "quickstart": before_and_after(photos, found["In the water"]),
        "train_detex": grid(photos, SIDE),
        "use_concept": grid(found["words"], SIDE),
        "attention_preview": top_rows(found["Where each word looks"][0], count, count),
    }
    for name, picture in drawn.items():
        picture.save(FOLDER / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
