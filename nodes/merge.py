"""Merge Concepts."""

from comfy_api.latest import io, ui

from ..detex.canvas.sheets import contact_sheet
from ..detex.concept.merge import Quality, merge_concepts, renamed_subjects
from ..detex.host.text import text_features
from ..detex.host.towers import tower_of
from .sockets import CATEGORY, ConceptSocket

MOST = 6  # sockets; a merged concept can be merged again


class MergeConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXMergeConcepts",
            display_name="Merge Concepts",
            category=CATEGORY,
            description="Two or more subjects of one checkpoint in one concept, for pictures with "
            "both. No training: it is solved in seconds. The subjects become [V], [V2]...",
            search_aliases=["combine concepts", "several subjects", "multi concept", "merge lora"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the checkpoint they were trained on."),
                *[
                    ConceptSocket.Input(
                        f"concept_{i}",
                        optional=i > 2,
                        tooltip=f"Its [V] becomes [V{i if i > 1 else ''}]; its photo numbers go on "
                        "after those before it.",
                    )
                    for i in range(1, MOST + 1)
                ],
            ],
            outputs=[
                ConceptSocket.Output(
                    display_name="concept", tooltip="For Apply, Save, Compose and Prompt Grid."
                ),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="All photos with their new numbers."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip, **inputs) -> io.NodeOutput:
        wired = sorted((key, value) for key, value in inputs.items() if value is not None)
        concepts = [concept for _, concept in wired]
        for concept in concepts:
            concept.vectors(tower_of(clip))  # raises where this CLIP is of another family
        merged, quality = merge_concepts(
            concepts, lambda texts, words: text_features(clip, texts, words)
        )
        numbered = merged.photo_count > 0
        page = contact_sheet(merged.thumbnails, merged.class_word, numbered=numbered)
        return io.NodeOutput(merged, page, ui=ui.PreviewText(summary(concepts, quality)))


def summary(concepts: list, quality: Quality) -> str:
    """The new words, and what the merge keeps, for the node."""
    lines = []
    for s in renamed_subjects(concepts):
        numbers = [i + s.offset for i in s.photos]
        photos = f"  photos {numbers[0]} to {numbers[-1]}" if numbers else ""
        lines.append(f"[{s.word}] {s.class_word}{photos}")
    kept = ", ".join(f"{share:.0%}" for share in quality.kept)
    lines.append(f"kept of each concept in long prompts: {kept}")
    lines.append(f"change of other prompts: {quality.spill:.0%} of what one concept changes")
    for one, other, overlap in quality.alike:
        names = f"{concepts[one].class_word} and {concepts[other].class_word}"
        lines.append(
            f"{names} can hardly be told apart (overlap {overlap:.0%}): they will share much of "
            "their looks. Train them under words that differ more, or paint them one by one."
        )
    return "\n".join(lines)
