"""Subject Mask (SAM)."""

from collections.abc import Sequence
from typing import Any

import comfy.utils
from comfy_api.latest import io, ui
from torch import Tensor

from ..detex.host import sam
from ..detex.host.images import photos_of
from ..detex.photos.segment import (
    KEPT,
    Candidate,
    candidate_sheet,
    check_inside,
    parse_boxes,
    parse_choice,
    parse_points,
)
from .sockets import CATEGORY

SamSocket = io.Custom("SAM_MODEL")


class SubjectMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXSubjectMask",
            display_name="Subject Mask (SAM)",
            category=CATEGORY,
            description="Finds the subject of each photo with segment-anything and shows the other "
            "candidates: type a number to take another one. Needs the package segment-anything.",
            search_aliases=["segment anything", "sam", "mask", "cut out", "remove background"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The photos: a batch or a list, any sizes."),
                io.Combo.Input(
                    "checkpoint",
                    options=sam.sam_files(),
                    tooltip="A ViT-B, ViT-L or ViT-H checkpoint in models/sams. Not used where a "
                    "SAM_MODEL is wired.",
                ),
                io.String.Input(
                    "choice",
                    default="",
                    tooltip='Replaces the automatic choice: "1:2, 3:1" takes candidate 2 of photo '
                    "1 and candidate 1 of photo 3. Empty takes the first of each.",
                ),
                io.String.Input(
                    "points",
                    default="",
                    advanced=True,
                    tooltip='Points on the subject, in pixels: "2: 340,210" for photo 2, "!20,30" '
                    "for a point off it; semicolons between photos, no number for all of them.",
                ),
                io.String.Input(
                    "box",
                    default="",
                    advanced=True,
                    tooltip='A box around the subject, in pixels: "2: 10,20,300,400" for photo 2 '
                    "(left, top, right, bottom); semicolons between photos.",
                ),
                SamSocket.Input(
                    "sam_model",
                    optional=True,
                    tooltip="A SAM_MODEL of another pack's loader, in place of the checkpoint.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="One mask a photo, white on the subject, for Subject Images.",
                ),
                io.Image.Output(
                    display_name="candidates",
                    tooltip="The candidates of each photo with their numbers. Also on the node.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, checkpoint, choice, points, box, sam_model=None) -> io.NodeOutput:
        photos = [photo.float() for photo in photos_of(images)]
        prompts = checked_prompts(photos, points[0], box[0])
        parse_choice(choice[0], [KEPT] * len(photos))  # a slip is told before the long run
        model = sam_model[0] if sam_model else sam.load_sam(checkpoint[0])
        found = found_masks(model, photos, prompts)
        chosen = parse_choice(choice[0], [len(candidates) for candidates in found])
        picture = candidate_sheet(photos, found, chosen)
        masks = [masks[i - 1].mask.float()[None] for masks, i in zip(found, chosen, strict=True)]
        return io.NodeOutput(masks, picture, ui=ui.PreviewImage(picture, cls=cls))


def checked_prompts(photos: Sequence[Tensor], points: str, box: str) -> list[tuple]:
    """(points, box or None) of each photo [H, W, 3]. Raises ValueError for what lies off it."""
    count = len(photos)
    prompts = list(zip(parse_points(points, count), parse_boxes(box, count), strict=True))
    for number, (photo, prompt) in enumerate(zip(photos, prompts, strict=True), start=1):
        check_inside(number, *prompt, photo.shape[0], photo.shape[1])
    return prompts


def found_masks(
    model: Any, photos: Sequence[Tensor], prompts: Sequence[tuple]
) -> list[list[Candidate]]:
    """The candidates of each photo. Raises ValueError for a photo that has none."""
    sam.check_sam(model)
    bar = comfy.utils.ProgressBar(len(photos))
    found = []
    with sam.on_device(model):
        for number, (photo, prompt) in enumerate(zip(photos, prompts, strict=True), start=1):
            found.append(sam.photo_candidates(model, photo, *prompt))
            bar.update_absolute(number)
            if not found[-1]:
                raise ValueError(
                    f"Nothing was found on photo {number}. Give a point on its subject in points, "
                    f'such as "{number}: 340,210", or paint its mask.'
                )
    return found
