"""A small classifier that says what is in a picture of a world: the gate's referee.

python -m pretraining.judge --world toyland --minutes 6
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional as F

from detex_pack.detex.concept.files import replace_file
from detex_pack.detex.toyland import world as toyland
from detex_pack.detex.toys import world as toys

from . import vae
from .common import Clock, learning_rate
from .worlds import ROOT, WORLDS, Run, World

WEIGHTS = ROOT / "devtools" / "judge.safetensors"  # of the old world
CHECKPOINT = "judge.safetensors"
_BATCH = 32
_PEAK = 2e-3
_CODED = 2500  # pictures that the VAE gives back

log = logging.getLogger(__name__)
Judge = Callable[[torch.Tensor], dict[str, torch.Tensor]]


class JudgeNet(nn.Module):
    """Plain convolutions down to 4x4, one linear head per factor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolved(3, 32, kernel=5, stride=2),
            *_convolved(32, 48),
            *_convolved(48, 64, stride=2),
            *_convolved(64, 96),
            nn.MaxPool2d(2),
            *_convolved(96, 96),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1536, 128),
            nn.ReLU(),
        )
        self.heads = nn.Linear(128, sum(toys.HEADS.values()))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures [B,64,64,3] in 0..1 to logits [B,kinds] by factor."""
        out = self.heads(self.body(images.permute(0, 3, 1, 2) * 2 - 1))
        return dict(zip(toys.HEADS, out.split([*toys.HEADS.values()], dim=1), strict=True))


class ToylandJudge(nn.Module):
    """Looks at each of two toys through attention, then asks the same heads about both.

    Where to look is decided from the whole picture, because "the first toy" is the left or upper.
    """

    _GLANCES = 4  # places to look at on each toy
    _WIDE = 96

    def __init__(self) -> None:
        super().__init__()
        wide = self._WIDE
        self.near = nn.Sequential(
            *_convolved(3, 32, kernel=5, stride=2),
            *_convolved(32, 48),
            *_convolved(48, wide, stride=2),
            *_convolved(wide, wide),
        )
        self.far = nn.Sequential(
            nn.MaxPool2d(2),
            *_convolved(wide, wide),
            nn.MaxPool2d(2),
            *_convolved(wide, wide),
            nn.Flatten(),
            nn.Linear(16 * wide, 128),
            nn.ReLU(),
        )
        self.place = nn.Parameter(torch.zeros(1, 48, 16, 16))
        self.seen, self.context = nn.Conv2d(wide, 48, 1), nn.Linear(128, 48)
        self.glance = nn.Conv2d(48, 2 * self._GLANCES, 1)
        self.toy = nn.Sequential(nn.Linear(wide * self._GLANCES, 256), nn.ReLU())
        self.toy_heads = nn.Linear(256, sum(toyland.TOY_HEADS.values()))
        self.scene_heads = nn.Linear(128, sum(toyland.SCENE_HEADS.values()))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures [B,64,64,3] in 0..1 to logits [B,kinds] by factor."""
        near = self.near(images.permute(0, 3, 1, 2) * 2 - 1)  # [B,96,16,16]
        far = self.far(near)
        query = self.seen(near) + self.place + self.context(far)[:, :, None, None]
        glance = self.glance(query.relu()).flatten(2)  # [B,2*4,256]
        looked = glance.softmax(-1) @ near.flatten(2).mT  # [B,2*4,96]
        told = self.toy_heads(self.toy(looked.unflatten(1, (2, -1)).flatten(2)))  # [B,2,kinds]
        aimed = glance.unflatten(1, (2, -1)).unbind(2)  # the first glances are told where to look
        scene = self.scene_heads(far).split([*toyland.SCENE_HEADS.values()], dim=-1)
        answers = dict(zip(toyland.SCENE_HEADS, scene, strict=True))
        parts = told.split([*toyland.TOY_HEADS.values()], dim=-1)
        named = dict(zip((*toyland.TOY_HEADS, *toyland.AIMS), (*parts, *aimed), strict=False))
        return answers | {f"{n} {toy + 1}": x[:, toy] for n, x in named.items() for toy in (0, 1)}


