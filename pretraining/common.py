"""What every training stage shares: weight initialisation, schedule, EMA, checkpoints, sheets."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image, ImageOps
from torchvision.utils import make_grid

from detex_pack.detex.canvas.pictures import as_picture


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def initialise(model: torch.nn.Module, seed: int) -> None:
    """Gives a host model, whose layers come without values, PyTorch's usual starting values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
            elif isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
                torch.nn.init.ones_(module.weight)
                torch.nn.init.zeros_(module.bias)
            elif isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=0.02)


class Team:
    """The processes that train together (torchrun), each on its own share of every batch.

    On a CPU one process per core beats one process with as many threads, above all when other
    programs want the cores too. Without torchrun the team is this process alone.
    """

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")
        self.rank = dist.get_rank() if self.size > 1 else 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the checkpoints."""
        return self.rank == 0

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Makes every member's gradients the mean of all."""
        if self.size == 1:
            return
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        pieces = flat.split([g.numel() for g in grads])
        for grad, piece in zip(grads, pieces, strict=True):
            grad.copy_(piece.view(grad.shape))  # in place: AdamW's fused form wants p's own layout

    def agree(self, value: float) -> float:
        """The leader's value, so that all stop at the same step."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(box, 0)
        return float(box)

    def wait(self) -> None:
        """Returns once every member is here."""
        if self.size > 1:
            dist.barrier()


@dataclass
class Clock:
    """Progress in 0..1 of a run that is limited by minutes or by steps, across resumes."""

    minutes: float
    steps: int = 0
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Training time so far, earlier sessions included."""
        return self.spent + time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """The share of the run that is done."""
        if self.steps:
            return min(1.0, step / self.steps)
        return min(1.0, self.seconds() / (60 * self.minutes))


def learning_rate(peak: float, step: int, progress: float, warm_up: int, flat: float) -> float:
    """Linear warm-up, then flat until `flat` of the run is done, then a cosine to 2 %."""
    decay = max(0.0, (progress - flat) / (1 - flat))
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * decay)))


class Average:
    """An exponential moving average of parameters, with a short memory at the start."""

    def __init__(self, parameters: Iterable[torch.Tensor], decay: float) -> None:
        self.values = [p.detach().clone() for p in parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, parameters: Iterable[torch.Tensor], step: int) -> None:
        """Moves the average towards the present values."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)


@torch.no_grad()
def restore(parameters: Iterable[torch.Tensor], values: Iterable[torch.Tensor]) -> None:
    """Writes a checkpoint's values into a model's parameters."""
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint in one move, so that a stop never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load(path: Path, made_by: str = "") -> dict[str, Any]:
    """The checkpoint's tensors and numbers, {} where there is none yet.

    Raises FileNotFoundError where it must be there, made by this stage.
    """
    if not path.is_file() and made_by:
        raise FileNotFoundError(f"Run this first: python -m pretraining.base_model {made_by}")
    if not path.is_file():
        return {}
    return torch.load(path, map_location=device(), weights_only=True)


def sheet(images: torch.Tensor, path: Path, columns: int = 12, scale: int = 2) -> None:
    """Writes pictures [N,H,W,3] in 0..1 as one contact sheet."""
    page = make_grid(images.detach().cpu().movedim(-1, 1), columns, padding=0)
    picture = as_picture(page.movedim(0, -1))
    path.parent.mkdir(parents=True, exist_ok=True)
    ImageOps.scale(picture, scale, Image.Resampling.NEAREST).save(path)
