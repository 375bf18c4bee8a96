"""Save, load and apply a learned concept."""

from comfy_api.latest import io, ui

from ..detex.concept import Concept, load_concept
from ..detex.host import export, paths
from ..detex.host.deltas import apply_concept
from ..detex.preview import contact_sheet
from .sockets import CATEGORY, ConceptSocket


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
    return io.NodeOutput(patched, concept, sheet)


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
            search_aliases=["save concept", "export lora", "save embedding"],
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
                    default=True,
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
                    tooltip="How much of the deltas the LoRA file keeps: 1 all, exactly; 0.6 as "
                    "Custom Diffusion's code, a low rank and a fraction of the size.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="file", tooltip="The concept's file name in models/detex."
                )
            ],
        )

    @classmethod
    def execute(cls, concept, name, stock_files, lora_share=1.0) -> io.NodeOutput:
        if stock_files:
            names = export.save_with_stock_files(concept, name, lora_share)
        else:
            names = [export.save_concept(concept, name)]
        return io.NodeOutput(names[0], ui=ui.PreviewText("Saved\n" + "\n".join(names)))


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
        return applied(model, load_concept(paths.concept_path(file)), strength)


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
