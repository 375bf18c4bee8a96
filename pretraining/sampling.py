"""Pictures from prompts by the stock nodes, and contact sheets to look at.

python -m pretraining.sampling "a red ball" "a star in snow background" --out runs/look.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

if "detex_pack" not in sys.modules:
    from devtools.pack_host import enter_host

    enter_host()

import nodes

from detex_pack.detex.host.demo_model import DEMO_MODEL_PATH, DemoModel, load_demo_model

from .common import sheet
from .worlds import RUNS, WORLDS

_CHUNK = 25


def sample(
    demo: DemoModel, prompts: Sequence[str], seed: int, steps: int = 30, cfg: float = 4.0
) -> torch.Tensor:
    """One picture [64,64,3] per prompt, [N,64,64,3], by the stock KSampler and VAEDecode."""
    conditions = [nodes.CLIPTextEncode().encode(demo.clip, text)[0][0] for text in prompts]
    empty = nodes.CLIPTextEncode().encode(demo.clip, "")[0]
    return sample_conditions(demo, conditions, empty, seed, steps, cfg)


def sample_conditions(
    demo: DemoModel,
    conditions: Sequence[Sequence],
    empty: list,
    seed: int,
    steps: int = 30,
    cfg: float = 4.0,
) -> torch.Tensor:
    """The same from encoded prompts, in batches that share one run of the sampler."""
    pieces = []
    for start in range(0, len(conditions), _CHUNK):
        part = conditions[start : start + _CHUNK]
        positive = [[torch.cat([c for c, _ in part]), dict(part[0][1])]]
        latent = nodes.EmptyLatentImage().generate(64, 64, len(part))[0]
        sampler = nodes.KSampler()
        done = sampler.sample(
            demo.model, seed + start, steps, cfg, "ddim", "normal", positive, empty, latent
        )[0]
        pieces.append(nodes.VAEDecode().decode(demo.vae, done)[0])
    return torch.cat(pieces)


def main() -> None:
    """Draws the given prompts, or captions of scenes of a world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--world", choices=WORLDS, default="toyland", help="where none are given")
    parser.add_argument("--weights", type=Path, default=DEMO_MODEL_PATH)
    parser.add_argument("--out", type=Path, default=RUNS / "look.png")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    world, generator = WORLDS[given.world], torch.Generator().manual_seed(given.seed)
    prompts = given.prompts or world.gate_captions(world.sample_scenes(48, generator))
    with torch.inference_mode():
        images = sample(load_demo_model(given.weights), prompts, given.seed)
    sheet(images, given.out, columns=8, scale=3)


if __name__ == "__main__":
    main()
