"""Meta's segment-anything, where a user has installed it: checkpoints, and masks of a photo."""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import comfy.model_management as model_management
import comfy.utils
import folder_paths
import torch
import torch.nn.functional as F
from torch import Tensor

from ..canvas.masks import fit
from ..photos.segment import Candidate, Point, ranked

FOLDER = "sams"  # shared with other packs
NONE_FOUND = "none in models/sams"
WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
GRID = 5  # points a side where the user gives none
POINTS_AT_ONCE = 5  # each brings three masks of the whole photo


def register_sam_folder() -> None:
    """Make models/sams a model folder; where another pack has done so, only add the path."""
    is_new = FOLDER not in folder_paths.folder_names_and_paths
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    if is_new:
        folder_paths.folder_names_and_paths[FOLDER][1].update((".pth", ".pt", ".safetensors"))


def sam_files() -> list[str]:
    return folder_paths.get_filename_list(FOLDER) or [NONE_FOUND]


def segment_anything() -> ModuleType:
    """The package, imported when a node runs. Raises ImportError with what to do without it."""
    try:
        return importlib.import_module("segment_anything")
    except ImportError as error:
        raise ImportError(
            f"Subject Mask (SAM) needs the package segment-anything ({error}). Install it with\n"
            f'"{sys.executable}" -m pip install segment-anything\n'
            "and start ComfyUI again. Or do without it and wire any other MASK into Subject "
            "Images: the photos' transparency (Load Subject Folder), ComfyUI's own SAM3 Detect, or "
            "a mask painted in the MaskEditor of Load Image."
        ) from error


def load_sam(file: str) -> Any:
    """A Sam model from a checkpoint in models/sams, its size read from the weights.

    Raises ValueError for other files.
    """
    package = segment_anything()
    if file == NONE_FOUND:
        raise ValueError(
            "There is no SAM checkpoint in models/sams. Put sam_vit_b_01ec64.pth there (375 MB, "
            "from github.com/facebookresearch/segment-anything) and press R, or wire a SAM_MODEL."
        )
    path = folder_paths.get_full_path_or_raise(FOLDER, file)
    weights: Any = comfy.utils.load_torch_file(path, safe_load=True)
    position = weights.get("image_encoder.pos_embed", torch.zeros(0))
    kind = WIDTHS.get(position.shape[-1])
    if kind is None or "mask_decoder.hf_token.weight" in weights:
        raise ValueError(
            f"{file} is no segment-anything checkpoint of the sizes ViT-B, ViT-L or ViT-H. SAM-HQ, "
            "MobileSAM and SAM 2 are not read here: wire the MASK of their own nodes instead."
        )
    sam = package.sam_model_registry[kind]()
    sam.load_state_dict(weights)
    return sam


def check_sam(sam: Any) -> None:
    """Raise ValueError where a wired SAM_MODEL is not the original kind."""
    parts = ("image_encoder", "prompt_encoder", "mask_decoder", "preprocess")
    if not all(hasattr(sam, part) for part in parts) or hasattr(sam.mask_decoder, "hf_token"):
        raise ValueError(
            f"The SAM_MODEL wired here is a {type(sam).__name__}, which this node does not read: "
            "it takes the first segment-anything (ViT-B, L, H). Wire the MASK of that model's own "
            "node into Subject Images instead."
        )


@contextmanager
def on_device(sam: Any) -> Iterator[None]:
    """The model on ComfyUI's device for the time of the context, with room made for it."""
    device, home = model_management.get_torch_device(), sam.device
    size = sum(p.numel() * p.element_size() for p in sam.parameters())
    model_management.free_memory(2 * size, device)
    sam.to(device)
    try:
        yield
    finally:
        sam.to(home)


@torch.no_grad()
def photo_candidates(
    sam: Any, photo: Tensor, points: Sequence[Point], box: tuple[float, ...] | None
) -> list[Candidate]:
    """The best masks of a photo [H, W, 3], best first, at its size.

    With points or a box they follow these; without, a grid of points is tried and what looks most
    like the subject of a photo comes first.
    """
    predictor = segment_anything().SamPredictor(sam)
    small, _ = fit(photo, photo[..., 0], sam.image_encoder.img_size)
    predictor.set_image((small * 255).round().to(torch.uint8).cpu().numpy())
    scale = small.shape[0] / photo.shape[0]
    prompted = bool(points or box)
    prompts = [(points, box)] if prompted else [([p], None) for p in grid_points(photo)]
    batches = [prompts[i : i + POINTS_AT_ONCE] for i in range(0, len(prompts), POINTS_AT_ONCE)]
    found: list[Candidate] = []
    for batch in batches:
        model_management.throw_exception_if_processing_interrupted()
        found = ranked([*found, *_masks(predictor, batch, scale)], prompted=prompted)
    return [Candidate(_enlarged(c.mask, photo), c.predicted_iou) for c in found]


def grid_points(photo: Tensor) -> list[Point]:
    """GRID x GRID points over the middle of a photo [H, W, 3]."""
    places = [0.2 + 0.6 * i / (GRID - 1) for i in range(GRID)]
    height, width = photo.shape[:2]
    return [Point(x * width, y * height, subject=True) for y in places for x in places]


def _masks(predictor: Any, prompts: Sequence[tuple], scale: float) -> list[Candidate]:
    """Three masks for each (points, box); all prompts hold as many points."""
    device = predictor.device
    coordinates = labels = boxes = None
    if prompts[0][0]:
        places = [[(p.x * scale, p.y * scale) for p in points] for points, _ in prompts]
        coordinates = torch.tensor(places, device=device)
        labels = torch.tensor([[int(p.subject) for p in points] for points, _ in prompts])
        labels = labels.to(device)
    if prompts[0][1]:
        boxes = torch.tensor([[c * scale for c in box] for _, box in prompts], device=device)
    masks, scores, _ = predictor.predict_torch(coordinates, labels, boxes, multimask_output=True)
    planes, values = masks.flatten(0, 1).cpu(), scores.flatten().float().cpu().tolist()
    return [Candidate(plane, value) for plane, value in zip(planes, values, strict=True)]


def _enlarged(mask: Tensor, photo: Tensor) -> Tensor:
    plane = F.interpolate(mask[None, None].float(), size=photo.shape[:2], mode="bilinear")
    return plane[0, 0] > 0.5
