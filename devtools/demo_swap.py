"""Run the workflows for Stable Diffusion on the demo model, which needs no download."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .pack_host import register_pack

register_pack()

from detex_pack.detex.toys.subjects import demo_subject

SIDE = 64  # pixels, of the demo model
SIZES = {  # by node type
    "EmptyLatentImage": {"width": SIDE, "height": SIDE},
    "DETEXSubjectImages": {"resolution": SIDE},
    "DETEXClassPriorImages": {"resolution": SIDE},
}
VISION = 3  # output of DETEX Demo Model

Prompt = dict[str, dict[str, Any]]


def with_demo_model(prompt: Prompt) -> Prompt:
    """The prompt with the demo model for Load Checkpoint and Load CLIP Vision, at its size, and
    with the folder's own masks for those of segment-anything.
    """
    moved: dict[tuple[str, int], list[Any]] = {}
    for number, entry in list(prompt.items()):
        entry["inputs"] |= SIZES.get(entry["class_type"], {})
        if entry["class_type"] == "CLIPVisionLoader":
            moved[number, 0] = [number, VISION]
        if entry["class_type"] == "DETEXSubjectMask":
            folder = entry["inputs"]["images"][0]
            moved[number, 0] = [folder, 1]
            del prompt[number]
        if entry["class_type"] in ("CheckpointLoaderSimple", "CLIPVisionLoader"):
            entry |= {"class_type": "DETEXDemoModel", "inputs": {}}
    for entry in prompt.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, list) and tuple(value) in moved:
                entry["inputs"][name] = moved[value[0], value[1]]
    return prompt


def write_photos(input_folder: Path) -> None:
    """What the workflows name: photo_1.png... of a ball, each with its mask in its transparency as
    the MaskEditor saves it, and the folder my_subject with photos and masks of a star.
    """
    folder = input_folder / "my_subject"
    folder.mkdir(parents=True, exist_ok=True)
    ball, star = demo_subject(0, 4, 0), demo_subject(1, 4, 0)
    for number, (photo, mask) in enumerate(zip(ball.images, ball.masks, strict=True), 1):
        picture = _image(photo.numpy())
        picture.putalpha(_image(1 - mask.numpy()))
        picture.save(input_folder / f"photo_{number}.png")
    for number, (photo, mask) in enumerate(zip(star.images, star.masks, strict=True), 1):
        _image(photo.numpy()).save(folder / f"photo_{number}.png")
        _image(mask.numpy()).save(folder / f"photo_{number}.mask.png")


def _image(pixels: np.ndarray) -> Image.Image:
    """[H, W] or [H, W, 3] in [0, 1]."""
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
