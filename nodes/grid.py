"""Prompt Grid and Labelled Grid."""

from collections.abc import Sequence

from comfy_api.latest import io, ui

from ..detex.canvas.labelled_grid import labelled_grid
from ..detex.host.images import rgb
from ..detex.host.individuals import compose_all
from ..detex.prompt.grammar import split_placeholders
from ..detex.prompt.nearly import check_prompt
from ..detex.prompt.prompt_table import grid_prompts, parse_numbers
from .sockets import CATEGORY, ConceptSocket


class PromptGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXPromptGrid",
            display_name="Prompt Grid",
            category=CATEGORY,
            description="Every prompt with every pose and every background: lists that any sampler "
            "and Save Image work through one by one.",
            search_aliases=["xy plot", "batch prompts", "grid", "prompt list", "matrix"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the concept's checkpoint."),
                ConceptSocket.Input("concept", tooltip="From Load Decoupled Embeddings."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="photo of a [V] dog on the beach\nphoto of a [V] dog in the snow",
                    tooltip="One prompt a line, as in Compose [V]/[P]/[B] Prompt.",
                ),
                io.String.Input(
                    "poses",
                    default="0",
                    tooltip='Photo numbers whose pose is added: "0, 1, 2" or "1-3". 0 adds none.',
                ),
                io.String.Input(
                    "backgrounds",
                    default="0",
                    tooltip='Photo numbers whose background is added: "0-2". 0 adds none.',
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    is_output_list=True,
                    tooltip="One for each cell: the sampler runs once for each.",
                ),
                io.String.Output(
                    display_name="text", is_output_list=True, tooltip="The whole prompt of each."
                ),
                io.String.Output(
                    display_name="labels",
                    is_output_list=True,
                    tooltip="For Labelled Grid, and as filename_prefix of Save Image.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip, concept, prompts, poses, backgrounds) -> io.NodeOutput:
        numbers = parse_numbers(poses, "poses"), parse_numbers(backgrounds, "backgrounds")
        grid = grid_prompts(prompts.splitlines(), *numbers, concept.attribute_of)
        for text, _ in grid:
            check_prompt(text, concept.word_names)
        conditionings = compose_all(clip, concept, [text for text, _ in grid])
        texts, labels = [text for text, _ in grid], [label for _, label in grid]
        said = f"{len(grid)} prompts\n" + "\n".join(texts) + without_subject(texts)
        return io.NodeOutput(conditionings, texts, labels, ui=ui.PreviewText(said))


def without_subject(texts: Sequence[str]) -> str:
    """A line for the node where prompts have no [V]."""
    found = [
        text for text in texts if not any(w.startswith("V") for w in split_placeholders(text)[1])
    ]
    if not found:
        return ""
    return f"\n\n{len(found)} of these have no [V], so the subject will not come there."


class LabelledGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXLabelledGrid",
            display_name="Labelled Grid",
            category=CATEGORY,
            description="One sheet of all images, with heads of rows and columns.",
            search_aliases=["contact sheet", "xy plot", "image grid", "comparison"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The decoded images of the whole list."),
                io.String.Input(
                    "labels",
                    force_input=True,
                    tooltip='From Prompt Grid: one for each image, "row + column" or a caption.',
                ),
                io.Int.Input(
                    "cell", default=256, min=64, max=1024, tooltip="Width of a picture, in pixels."
                ),
                io.String.Input("title", default="", tooltip="A line above the sheet."),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=32,
                    advanced=True,
                    tooltip="Pictures in a row where the labels are plain captions; 0 makes the "
                    "sheet about square.",
                ),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="One image, to save or show.")],
        )

    @classmethod
    def execute(cls, images, labels, cell, title, columns) -> io.NodeOutput:
        pictures = [rgb(batch).cpu().float() for batch in images]
        page = labelled_grid(pictures, labels, cell[0], title[0], columns[0])
        return io.NodeOutput(page, ui=ui.PreviewImage(page, cls=cls))
