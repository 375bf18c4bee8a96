"""workflows/prompt_grid.json: many prompts of one concept on one sheet."""

from .workflow_mix import ONCE
from .workflow_nodes import Group, Node, link, node, note
from .workflow_parts import BLUE, PURPLE, decode
from .workflow_toy import (
    applied,
    canvas,
    demo_model,
    demo_sample,
    enlarged,
    learned_toy,
)

PLACES = ("water", "grass", "night")


def prompt_grid() -> list[list[Group]]:
    """Places x poses, on one labelled sheet."""
    start = note(
        "start",
        "**Many prompts at once, on one sheet.** Press **Run**; nothing is downloaded.\n\n"
        f"{ONCE}"
        "For a subject of yours: delete group 1, and put **Load Checkpoint** and **Load Decoupled "
        "Embeddings** in its place.",
        title="Start here",
    )
    return [
        [learned_toy("1  Learn a toy, once", [start, demo_model()])],
        [
            Group("2  Its words", [applied("train.concept"), canvas(1)], BLUE),
            Group("3  Every prompt with every pose", prompts(), BLUE),
            Group("4  One sheet, and one file for each", sheets(), PURPLE),
        ],
    ]


def prompts() -> list[list[Node]]:
    lines = "\n".join(f"photo of a [V] ball in {place} background" for place in PLACES)
    grid = node(
        "grid",
        "DETEXPromptGrid",
        size=(400, 420),
        clip=link("demo.clip"),
        concept=link("apply.concept"),
        prompts=lines,
        poses="0-3",
    )
    lists = note(
        "lists",
        "**prompts**: one a line. **poses** and **backgrounds**: photo numbers, such as *0, 2* or "
        "*1-4*; 0 adds none. Every line is painted with every pose and every background.\n\n"
        "The outputs are **lists**: ComfyUI runs the sampler once for each entry, whichever "
        "sampler you wire. What has most values goes across.",
        title="Lists",
    )
    return [[grid, lists]]


def sheets() -> list[list[Node]]:
    pixels = decode("cells", "cell_sample.LATENT", "demo.vae")
    sheet = Node(
        "labelled",
        "DETEXLabelledGrid",
        {
            "images": link("larger.IMAGE"),
            "labels": link("grid.labels"),
            "cell": 160,
            "title": "A new place, with the view of a photo",
        },
        size=(760, 620),
    )
    save = node(
        "save",
        "SaveImage",
        title="Save each, named by its label",
        size=(320, 400),
        images=link("larger.IMAGE"),
        filename_prefix=link("grid.labels"),
    )
    sampler = demo_sample("cell", "apply.model", "grid.conditioning")
    return [[sampler, pixels, enlarged("larger", "cells.IMAGE")], [sheet], [save]]
