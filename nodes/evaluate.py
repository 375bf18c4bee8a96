"""Evaluate Concept and Compare Concepts."""

from collections.abc import Sequence

from comfy_api.latest import io, ui
from torch import Tensor

from ..detex.canvas.labelled_grid import labelled_grid
from ..detex.evaluate.evaluation import Evaluation, joined
from ..detex.evaluate.plots import comparison_chart, evaluation_chart
from ..detex.evaluate.report import ORDERS, picture_labels, ranking, table_json, table_text
from ..detex.evaluate.scoring import Masked, Sampled, evaluate, prompt_of_each
from ..detex.evaluate.verdict import comparison_text, differences
from ..detex.host.encoders import wired_encoders
from ..detex.host.images import photos_of, planes_of
from ..detex.prompt.prompt_table import SPLIT
from .sockets import CATEGORY, EvaluationSocket

MOST = 6  # sockets


class EvaluateConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXEvaluateConcept",
            display_name="Evaluate Concept",
            category=CATEGORY,
            description="Scores pictures of a subject: how like its photos they are, and how well "
            "they follow their prompts. A table, a chart, and the pictures from best to worst.",
            search_aliases=["clip score", "dino", "clip-i", "clip-t", "fidelity", "metrics"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The decoded pictures of the whole list."),
                io.String.Input(
                    "prompts",
                    force_input=True,
                    tooltip="What each was drawn from: the text of Prompt Grid, or any list of as "
                    "many prompts. A batch of several pictures has one prompt.",
                ),
                io.Image.Input("photos", tooltip="The subject's photos, as it should look."),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="What compares the pictures: CLIP ViT-L/14 or ViT-H/14, or DINOv2. "
                    "Scores of different encoders cannot be compared.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that was trained with clip_vision, for CLIP-T: Load "
                    "CLIP with clip_l.safetensors beside CLIP ViT-L/14. The CLIP of a Stable "
                    "Diffusion 1.x checkpoint lacks the part that is needed.",
                ),
                io.Mask.Input(
                    "photo_masks",
                    optional=True,
                    tooltip="White is the subject in the photos. With them the photos' backgrounds "
                    "do not count: fg_ref.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="White is the subject in each picture, of any segmenter. With them the "
                    "pictures' backgrounds do not count either: fg_both, and leak.",
                ),
                io.Image.Input(
                    "base_images",
                    optional=True,
                    tooltip="The same prompts without [V], drawn by the checkpoint alone from the "
                    "same seeds, beside such pictures with the concept among images: drift.",
                ),
                io.Mask.Input(
                    "base_masks",
                    optional=True,
                    tooltip="White is the thing in each of base_images, for leak.",
                ),
                io.ClipVision.Input(
                    "clip_vision_2",
                    optional=True,
                    tooltip="A second encoder, such as DINOv2 beside CLIP: it adds scores of its "
                    "own.",
                ),
                io.String.Input("name", default="concept", tooltip="How tables call the concept."),
                io.String.Input(
                    "subject",
                    default="subject",
                    tooltip="What the photos show. Compare Concepts puts evaluations of one name "
                    "and several subjects together.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    tooltip="How the sheet is sorted: by the likeness to the photos, by the "
                    "agreement with the prompt, or by both ranks.",
                ),
                io.String.Input(
                    "folders",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="Folders with further encoders, one a line, for the papers' own "
                    "numbers: CLIP ViT-B/32 and DINO ViT-S/16 as Hugging Face lays them out. "
                    "Nothing is downloaded.",
                ),
                io.Int.Input(
                    "cell",
                    default=192,
                    min=64,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="Width of a picture on the sheet, in pixels.",
                ),
            ],
            outputs=[
                EvaluationSocket.Output(display_name="evaluation", tooltip="For Compare Concepts."),
                io.String.Output(
                    display_name="table", tooltip="Means with intervals, as the node shows them."
                ),
                io.String.Output(
                    display_name="json",
                    tooltip="Every value of every picture, for a file or a script.",
                ),
                io.Image.Output(
                    display_name="plot", tooltip="A panel for each score, a row for each prompt."
                ),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="The pictures from best to worst, with their scores.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images, prompts, photos, clip_vision, name, subject, order, **inputs
    ) -> io.NodeOutput:
        batches = [len(batch) for batch in images]
        shown = Masked(photos_of(images), optional_planes(inputs.get("masks")), "picture")
        sampled = Sampled(shown, prompt_of_each(batches, prompts))
        real = Masked(photos_of(photos), optional_planes(inputs.get("photo_masks")))
        visions = [*clip_vision, *(inputs.get("clip_vision_2") or ())]
        clip, folders = single(inputs, "clip"), single(inputs, "folders") or ""
        encoders, note = wired_encoders(visions, clip, folders)
        found = evaluate(name[0], subject[0], sampled, real, encoders, base_of(inputs))
        places = ranking(found, order[0])
        sheet = sorted_sheet(found, shown.pictures, places, single(inputs, "cell") or 192)
        table = table_text(found, [note])
        outputs = found, table, table_json(found), evaluation_chart(found), sheet
        return io.NodeOutput(*outputs, ui=ui.PreviewText(table))


def single(inputs: dict, name: str):
    """The value of an input that is no list; None where it is open."""
    return (inputs.get(name) or [None])[0]


def optional_planes(masks: Sequence[Tensor] | None) -> list[Tensor] | None:
    return planes_of(masks) if masks else None


def base_of(inputs: dict) -> Masked | None:
    """The base model's pictures, where they are wired."""
    images = inputs.get("base_images")
    if not images:
        return None
    masks = optional_planes(inputs.get("base_masks"))
    return Masked(photos_of(images), masks, "base model's picture")


def sorted_sheet(
    found: Evaluation, pictures: Sequence[Tensor], places: Sequence[int], cell: int
) -> Tensor:
    """The pictures in this order under their scores and prompts -> [1, H, W, 3]."""
    labels = [label.replace(SPLIT, " ") for label in picture_labels(found, places)]
    return labelled_grid([pictures[i][None] for i in places], labels, cell, found.name)


class CompareConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXCompareConcepts",
            display_name="Compare Concepts",
            category=CATEGORY,
            description="Evaluations side by side, and one sentence: which difference is sure, and "
            "what may be noise.",
            search_aliases=["compare training", "metrics", "significance", "which lora is better"],
            is_output_node=True,
            inputs=[
                EvaluationSocket.Input(
                    f"evaluation_{i}",
                    optional=i > 2,
                    tooltip="From Evaluate Concept: of the same prompts, by the same encoders, "
                    "under a name of its own. Those of one name and other subjects count as one.",
                )
                for i in range(1, MOST + 1)
            ],
            outputs=[
                io.String.Output(
                    display_name="verdict", tooltip="The sentence, then every difference."
                ),
                io.Image.Output(
                    display_name="plot", tooltip="A panel for each score, a row for each concept."
                ),
            ],
        )

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        wired = [value for _, value in sorted(inputs.items()) if value is not None]
        evaluations = of_each_name(wired)
        text = comparison_text(evaluations, differences(evaluations))
        return io.NodeOutput(text, comparison_chart(evaluations), ui=ui.PreviewText(text))


def of_each_name(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Evaluations of one name and several subjects as one. Those of one name and one subject stay
    apart, and are refused where they are compared.
    """
    groups: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        groups.setdefault(one.name, []).append(one)
    made = []
    for name, group in groups.items():
        subjects = {subject for one in group for subject in one.subjects}
        made += [joined(name, group)] if len(subjects) == len(group) else group
    return made
