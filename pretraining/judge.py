"""A small classifier that says what is in a picture of the little world: the gate's referee.

python -m pretraining.judge --minutes 6
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

if "detex_pack" not in sys.modules:
    from devtools.pack_host import enter_host

    enter_host()

from detex_pack.detex.toys.render import render
from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scenes,
    sample_scenes,
)

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "devtools" / "judge.safetensors"
HEADS = {
    "shape": len(SHAPES),
    "main": len(COLOURS),
    "second": len(COLOURS),
    "pattern": len(PATTERNS),
    "background": len(BACKGROUNDS),
    "position": len(POSITIONS),
    "size": len(SIZES),
}
_BATCH = 64
_PEAK = 2e-3

log = logging.getLogger(__name__)
Judge = Callable[[torch.Tensor], dict[str, torch.Tensor]]


class JudgeNet(nn.Module):
    """Plain convolutions down to 4x4, one linear head per factor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2, padding=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 96, 3, padding=1),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(96, 96, 3, padding=1),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1536, 128),
            nn.ReLU(),
        )
        self.heads = nn.Linear(128, sum(HEADS.values()))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures [B,64,64,3] in 0..1 to logits [B,kinds] by factor."""
        out = self.heads(self.body(images.permute(0, 3, 1, 2) * 2 - 1))
        return dict(zip(HEADS, out.split([*HEADS.values()], dim=1), strict=True))


def load_net(path: Path = WEIGHTS) -> JudgeNet:
    """The trained network in float32."""
    net = JudgeNet()
    net.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    )
    return net.eval()


def load_judge(path: Path = WEIGHTS) -> Judge:
    """A function from pictures [B,64,64,3] to the most likely index [B] of every factor."""
    net = load_net(path)

    @torch.no_grad()
    def judge(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: logits.argmax(1) for name, logits in net(images.float().cpu()).items()}

    return judge


def degrade(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, noise and colour jitter, as a decoder that is not perfect shows them."""
    x = images.permute(0, 3, 1, 2)
    count = len(x)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = x + (soft - x) * share
    gain = 1 + 0.12 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    lift = 0.08 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    noise = torch.randn(x.shape, generator=generator)
    x = x * gain + lift + 0.04 * torch.rand(count, 1, 1, 1, generator=generator) * noise
    return x.clamp(0, 1).permute(0, 2, 3, 1)


def any_scenes(count: int, generator: torch.Generator) -> Scenes:
    """Scenes with every pair of different colours, held-out identities included."""
    scenes = sample_scenes(count, generator)
    shift = torch.randint(1, len(COLOURS), (count,), generator=generator)
    return scenes.with_factors(second=(scenes.main + shift) % len(COLOURS))


@torch.no_grad()
def _coded_pool(count: int) -> tuple[Scenes, torch.Tensor]:
    """Scenes as the VAE gives them back, [N,64,64,3]."""
    from . import vae  # noqa: PLC0415  (needs the host, which a user of the judge does not)

    model, scenes = vae.trained(), any_scenes(count, torch.Generator().manual_seed(91))
    pieces = []
    for start in range(0, count, 64):
        x = vae.pictures(scenes.rows(slice(start, start + 64)))
        z = model.encode(x)
        y = model.decode(z + 0.1 * torch.randn_like(z)).clamp(-1, 1)
        pieces.append((y.permute(0, 2, 3, 1) / 2 + 0.5).cpu())
    return scenes, torch.cat(pieces)


def train(minutes: float) -> None:
    """Trains, from the stored weights where there are some, and writes the weights."""
    from .common import Clock, learning_rate  # noqa: PLC0415

    generator = torch.Generator().manual_seed(92)
    torch.manual_seed(93)
    net = JudgeNet()
    if WEIGHTS.is_file():
        net.load_state_dict(load_file(WEIGHTS))
    optimiser = torch.optim.AdamW(net.parameters(), lr=_PEAK, weight_decay=0.02)
    pool, coded = _coded_pool(2500)
    log.info("judge: pool ready")
    clock, step = Clock(minutes), 0
    while (progress := clock.progress(step)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(_PEAK, step, progress, 50, 0.3)
        scenes = any_scenes(_BATCH, generator)
        images = degrade(render(scenes)[0], generator)
        index = torch.randint(len(pool), (_BATCH // 2,), generator=generator)
        out = net(torch.cat((images, degrade(coded[index], generator))))
        again = pool.rows(index)
        value = sum(
            F.cross_entropy(out[name], torch.cat((getattr(scenes, name), getattr(again, name))))
            for name in HEADS
        )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        step += 1
        if step % 100 == 0:
            log.info("judge step %d, %.0f s, loss %.3f", step, clock.seconds(), float(value))
            _store(net)
    _store(net)
    log.info("judge on new renders: %s", scores())


def _store(net: JudgeNet) -> None:
    state = net.state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, WEIGHTS)


def scores(count: int = 2000, seed: int = 94) -> dict[str, float]:
    """Share of right answers on new renders, by factor."""
    judge, scenes = load_judge(), any_scenes(count, torch.Generator().manual_seed(seed))
    right = dict.fromkeys(HEADS, 0)
    for start in range(0, count, 100):
        part = scenes.rows(slice(start, start + 100))
        for name, index in judge(render(part)[0]).items():
            right[name] += int((index == getattr(part, name)).sum())
    return {name: hits / count for name, hits in right.items()}


def main() -> None:
    """Trains the judge, or only scores it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--score", action="store_true", help="only score the stored weights")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    if arguments.score:
        log.info("judge on new renders: %s", scores())
    else:
        train(arguments.minutes)


if __name__ == "__main__":
    main()
