"""Trains the image encoder (CLIP-vision class) to tell every factor of a scene.

Its patches must tell what they show as well: from the class token alone, shapes were not learned.
"""

from __future__ import annotations

import logging
from typing import Any

import comfy.ops
import torch
from comfy.clip_model import CLIPVisionModelProjection
from torch.nn import functional as F

from detex_pack.detex.toys.render import colour_shares, render
from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIDE,
    PATTERNS,
    SHAPES,
    Scenes,
)

from .common import RUNS, Clock, device, initialise, learning_rate, load, save
from .guide import CELL_KINDS, cell_loss
from .vae import mixed_scenes

CHECKPOINT = RUNS / "vision.pt"
CONFIG: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 128,
    "image_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 8,
    "projection_dim": 128,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_KINDS = {
    "shape": len(SHAPES),
    "main": len(COLOURS),
    "second": len(COLOURS),
    "pattern": len(PATTERNS),
    "background": len(BACKGROUNDS),
}
_MEASURES = 5  # x, y, radius, sine and cosine of the angle
_BATCH = 64
_PEAK = 1e-3

log = logging.getLogger(__name__)


def build() -> CLIPVisionModelProjection:
    """The host's image encoder with starting values."""
    model = CLIPVisionModelProjection(CONFIG, torch.float32, device(), comfy.ops.manual_cast)
    initialise(model, seed=14)
    torch.nn.init.normal_(model.vision_model.embeddings.class_embedding, std=0.02)
    return model.to(device())


def embed(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B,64,64,3] in 0..1 to projected embeddings [B,128] and patches [B,64,128].

    As the host does, with gradients.
    """
    tower = model.vision_model
    x = tower.pre_layrnorm(tower.embeddings(images.permute(0, 3, 1, 2) * 2 - 1))
    for layer in tower.encoder.layers:
        x = x + _attend(layer.self_attn, layer.layer_norm1(x))
        x = x + layer.mlp(layer.layer_norm2(x))
    return model.visual_projection(tower.post_layernorm(x[:, 0])), x[:, 1:]


def _attend(attention: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    split = [
        proj(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]
    mixed = F.scaled_dot_product_attention(*split)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _measures(scenes: Scenes) -> torch.Tensor:
    place = scenes.centre / IMAGE_SIDE * 4 - 2
    size = (scenes.radius[:, None] - 14.5) / 3
    turn = torch.stack((scenes.angle.sin(), scenes.angle.cos()), 1) * 2
    return torch.cat((place, size, turn), 1)


class Heads(torch.nn.Module):
    """What is asked of the encoder: the scene's factors, and what each patch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = torch.nn.Linear(CONFIG["projection_dim"], sum(_KINDS.values()) + _MEASURES)
        self.patch = torch.nn.Linear(CONFIG["hidden_size"], CELL_KINDS)
        initialise(self, seed=15)
        self.to(device())


def loss(
    model: torch.nn.Module, heads: Heads, scenes: Scenes
) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy of the kinds and the patches, squared error of the measures; accuracies."""
    embedding, patches = embed(model, render(scenes)[0].to(device()))
    out = heads.scene(embedding)
    side = CONFIG["image_size"] // CONFIG["patch_size"]
    cells = heads.patch(patches).mT.unflatten(2, (side, side))
    *logits, measured = out.split([*_KINDS.values(), _MEASURES], dim=1)
    total = 2 * F.mse_loss(measured, _measures(scenes).to(device()))
    total = total + 4 * cell_loss(cells, scenes, colour_shares(scenes).to(device()))
    right = {}
    for name, values in zip(_KINDS, logits, strict=True):
        target = getattr(scenes, name).to(device())
        total = total + F.cross_entropy(values, target)
        right[name] = float((values.argmax(1) == target).float().mean())
    return total, right


def train(minutes: float, steps: int) -> None:
    """Trains or goes on training for so many more minutes, or up to so many steps."""
    model = build()
    heads = Heads()
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=_PEAK, weight_decay=0.01)
    clock, step, before = Clock(minutes, steps), 0, 0.0
    if held := load(CHECKPOINT):
        model.load_state_dict(held["model"])
        if "heads" in held:
            heads.load_state_dict(held["heads"])
            step = held["step"]
        before = held["seconds"]
    generator = torch.Generator().manual_seed(81 + step)
    begun = step
    while (progress := clock.progress(step)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(_PEAK, step - begun, progress, 100, 0.4)
        value, right = loss(model, heads, mixed_scenes(_BATCH, generator))
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            log.info("vision step %d, %.0f s, loss %.3f, %s", step, clock.seconds(), value, right)
    with torch.no_grad():
        value, right = loss(model, heads, mixed_scenes(512, torch.Generator().manual_seed(82)))
    log.info("vision on new scenes: loss %.3f, %s", value, right)
    state = {"model": model.state_dict(), "heads": heads.state_dict(), "right": right}
    save(CHECKPOINT, state | {"seconds": before + clock.seconds(), "step": step})


def trained() -> torch.nn.Module:
    """The encoder of the checkpoint."""
    held = load(CHECKPOINT)
    if held is None:
        raise FileNotFoundError("Train it first: python -m pretraining.base_model vision")
    model = build()
    model.load_state_dict(held["model"])
    return model