def _convolved(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2)
    return [convolution, nn.BatchNorm2d(outside), nn.ReLU()]


def judge_weights(run: Run) -> Path:
    """The run's own judge, or the old world's that is in git."""
    path = run.file(CHECKPOINT)
    return path if path.is_file() or run.world is not toys else WEIGHTS


NETS = {"toys": JudgeNet, "toyland": ToylandJudge}


def load_net(path: Path = WEIGHTS, world: World = toys) -> nn.Module:
    """The trained network in float32."""
    net = NETS[world.NAME]()
    net.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    )
    return net.eval()


def load_judge(path: Path = WEIGHTS, world: World = toys) -> Judge:
    """A function from pictures [B,64,64,3] to the most likely index [B] of every factor."""
    net = load_net(path, world)

    @torch.no_grad()
    def judge(images: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = [net(part) for part in images.float().cpu().split(100)]
        return {name: torch.cat([p[name] for p in parts]).argmax(1) for name in world.HEADS}

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


@torch.no_grad()
def _coded_pool(run: Run) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Factors and pictures [N,64,64,3] as the VAE gives them back."""
    scenes = run.world.any_scenes(_CODED, torch.Generator().manual_seed(91))
    images = run.world.render(scenes)[0]
    return run.world.factors(scenes), vae.coded(vae.trained(run), images, noise=0.1)


def train(run: Run, minutes: float) -> None:
    """Trains, from the stored weights where there are some, and writes the weights."""
    world, path = run.world, run.file(CHECKPOINT)
    torch.manual_seed(93)
    net = load_net(path, world).train() if path.is_file() else NETS[world.NAME]()
    optimiser = torch.optim.AdamW(net.parameters(), lr=_PEAK, weight_decay=0.02)
    answers, coded = _coded_pool(run)
    log.info("judge: pool ready")
    clock, step = Clock(minutes), 0
    generator = torch.Generator().manual_seed(92 + path.is_file())
    while (progress := clock.progress(step)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(_PEAK, step, progress, 50, 0.3)
        scenes = world.any_scenes(_BATCH, generator)
        index = torch.randint(len(coded), (_BATCH // 2,), generator=generator)
        images = torch.cat((world.render(scenes)[0], coded[index]))
        right = {n: torch.cat((a, answers[n][index])) for n, a in world.factors(scenes).items()}
        out = net(degrade(images, generator))
        value = torch.stack(
            [F.cross_entropy(out[n], right[n], ignore_index=-1) for n in world.HEADS]
        ).sum()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        step += 1
        if step % 100 == 0:
            log.info("judge step %d, %.0f s, loss %.3f", step, clock.seconds(), float(value))
            _store(net, path)
    _store(net, path)
    log.info("judge on new renders: %s", scores(run))


def _store(net: nn.Module, path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    replace_file(path, save(state))


def scores(
    run: Run,
    count: int = 2000,
    through: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
) -> dict[str, float]:
    """Share of right answers on new renders that went `through` something, by factor."""
    scenes = run.world.any_scenes(count, torch.Generator().manual_seed(94))
    images = through(run.world.render(scenes)[0])
    seen, shares = load_judge(judge_weights(run), run.world)(images), {}
    for name, right in run.world.factors(scenes).items():
        asked = right >= 0
        shares[name] = float((seen[name] == right)[asked].float().mean())
    return shares


def main() -> None:
    """Trains the judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=WORLDS, default="toyland")
    parser.add_argument("--folder", type=Path, help="of checkpoints; runs/WORLD by default")
    parser.add_argument("--minutes", type=float, default=6)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    train(Run.of(arguments.world, arguments.folder), arguments.minutes)


if __name__ == "__main__":
    main()
