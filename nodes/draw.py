"""Draw Individuals: concepts out of a DETEX_DISTRIBUTION."""

from collections.abc import Sequence

from comfy_api.latest import io, ui
from torch import Tensor

from ..detex.concept.file import Concept
from ..detex.concept.individuals import MOST_DIVERSE, drawn_codes, individual, mixed_codes
from .sockets import CATEGORY, ConceptSocket, DistributionSocket


class DrawIndividuals(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXDrawIndividuals",
            display_name="Draw Individuals",
            category=CATEGORY,
            description="New individuals that vary as the pictures of a distribution do: a list of "
            "concepts, each of which keeps its look over prompts and seeds.",
            search_aliases=["dis2booth", "sample distribution", "random individual", "mix"],
            inputs=[
                DistributionSocket.Input(
                    "distribution", tooltip="From Dis²Booth Train (reconstruction)."
                ),
                io.Int.Input(
                    "count", default=9, min=1, max=64, tooltip="How many individuals are drawn."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="The same seed draws the same individuals: the first of nine is the "
                    "first of three, too.",
                ),
                io.Float.Input(
                    "diversity",
                    default=1.0,
                    min=0.0,
                    max=MOST_DIVERSE,
                    step=0.05,
                    tooltip="How far individuals lie around the anchor: 0 is the anchor itself, "
                    "what all have in common; at 1 they vary as the pictures do; beyond that more.",
                ),
                io.Int.Input(
                    "first",
                    default=0,
                    min=0,
                    max=9999,
                    tooltip="0 draws at random. A number of the preview of Varied Images: the "
                    "individual of this picture, in place of a drawn one.",
                ),
                io.Int.Input(
                    "second",
                    default=0,
                    min=0,
                    max=9999,
                    tooltip="With first: individuals from that of picture first to that of this "
                    "picture, count of them; with count 1 the one midway.",
                ),
                io.Int.Input(
                    "only",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="0 gives all of them. A number gives this one alone: of nine the "
                    "fourth that you liked.",
                ),
            ],
            outputs=[
                ConceptSocket.Output(
                    display_name="concepts",
                    is_output_list=True,
                    tooltip="For Apply, Compose and Save: nodes behind run once for each.",
                ),
                io.String.Output(
                    display_name="labels",
                    is_output_list=True,
                    tooltip="A name for each, for Labelled Grid and file names.",
                ),
            ],
        )

    @classmethod
    def execute(cls, distribution, count, seed, diversity, first, second, only=0) -> io.NodeOutput:
        if first or second:
            codes = mixed_codes(distribution, first or second, second, count)
            labels = mixed_labels(first or second, second, count)
        else:
            codes = drawn_codes(distribution, count, diversity, seed)
            labels = [f"{seed}-{number}" for number in range(1, count + 1)]
        if only:
            check_only(only, count)
            codes, labels = codes[only - 1 : only], labels[only - 1 : only]
        concepts = [individual(distribution, code) for code in codes]
        text = "\n".join([said(distribution, concepts), *sizes(labels, codes)])
        return io.NodeOutput(concepts, labels, ui=ui.PreviewText(text))


def check_only(only: int, count: int) -> None:
    """Raise ValueError for an individual that is not drawn."""
    if only > count:
        raise ValueError(
            f"Only individual {only} is wanted, but {count} are drawn. Raise count, or choose one "
            "of them."
        )


def mixed_labels(first: int, second: int, count: int) -> list[str]:
    """ "picture 2", or how much of the second picture there is: "2 to 5, 25%"."""
    if not second or first == second:
        return [f"picture {first}"] * count
    shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
    return [f"{first} to {second}, {share:.0%}" for share in shares]


def said(distribution: Concept, concepts: Sequence[Concept]) -> str:
    kind = "individual" if len(concepts) == 1 else "individuals"
    pictures = len(distribution.photo_hashes)
    return f"{len(concepts)} {kind} of {distribution.class_word}, learned from {pictures} pictures"


def sizes(labels: Sequence[str], codes: Tensor) -> list[str]:
    """How far each lies from the anchor: about 1 is as far as the pictures do."""
    far = codes.square().mean(dim=1).sqrt().tolist()
    return [f"{label}: {size:.2f} from the anchor" for label, size in zip(labels, far, strict=True)]
