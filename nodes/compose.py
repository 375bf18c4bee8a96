"""Compose [V]/[P]/[B] Prompt."""

from comfy.sd import CLIP
from comfy_api.latest import io, ui

from ..detex.concept.file import CLIP_SKIP, Concept
from ..detex.concept.merge import MERGED
from ..detex.host.individuals import compose_all
from ..detex.host.text import counts_of
from ..detex.host.towers import last_layer, tower_of
from ..detex.prompt.grammar import spelled_out, with_clauses
from ..detex.prompt.nearly import check_prompt
from ..detex.prompt.subjects import Subject, prompt_notes, with_subjects
from .sockets import CATEGORY, ConceptSocket


class ComposePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXComposePrompt",
            display_name="Compose [V]/[P]/[B] Prompt",
            category=CATEGORY,
            description="A prompt in ComfyUI's syntax with learned words in it: [V] the subject, "
            "[P2] the pose and [B1] the background of a photo.",
            search_aliases=["detex prompt", "clip text encode", "concept prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the concept's checkpoint."),
                ConceptSocket.Input("concept", tooltip="From Load Decoupled Embeddings."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="photo of a [V] dog on the beach",
                    dynamic_prompts=True,
                    tooltip="[V], [P1], [B1] may stand anywhere, also with weights: ([V]:1.2). Put "
                    "[V] right before the class word, as in training.",
                ),
                io.Int.Input(
                    "pose",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="Adds the pose of this photo: with [P2] pose. 0 adds none.",
                ),
                io.Int.Input(
                    "background",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="Adds the background of this photo: in [B1] background. 0 adds none.",
                ),
                io.Boolean.Input(
                    "insert_v",
                    display_name="insert [V]",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Puts [V] before the class word where the text has none, so that a "
                    "plain prompt shows your subject.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="For any sampler."),
                io.String.Output(
                    display_name="text",
                    tooltip="The prompt with its clauses, for Capture Attention.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip,
        concept,
        text,
        pose,
        background,
        insert_v=False,  # noqa: FBT002
    ) -> io.NodeOutput:
        subjects = subjects_of(concept)
        text = with_subjects(text, subjects) if insert_v else text
        full = with_clauses(text, concept.attribute_of(pose), pose, background)
        check_prompt(full, concept.word_names)
        (conditioning,) = compose_all(clip, concept, [full])
        vectors = concept.vectors(tower_of(clip))
        said = [full, *prompt_notes(text, subjects, pose, background)]
        said += clip_skip_note(concept, clip)
        watched = spelled_out(full, counts_of(vectors))  # each token as Capture Attention counts it
        return io.NodeOutput(conditioning, watched, ui=ui.PreviewText("\n\n".join(said)))


def clip_skip_note(concept: Concept, clip: CLIP) -> list[str]:
    """What to say where CLIP stops at another layer than in training."""
    if concept.method.startswith(MERGED):
        return []
    trained = last_layer(clip, concept.config.get(CLIP_SKIP))
    here = last_layer(clip, clip.layer_idx)
    if trained == here:
        return []
    return [
        f"CLIP stopped at layer {trained} when the concept was trained, and here it stops at "
        f"{here}: the subject comes out weaker or other. Set CLIP Set Last Layer to {trained}."
    ]


def subjects_of(concept: Concept) -> list[Subject]:
    return [Subject(one.word, one.class_word) for one in concept.named]
