"""Private copies of the user's MODEL and CLIP, which autograd can use."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn


def check_copyable(patcher: ModelPatcher, socket: str) -> None:
    """Raise ValueError for quantised weights; for what `check_foreign` refuses; where the copy
    needs weights of its own, for loaders that cannot load twice.
    """
    if any(
        type(p.data).__name__ == "QuantizedTensor" or p.dtype.itemsize == 1
        for p in patcher.model.parameters()
    ):
        raise ValueError(
            f"The {socket} is quantised (fp8, GGUF or the like); training needs real weights. Load "
            "the fp16, bf16 or fp32 checkpoint with Load Checkpoint, in a ComfyUI that was started "
            "without --fp8 options."
        )
    compiled = [name for name in patcher.object_patches if name.startswith("diffusion_model")]
    check_foreign([*injected(patcher), *compiled], socket)
    if patcher.cached_patcher_init is None and not shares_weights(patcher):
        raise ValueError(
            f"The node that loaded this {socket} does not let it be loaded a second time, which "
            "training needs so as to leave yours alone. Use ComfyUI's own Load Checkpoint."
        )


def injected(patcher: ModelPatcher) -> list[str]:
    """Names of what replaces parts of the user's own modules while a patcher runs."""
    return [name for name, found in patcher.injections.items() if found]


def check_foreign(names: Sequence[str], socket: str) -> None:
    """Raise ValueError for the names of what a training must not have on a MODEL or CLIP, since it
    would change the user's own: injections, and compiled UNets, which are the user's modules.
    """
    if names:
        raise ValueError(
            f"The {socket} carries {', '.join(names)}, which a training on a copy would change in "
            f"your own {socket}. Wire the {socket} from before the node that adds it; of a bypass "
            "LoRA, take ComfyUI's own Load LoRA instead."
        )


def shares_weights(patcher: ModelPatcher) -> bool:
    """Whether a copy may read the user's weights: all is computed where they are, and no hook
    writes into them.
    """
    on_cpu = model_management.get_torch_device().type == patcher.load_device.type == "cpu"
    return on_cpu and not patcher.is_dynamic() and patcher.forced_hooks is None


def unload_patches(patchers: Iterable[ModelPatcher]) -> None:
    """Have ComfyUI take its patches off weights that are going to be shared. It writes in place, so
    call it in the torch.inference_mode that the weights were made in.
    """
    if any(shares_weights(patcher) for patcher in patchers):
        model_management.unload_all_models()


def private_copy(patcher: ModelPatcher) -> ModelPatcher:
    """A ModelPatcher with a model of its own and the same patches, whose weights stay where they
    are. Call it outside of torch.inference_mode, after `unload_patches`.

    On a graphics card the copy has its own weights, from disk. On a CPU it has the user's, which
    training only reads: a second set would cost gigabytes of the same memory.
    """
    if shares_weights(patcher):
        fresh = ModelPatcher(
            copy_sharing_weights(patcher.model), patcher.load_device, patcher.offload_device
        )
        return copy_on(patcher, fresh)
    return loaded_again(patcher)


def loaded_again(patcher: ModelPatcher) -> ModelPatcher:
    """The copy whose model comes from disk once more."""
    source: Any = patcher.cached_patcher_init  # which check_copyable has seen
    load, arguments, *index = source
    fresh = load(*arguments, disable_dynamic=True)
    fresh = fresh[index[0]] if index else fresh
    again = copy_on(patcher, fresh)
    again.set_attachments("detex_loaded", fresh)  # else ComfyUI logs a leak
    return again


def copy_on(patcher: ModelPatcher, fresh: ModelPatcher) -> ModelPatcher:
    """`patcher` with its patches, on the model of `fresh`."""
    made = patcher.clone(disable_dynamic=True, model_override=fresh.get_clone_model_override())
    made.hook_backup = {}  # a clone has that of the user's model, whose weights are others
    made.weight_inplace_update = False  # LoRAs must not be written into weights that are shared
    return made


def copy_sharing_weights(model: nn.Module) -> nn.Module:
    """Other modules on the same weights.

    What other packs have hung on the modules is copied with them. ComfyUI's configuration cannot be
    copied; its current patcher would bring the user's along.
    """
    known: dict[int, Any] = {
        id(weight): nn.Parameter(view(weight), requires_grad=False) for weight in model.parameters()
    }
    for name in ("model_config", "current_patcher"):
        kept: Any = getattr(model, name, None)
        known[id(kept)] = kept
    return copy.deepcopy(model, known)


def view(weight: Tensor) -> Tensor:
    """The same memory as a tensor that autograd can use, even where `weight` was made in
    torch.inference_mode.
    """
    plain = torch.empty(0, dtype=weight.dtype, device=weight.device)
    storage = weight.untyped_storage()
    return plain.set_(storage, weight.storage_offset(), weight.shape, weight.stride())


def check_loaded(copies: Sequence[ModelPatcher]) -> None:
    """Raise ValueError where part of a model stays in RAM: ComfyUI then lends its weights one after
    another from a shared buffer, and a backward pass would read the wrong ones.
    """
    if any(copy.model.model_lowvram for copy in copies):
        raise ValueError(
            "ComfyUI keeps part of the model in RAM; training needs all of it on the graphics "
            "card. Start ComfyUI without --novram."
        )
