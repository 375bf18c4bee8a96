"""A private, trainable copy of the user's MODEL and CLIP."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..unet.coded import RowCodes
from ..unet.condition import Condition, whole_picture
from ..unet.deltas import LayerDeltas
from ..unet.interfaces import Tap
from .attention import training_options
from .checkpointing import checkpointed
from .copies import check_copyable, check_loaded, private_copy, unload_patches
from .deltas import live_deltas
from .families import (
    attention_layers,
    check_schedule,
    check_text_to_image,
    cross_attentions,
    family_of,
    fingerprint,
    schedule_of,
)
from .text import ComfyTextEncoder
from .towers import widths_of

# What a step keeps for its backward pass, in units of ComfyUI's estimate of a sampling step. Only a
# request: it makes ComfyUI unload what else is on the card.
TRAINING_MEMORY = 8


@contextmanager
def training_session(
    model: ModelPatcher, clip: comfy.sd.CLIP, latent_shape: tuple[int, ...]
) -> Iterator[tuple["ComfyDenoiser", ComfyTextEncoder]]:
    """Copies of MODEL and CLIP that autograd can use, on the training device, with room to train
    on `latent_shape` [B, 4, h, w].

    ComfyUI runs graphs in torch.inference_mode (execution.py), where autograd can use neither its
    tensors nor its modules. The user's own are never touched; whatever happens, ComfyUI's training
    flag is put back and the copies are let go.
    Raises ValueError for models of unknown families or loaders, or that do not belong together.
    """
    check_text_to_image(model)
    check_schedule(model)
    check_text_width(model, clip)
    check_copyable(model, "MODEL")
    check_copyable(clip.patcher, "CLIP")
    unload_patches((model, clip.patcher))
    with torch.inference_mode(mode=False), torch.enable_grad():
        unet = private_copy(model)
        encoder = clip.clone()
        encoder.patcher = private_copy(clip.patcher)
        encoder.cond_stage_model = encoder.patcher.model  # clone() alone keeps the shared one
        copies = [unet, encoder.patcher]
        was_training = model_management.in_training
        try:
            memory = TRAINING_MEMORY * unet.memory_required(latent_shape)
            with loading():
                model_management.load_models_gpu(
                    copies, memory_required=memory, force_full_load=True
                )
                check_loaded(copies)
                model_management.in_training = True
                for copy in copies:
                    copy.model.requires_grad_(requires_grad=False).eval()
                encoder.cond_stage_model.float()
                denoiser = ComfyDenoiser(unet, [encoder.patcher])
                cast_frozen_weights(denoiser.unet, denoiser.dtype)
            yield denoiser, ComfyTextEncoder(encoder)
        finally:
            model_management.in_training = was_training
            for copy in copies:
                copy.detach()


class WeightsTooLarge(torch.cuda.OutOfMemoryError):
    """The card cannot hold the weights alone."""


@contextmanager
def loading() -> Iterator[None]:
    """Raise WeightsTooLarge where memory ends within."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise WeightsTooLarge(
            "The weights of MODEL and CLIP alone do not fit on the graphics card. Close other "
            "programs that use it; if that is not enough, train on a smaller model: Stable "
            "Diffusion 1.x is the smallest."
        ) from error


def check_text_width(model: ModelPatcher, clip: comfy.sd.CLIP) -> None:
    """Raise ValueError where the UNet cannot read the CLIP's features."""
    made, read = sum(widths_of(clip)), model.model.model_config.unet_config["context_dim"]
    if made != read:
        raise ValueError(
            f"The CLIP wired here makes text features of {made} numbers, the "
            f"MODEL, {family_of(model)}, reads {read}. Wire CLIP and MODEL of one checkpoint."
        )


