"""What a training step needs on a graphics card, and how cards of each size would compute it.

Needs no card; a minute on one core.

The passes that the preflight makes before a training, in torch's fake tensors: shapes without
numbers, on a card that need not be there. What autograd would keep is counted as the preflight
counts it, and planned as it plans.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detex_pack.detex.host.attention import training_options
from detex_pack.detex.host.checkpointing import observed
from detex_pack.detex.host.families import attention_layers, cross_attentions, family_of
from detex_pack.detex.host.towers import Tower, towers_of
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.memory import (
    Footprint,
    SavedBytes,
    bytes_of,
    describe_passes,
    make_plan,
    optimiser_bytes,
)
from detex_pack.detex.unet.attention import AttentionTap
from detex_pack.detex.unet.deltas import Deltas, text_layers
from devtools.checkpoints import LAYOUTS

from .measure import GIGABYTE, Keep, gigabytes

OPTIONS: dict[str, Any] = {}
TRAINED = (("sd15", 512), ("sd21", 768), ("sdxl", 1024))  # at the size it was trained on
CARDS = (8, 12, 16, 24)  # GB
SPENT = 1.0  # GB: CUDA's own context, and what the screen takes
PHOTOS, TOKENS = TrainConfig().batch_size, 77
CARD = torch.device("cuda")


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Fake tensors on a card that need not be there; attention by the kernels that CUDA chooses."""

    def fused(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        if not torch.is_autocast_enabled("cuda"):
            kernel = torch.ops.aten._scaled_dot_product_efficient_attention
            return kernel(q, k, v, attn_bias=None, compute_log_sumexp=True)[0]
        halves = [x.to(torch.bfloat16) for x in (q, k, v)]
        return torch.ops.aten._scaled_dot_product_flash_attention(*halves)[0]

    with patch.object(nn.functional, "scaled_dot_product_attention", fused), FakeTensorMode():
        yield


@contextmanager
def autocast() -> Iterator[None]:
    """To bfloat16 on CUDA; torch.autocast refuses where there is no card."""
    torch.set_autocast_enabled("cuda", True)  # noqa: FBT003
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)  # noqa: FBT003
        torch.clear_autocast_cache()


def footprint(name: str, pixels: int) -> tuple[int, Footprint]:
    """Bytes of the weights, and of a step beside them."""
    layout = LAYOUTS[name]
    with as_on_a_card():
        config: Any = layout.kind(dict(layout.unet))
        config.set_inference_dtype(torch.bfloat16, None)  # as cast_frozen_weights leaves them
        model = ModelPatcher(config.get_model({}, "", CARD), CARD, torch.device("cpu"))
        unet: Any = model.model.diffusion_model
        unet.requires_grad_(requires_grad=False)
        text = layout.text(device=CARD, dtype=torch.float32).requires_grad_(requires_grad=False)
        layers = text_layers(attention_layers(model))
        deltas = Deltas(layers, family_of(model).rank, torch.Generator(), "cuda")
        weights = sum(bytes_of(module.parameters()) for module in (unet, text, deltas))
        one, two = (kept(model, text, pixels, photos) for photos in (1, 2))
        fixed = optimiser_bytes([torch.optim.AdamW(deltas.parameters())])
        return weights, Footprint.through(fixed, one, two)


def kept(model: ModelPatcher, text: nn.Module, pixels: int, photos: int) -> SavedBytes:
    """What one forward pass keeps: the text towers for the photos, the UNet for the priors too."""
    unet: Any = model.model.diffusion_model
    saved, side = SavedBytes(unet, text), pixels // 8
    with saved.counting():
        context, pooled = encoded(text, photos)
        noisy = torch.zeros(2 * photos, 4, side, side, device=CARD)
        timesteps = torch.zeros(2 * photos, device=CARD)
        sizes = torch.zeros(2 * photos, 6 * 256, device=CARD)
        vector = torch.cat([pooled, sizes], 1) if pooled.shape[1] else None
        tap = AttentionTap(grid=(side // 2, side // 2), rows=photos)
        options = training_options(cross_attentions(model), (tap,))
        with autocast(), observed(unet, saved):
            unet(noisy, timesteps, context=context, y=vector, transformer_options=options)
    return saved


def encoded(text: nn.Module, photos: int) -> tuple[Tensor, Tensor]:
    """Features and pooled ones of the photos' prompts, whose words are learned, and the priors'."""
    contexts, pooled = [], []
    towers = towers_of(SimpleNamespace(cond_stage_model=text))  # type: ignore[arg-type]
    for name, model in towers.items():
        tower = Tower(model, pools=len(towers) > 1 and name == "g")
        hidden = torch.zeros(photos, TOKENS, tower.width, device=CARD, requires_grad=True)
        context, whole = tower.encode(hidden, torch.full((photos,), TOKENS - 1, device=CARD))
        contexts.append(torch.cat([context, context.detach()]))
        pooled.append(torch.cat([whole, whole.detach()]))
    return torch.cat(contexts, -1), torch.cat(pooled, -1)


def measure(_options: argparse.Namespace, keep: Keep) -> None:
    models = {name: planned(name, pixels) for name, pixels in TRAINED}
    keep({"photos": PHOTOS, "spent_gb": SPENT, "models": models})


def planned(name: str, pixels: int) -> dict[str, Any]:
    """What is needed, and the plan for each card."""
    weights, step = footprint(name, pixels)
    cards = {}
    for card in CARDS:
        plan = make_plan(step, PHOTOS, (card - SPENT) * GIGABYTE - weights)
        how = describe_passes(plan.passes, checkpointing=plan.checkpointing)
        cards[card] = {"fits": plan.fits, "way": how, "gb": gigabytes(weights + plan.needs, 1)}
    return {"pixels": pixels, "weights_gb": gigabytes(weights, 1), "cards": cards}
