"""Trains the image encoder (CLIP-vision class) to tell every factor of a scene.

Its patches must tell what they show as well: from the class token alone, shapes were not learned.
"""

from __future__ import annotations

import logging
from typing import Any

import comfy.ops
import torch
from comfy.clip_model import CLIPVisionModelProjection
from comfy.ldm.modules.attention import attention_pytorch
from torch.nn import functional as F

from .common import Clock, device, initialise, learning_rate, load, save
from .guide import cell_loss, cell_width
from .worlds import Run, World

CHECKPOINT = "vision.pt"
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
        x = x + layer.self_attn(layer.layer_norm1(x), None, attention_pytorch)
        x = x + layer.mlp(layer.layer_norm2(x))
    return model.visual_projection(tower.post_layernorm(x[:, 0])), x[:, 1:]


class Heads(torch.nn.Module):
    """What is asked of the encoder: the scene's factors, and what each patch shows."""

    def __init__(self, world: World) -> None:
        super().__init__()
        asked = sum(world.HEADS.values()) + world.KNOWN[1]
        self.scene = torch.nn.Linear(CONFIG["projection_dim"], asked)
        self.patch = torch.nn.Linear(CONFIG["hidden_size"], cell_width(world))
        initialise(self, seed=15)
        self.to(device())


def loss(
    model: torch.nn.Module, heads: Heads, world: World, scenes: Any
) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy of factors and patches, squared error of the exact pose; accuracies.

    Of two toys the pose is that of either: the encoder may learn their mean.
    """
    embedding, patches = embed(model, world.render(scenes)[0].to(device()))
    out = heads.scene(embedding)
    side = CONFIG["image_size"] // CONFIG["patch_size"]
    cells = heads.patch(patches).mT.unflatten(2, (side, side))
    *logits, pose = out.split([*world.HEADS.values(), world.KNOWN[1]], dim=1)
    total = 8 * F.mse_loss(pose, world.known(scenes)[1].to(device()))
    shares = world.colour_shares(scenes).to(device())
    total = total + 4 * cell_loss(cells, world.cell_kinds(scenes), shares, world)
    targets, right = world.factors(scenes), {}
    for name, values in zip(world.HEADS, logits, strict=True):
        target = targets[name].to(device())
        asked = target >= 0
        total = total + F.cross_entropy(values, target, ignore_index=-1)
        right[name] = float((values.argmax(1) == target)[asked].float().mean())
    return total, right


def train(run: Run, minutes: float, steps: int) -> None:
    """Trains or goes on training for so many more minutes, or up to so many steps."""
    model = build()
    heads = Heads(run.world)
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=_PEAK, weight_decay=0.01)
    clock, step, before = Clock(minutes, steps), 0, 0.0
    if held := load(run.file(CHECKPOINT)):
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
        scenes = run.world.any_scenes(_BATCH, generator)
        value, right = loss(model, heads, run.world, scenes)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            log.info("vision step %d, %.0f s, loss %.3f, %s", step, clock.seconds(), value, right)
    with torch.no_grad():
        scenes = run.world.any_scenes(512, torch.Generator().manual_seed(82))
        value, right = loss(model, heads, run.world, scenes)
    log.info("vision on new scenes: loss %.3f, %s", value, right)
    state = {"model": model.state_dict(), "heads": heads.state_dict(), "right": right}
    save(run.file(CHECKPOINT), state | {"seconds": before + clock.seconds(), "step": step})


def trained(run: Run) -> torch.nn.Module:
    """The encoder of the checkpoint."""
    held = load(run.file(CHECKPOINT), made_by="vision")
    model = build()
    model.load_state_dict(held["model"])
    return model
