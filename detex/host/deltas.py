"""Deltas on ComfyUI's UNet: live while training, as ModelPatcher patches afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor, nn

from ..concept.file import Concept, check_base
from ..concept.individuals import check_individual
from ..unet.deltas import Delta, Layer, LayerDeltas, LowRank, Product, add_delta
from .families import attention_layers, family_of


@contextmanager
def live_deltas(
    unet: nn.Module, deltas: LayerDeltas, *, detach_start_token: bool
) -> Iterator[None]:
    """Add `deltas` to the layers of a private UNet for the time of the context."""

    def hook_of(layer: Layer, delta: Tensor | Product):
        detach = detach_start_token and layer.text

        def hook(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            weight = module.weight if layer.text else None  # 77 tokens: cheap to take exactly
            return add_delta(output, inputs[0], delta, detach_start_token=detach, weight=weight)

        return hook

    handles = [
        unet.get_submodule(layer.path).register_forward_hook(hook_of(layer, delta))
        for layer, delta in deltas.of_layers()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def apply_concept(model: ModelPatcher, concept: Concept, strength: float) -> ModelPatcher:
    """A clone of `model` with the concept's deltas as weight patches: free at sampling time, and
    summed with LoRAs and other concepts. At strength 0, or without deltas, it is `model` itself.
    What varies rides on the conditioning: see `host.individuals`.

    Raises ValueError where the model is of another family than the concept, and for a distribution.
    """
    check_individual(concept)
    check_base(concept, family_of(model).name)
    shapes = {layer.path: (layer.out, layer.inp) for layer in attention_layers(model)}
    wrong = [name for name, delta in concept.deltas.items() if shapes.get(name) != delta.shape]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of the concept's matrices do not fit this MODEL, {wrong[0]} for one. "
            f"Load the checkpoint it was trained on ({concept.base.family})."
        )
    if strength == 0 or not concept.deltas:
        return model
    patched = model.clone()
    patches = {
        f"diffusion_model.{name}.weight": weight_patch(delta)
        for name, delta in concept.deltas.items()
    }
    patched.add_patches(patches, strength)
    return patched


def weight_patch(delta: Delta) -> tuple | LoRAAdapter:
    """The delta as ComfyUI keeps it until it is added to a weight."""
    if isinstance(delta, LowRank):
        no_alpha = (None, None, None, None)  # nor middle, DoRA scale, reshape
        return LoRAAdapter(set(), (*delta.factors(), *no_alpha))
    return ("diff", (delta,))
