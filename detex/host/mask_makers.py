"""How this ComfyUI can make the masks that a folder of photos lacks, in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import folder_paths

BLUEPRINT = "Remove Background (BiRefNet)"  # of ComfyUI 0.30, in the node search
MODELS = "background_removal"  # its folder of models
MODEL = "birefnet.safetensors"
SAVED = "my_subject_masked"  # below the output folder


def lacking_masks(names: Sequence[str]) -> str:
    """These photos have none, and the steps to make them: by ComfyUI's own node where it has one,
    with the model's place where that is missing.
    """
    has = "has no mask" if len(names) == 1 else "have no mask"
    saved = Path(folder_paths.get_output_directory()) / SAVED
    own = f"white on the subject: {Path(names[0]).stem}.mask.png beside {names[0]}"
    if MODELS not in folder_paths.folder_names_and_paths:
        make = "Update ComfyUI for its background removal, or wire images into Subject Mask (SAM)."
    else:
        make = (
            f"{model_first()}On an empty canvas wire images of Load Subject Folder into "
            f'"{BLUEPRINT}" (in the node search), its IMAGE into Save Image with the '
            f"filename_prefix {SAVED}/photo, and run. Then type {saved} as the folder: its "
            "cut-outs are photos with masks."
        )
    without = "For a method that needs none, unwire them."
    return f"{', '.join(names)} {has}. {make} Or paint masks, {own}. {without}"


def model_first() -> str:
    """Where the model of the background removal goes, while it has none; else ""."""
    if folder_paths.get_filename_list(MODELS):
        return ""
    folder = folder_paths.get_folder_paths(MODELS)[0]
    return f"Put {MODEL} (huggingface.co/Comfy-Org/BiRefNet) into {folder} and press R. "


def go_to_training(prompt: Mapping[str, Any], node: str, output: int) -> bool:
    """Whether masks of this output go straight into Subject Images, which takes no empty ones."""
    return any(
        one["class_type"] == "DETEXSubjectImages" and one["inputs"].get("masks") == [node, output]
        for one in prompt.values()
    )