def cast_frozen_weights(unet: nn.Module, dtype: torch.dtype) -> None:
    """Hold frozen weights in the precision they are computed with.

    Autocast casts those of linear and convolutional layers in each step, and a backward pass would
    keep the copies: as much again as the weights. Norms it computes in float32. In float32 there is
    no autocast to join precisions.
    """
    if dtype is torch.float32:
        unet.float()
        return
    for module in unet.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the card is full."""
    known: Any = getattr(model_management, "is_oom", None)  # not in ComfyUI 0.16
    return known(error) if known else isinstance(error, torch.cuda.OutOfMemoryError)


class ComfyDenoiser:
    """The UNet of a private MODEL copy, called directly, without other packs' patches."""

    def __init__(self, model: ModelPatcher, in_use: Sequence[ModelPatcher] = ()):
        """in_use: what else must stay on the device."""
        self.patcher, self.in_use = model, (model, *in_use)
        self.unet = model.model.diffusion_model
        self.device = str(model.load_device)
        self.sampling: Any = model.get_model_object("model_sampling")
        self.schedule = schedule_of(model)
        self.family = family_of(model)
        self.rank = self.family.rank
        self.layers = attention_layers(model)
        self.fingerprint = fingerprint(model)  # now, before its weights are rounded
        self.cross_attentions = cross_attentions(model)
        self.dtype = training_dtype(model.load_device)
        self.gradient_checkpointing = False
        self.codes = RowCodes()

    def with_deltas(
        self, deltas: LayerDeltas, *, detach_start_token: bool
    ) -> AbstractContextManager[None]:
        return live_deltas(self.unet, deltas, detach_start_token=detach_start_token)

    def predict(
        self, noisy: Tensor, timesteps: Tensor, cond: Condition, taps: Sequence[Tap] = ()
    ) -> Tensor:
        self.codes.set(cond.codes, noisy.device)
        options = training_options(self.cross_attentions, taps)
        context = cond.context.to(noisy.device)  # the CLIP may live on another device than the UNet
        vector = self.family.vector(self.patcher.model, self.sized(cond, noisy))
        with self._autocast(), self._keeping():
            output = self.unet(
                noisy, timesteps, context=context, y=vector, transformer_options=options
            )
        for tap in taps:
            tap.close()
        return output.float()

    def sized(self, cond: Condition, noisy: Tensor) -> Condition:
        """`cond` on the device of the latents, with their size where it has none of its own."""
        cells: Any = self.patcher.model.latent_format.spacial_downscale_ratio
        height, width = (cells * side for side in noisy.shape[-2:])
        whole = whole_picture(len(cond), height, width)
        size_ids = (whole if cond.size_ids is None else cond.size_ids).to(noisy.device)
        return replace(cond, pooled=cond.pooled.to(noisy.device), size_ids=size_ids)

    def grad_scaler(self) -> torch.amp.GradScaler:
        kind = torch.device(self.device).type
        return torch.amp.GradScaler(kind, enabled=self.dtype is torch.float16)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def free_memory(self) -> None:
        self.put_away(math.inf)
        model_management.soft_empty_cache()

    def room_for(self, wanted: float) -> float:
        """Bytes that are free, once ComfyUI has put away what it can where `wanted` are not."""
        self.put_away(wanted)
        free: Any = model_management.get_free_memory(self.patcher.load_device)
        return free

    def put_away(self, wanted: float) -> None:
        """Have ComfyUI unload other models, such as those of the live pictures, as far as so many
        bytes want.
        """
        device = self.patcher.load_device
        if device.type != "cpu":
            keep = [model_management.LoadedModel(model) for model in self.in_use]
            model_management.free_memory(wanted, device, keep_loaded=keep)

    def _keeping(self) -> AbstractContextManager:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpointed(self.unet)
        return nullcontext()

    def _autocast(self) -> AbstractContextManager:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, self.dtype)


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 or float16 by what the card computes well, float32 elsewhere (a CPU above all) and
    under --force-fp32.
    """
    if device.type != "cuda" or model_management.FORCE_FP32:
        return torch.float32
    return torch.bfloat16 if model_management.should_use_bf16(device) else torch.float16
