"""A concept file from disk, checked against what this version knows of methods and layers."""

from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ..concept.file import Concept, damaged, load_concept
from ..concept.merge import MERGED
from ..methods import METHODS
from .export import kohya_names
from .families import schedule_kind

ANSWERS = {"eps": "the noise (eps)", "v": "v (v-prediction)"}


def read_concept(path: Path) -> Concept:
    """Raises ValueError with the remedy for a file that is none, damaged, or of a method that this
    version of the pack lacks.
    """
    concept = load_concept(path)
    if concept.method not in METHODS and not concept.method.startswith(MERGED):
        raise ValueError(
            f'{path.name} was made by the method "{concept.method}", which this version of the '
            f"pack does not have; it has {', '.join(METHODS)}. Update the DETEX nodes in "
            "ComfyUI-Manager."
        )
    try:
        names = kohya_names(concept.base.unet).keys()
    except (KeyError, TypeError, IndexError) as error:
        raise damaged(path.name, f"the layout of its UNet: {error!r}") from error
    known = concept.deltas.keys() | concept.varied.keys()
    unknown, missing = sorted(known - names), missing_layers(concept)
    if unknown:
        raise damaged(path.name, f"its UNet has no layer {unknown[0]}")
    if missing:
        raise damaged(path.name, f"{len(missing)} layers are missing, such as {missing[0]}")
    return concept


def missing_layers(concept: Concept) -> list[str]:
    """Layers of the UNet that have no delta, though others of their kind, "attn2.to_k", have one.

    A method changes a kind of layer in the whole UNet.
    """
    kinds = {kind_of(name) for name in concept.deltas} - {""}
    layers = (name for name in kohya_names(concept.base.unet) if kind_of(name) in kinds)
    return sorted(set(layers) - concept.deltas.keys())


def kind_of(layer: str) -> str:
    """ "input_blocks.1.1.transformer_blocks.0.attn2.to_k" -> "attn2.to_k"."""
    return layer.partition("transformer_blocks.")[2].partition(".")[2]


def prediction_note(concept: Concept, model: ModelPatcher) -> str:
    """What to say where the MODEL's UNet answers with something else than in training; else ""."""
    trained, here = concept.base.prediction, schedule_kind(model).prediction
    if trained == here:
        return ""
    return (
        f"This concept was trained on a model that predicts {ANSWERS.get(trained, trained)}; the "
        f"MODEL wired here predicts {ANSWERS[here]}. The subject comes out weaker, or other. Load "
        "the checkpoint that it was trained on, or train it on this one."
    )
