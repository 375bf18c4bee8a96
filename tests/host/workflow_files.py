"""What the tests of the workflows share: the files, a server with what they ask for, geometry."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devtools.server import ComfyServer
from devtools.workflows import write_photos

NAMES = (
    "quickstart",
    "train_detex",
    "train_folder",
    "train_many",
    "use_concept",
    "pose_and_background",
    "several_concepts",
    "prompt_grid",
    "evaluate_concept",
    "attention_preview",
    "export_concept",
    "whole_litter",
)
MODELS = (
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
    "clip_vision/clip-vit-large-patch14.safetensors",
    "detex/my_subject.safetensors",
    "sams/sam_vit_b_01ec64.pth",
)
TITLE = 30  # a title bar stands above the node's position

Box = tuple[float, float, float, float]  # left, top, right, bottom


@contextmanager
def server_with_files(base: Path) -> Iterator[ComfyServer]:
    """A server that lists the (empty) model files and photos that the workflows name."""
    for name in MODELS:
        path = base / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_photos(base / "input")
    with ComfyServer(base) as server:
        yield server


def box(node: dict[str, Any]) -> Box:
    """The node's rectangle with its title bar; pos and size as in the file."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE, left + width, top + height


def overlaps(boxes: dict[str, Box], gap: float = 0) -> list[tuple[str, str]]:
    """The pairs of boxes that come closer to each other than `gap`."""
    return [
        (a, b)
        for (a, one), (b, two) in itertools.combinations(boxes.items(), 2)
        if one[0] < two[2] + gap
        and two[0] < one[2] + gap
        and one[1] < two[3] + gap
        and two[1] < one[3] + gap
    ]


def inside(inner: Box, outer: Box) -> bool:
    left_top = inner[0] >= outer[0] and inner[1] >= outer[1]
    return left_top and inner[2] <= outer[2] and inner[3] <= outer[3]
