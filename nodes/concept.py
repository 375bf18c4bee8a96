"""Save, load and apply a learned concept."""

import logging
import re
from collections.abc import Collection, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from comfy_api.latest import io, ui

from ..detex.canvas.sheets import contact_sheet
from ..detex.concept.compress import LoraSize, LowRankForms
from ..detex.concept.file import Concept
from ..detex.concept.individuals import at_strength, summed
from ..detex.host import export, paths
from ..detex.host.concepts import prediction_note, read_concept
from ..detex.host.deltas import apply_concept
from .sockets import CATEGORY, ConceptSocket

log = logging.getLogger("detex")
SHARES = (1.0, 0.9, 0.8, 0.6, 0.4)  # of the deltas, which Save compares
INDIVIDUAL = (
    "An individual has two LoRAs. With this pack load the concept file: its own part is in the "
    "positive prompt alone. Other tools take ..._lora, in which it is in both branches, so that "
    "it keeps its look less well. ComfyUI without this pack can part them: Create Hook LoRA with "
    "..._lora on the positive prompt, another with ..._anchor_lora on the negative one."
)


def strength_input() -> io.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=-4.0,
        max=4.0,
        step=0.05,
        tooltip="How much of the K, V deltas is added: 1 as trained, 0 none.",
    )


def applied(model, concept: Concept, strength: float) -> io.NodeOutput:
    """The three outputs that Load and Apply share."""
    patched = apply_concept(model, concept, strength)
    numbered = concept.photo_count > 0
    sheet = contact_sheet(concept.thumbnails, concept.class_word, numbered=numbered)
    note = prediction_note(concept, model)
    if note:
        log.warning(note)
    return io.NodeOutput(patched, at_strength(concept, strength), sheet, ui=ui.PreviewText(note))


def applied_outputs() -> list[io.Output]:
    return [
        io.Model.Output(
            display_name="model", tooltip="MODEL with the deltas, free while sampling."
        ),
        ConceptSocket.Output(display_name="concept", tooltip="For Compose [V]/[P]/[B] Prompt."),
        io.Image.Output(
            display_name="contact_sheet", tooltip="The photos with their numbers: P1 B1, P2 B2..."
        ),
    ]


class SaveEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXSaveEmbeddings",
            display_name="Save Decoupled Embeddings",
            category=CATEGORY,
            description="Saves a concept to models/detex. An existing file is never replaced.",
            search_aliases=["save concept", "export lora", "save embedding", "diffusers"],
            is_output_node=True,
            inputs=[
                ConceptSocket.Input("concept", tooltip="From DETEX Train."),
                io.String.Input(
                    "name",
                    default="my_subject",
                    tooltip="File name; a number is added where it is taken.",
                ),
                io.Boolean.Input(
                    "stock_files",
                    default=False,
                    tooltip="Also write a LoRA to models/loras and one embedding a word to "
                    "models/embeddings, for graphs and tools without this pack.",
                ),
                io.Float.Input(
                    "lora_share",
                    default=1.0,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How much of the deltas the LoRA keeps: 1 all, exactly; 0.6 as Custom "
                    "Diffusion's code, a low rank and a fraction of the size. dry_run shows rank, "
                    "size and error of several shares.",
                ),
                io.Boolean.Input(
                    "diffusers_folder",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Also write a folder to models/diffusers that diffusers reads with "
                    "load_lora_weights and load_textual_inversion.",
                ),
                io.Boolean.Input(
                    "dry_run",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Write nothing: only show the files, and what the LoRA costs and "
                    "loses at several shares.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="file", tooltip="The concept's file name in models/detex."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        concept,
        name,
        stock_files,
        lora_share=1.0,
        diffusers_folder=False,  # noqa: FBT002
        dry_run=False,  # noqa: FBT002
    ) -> io.NodeOutput:
        wanted = {export.Export.STOCK: stock_files, export.Export.DIFFUSERS: diffusers_folder}
        exports = [kind for kind, chosen in wanted.items() if chosen]
        share = round(lora_share, 3)  # the page counts in steps of 0.05, 0.6000000000000001
        forms = LowRankForms(summed(concept))
        plan = partial(export.plan, concept, name, exports, share, forms)
        files = plan() if dry_run else export.write_planned(plan)
        lines = ["Dry run, nothing is saved:" if dry_run else "Saved in models:"]
        lines += listed(files)
        if exports and dry_run and concept.deltas:
            lines += compared(forms.sizes({*SHARES, share}), share)
        elif exports and share < 1 and concept.deltas:
            lines += [f"LoRA of share {described(size)}" for size in forms.sizes([share])]
        if exports and concept.varied:
            lines.append(INDIVIDUAL)
        if not dry_run:
            lines += uses(concept, files[0].name.removesuffix(".safetensors"), exports)
        shown = SavedConcept("\n".join(lines), None if dry_run else files[0].name)
        return io.NodeOutput(files[0].name, ui=shown)


class SavedConcept(ui.PreviewText):
    """A text, and the saved file in models/detex for who asks the server what a graph has made."""

    def __init__(self, text: str, file: str | None):
        super().__init__(text)
        self.file = file

    def as_dict(self) -> dict[str, Any]:
        saved = {"filename": self.file, "subfolder": "", "type": paths.FOLDER}
        return super().as_dict() | ({"concepts": [saved]} if self.file else {})


def listed(files: Sequence[export.File]) -> list[str]:
    """ "embeddings: my_dog_v.safetensors and 8 more, 0.028 MB", a line for each model folder."""
    lines = []
    for folder, group in groupby(files, key=lambda file: file.folder):
        found = list(group)
        first, *others = dict.fromkeys(re.sub("/.*", "/", file.name) for file in found)
        more = f" and {len(others)} more" if others else ""
        size = megabytes(sum(len(file.content) for file in found))
        lines.append(f"{folder}: {first}{more}, {size}")
    return lines


def uses(concept: Concept, stem: str, exports: Collection[export.Export]) -> list[str]:
    """How each program takes the saved files: a line each, with a prompt."""
    subject = concept.named[0]
    lora = f"{stem}_lora" if concept.deltas else ""

    def prompt(spelled: str) -> str:
        return f"photo of a {spelled} {subject.class_word}"

    lines = ["How to use it:", f"this pack: Load Decoupled Embeddings; {prompt('[V]')}"]
    if export.Export.STOCK in exports:
        loader, tag = (f"Load LoRA {lora}; ", f"<lora:{lora}:1> ") if lora else ("", "")
        lines.append(f"ComfyUI: {loader}{prompt(export.stock_word(stem)(subject.word))}")
        lines.append(f"A1111, Forge: {tag}{prompt(export.file_stem(stem, subject.word))}")
    if export.Export.DIFFUSERS in exports:
        lines.append(
            f"diffusers: {stem}/README.md; {prompt(export.diffusers_word(stem)(subject.word))}"
        )
    return lines


def compared(sizes: Sequence[LoraSize], chosen: float) -> list[str]:
    """A line for each share."""
    here = {chosen: "  <- this one"}
    return [
        "LoRA by lora_share:",
        *(described(size) + here.get(size.share, "") for size in sizes),
    ]


def described(lora: LoraSize) -> str:
    """ "0.6: rank 118 to 301, 29.7 MB, error 31.0%" """
    share, ranks, size, error = lora
    return f"{share:g}: {of_rank(ranks, share)}, {megabytes(size)}, error {error:.1%}"


def of_rank(ranks: tuple[int, int] | None, share: float) -> str:
    """ "rank 118 to 301"; at share 1 "full deltas" or "rank 16, as trained"."""
    if ranks is None:
        return "full deltas"
    low, high = ranks
    as_trained = ", as trained" if share == 1 else ""
    return (f"rank {low} to {high}" if low < high else f"rank {low}") + as_trained


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e6:.3f} MB"


class LoadEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXLoadEmbeddings",
            display_name="Load Decoupled Embeddings",
            category=CATEGORY,
            description="Loads a concept and adds its deltas to MODEL.",
            search_aliases=["load concept", "load subject", "detex loader"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A checkpoint of the concept's family; LoRAs and "
                    "other concepts may be applied to it already.",
                ),
                io.Combo.Input(
                    "file",
                    options=paths.concept_files(),
                    tooltip="A concept in models/detex. Press R after saving a new one.",
                ),
                strength_input(),
            ],
            outputs=applied_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **_) -> tuple[int, int]:
        status = paths.concept_path(file).stat()
        return status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, model, file, strength) -> io.NodeOutput:
        return applied(model, read_concept(paths.concept_path(file)), strength)


class ApplyEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXApplyEmbeddings",
            display_name="Apply Decoupled Embeddings",
            category=CATEGORY,
            description="Adds a concept fresh from DETEX Train to MODEL, without a file.",
            search_aliases=["apply concept", "use concept"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that the concept was trained on."),
                ConceptSocket.Input("concept", tooltip="From DETEX Train."),
                strength_input(),
            ],
            outputs=applied_outputs(),
        )

    @classmethod
    def execute(cls, model, concept, strength) -> io.NodeOutput:
        return applied(model, concept, strength)
