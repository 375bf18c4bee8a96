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
from .worlds import RUNS

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
    """Draws the given prompts, or a standard set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL_PATH)
    parser.add_argument("--out", type=Path, default=RUNS / "look.png")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    prompts = arguments.prompts or [
        f"photo of a {noun} with {place} view in {back} background"
        for noun in ("red and yellow striped ball", "blue box", "white dotted heart", "purple moon")
        for place, back in (
            ("left", "grass"),
            ("right", "brick"),
            ("top", "sky"),
            ("bottom", "sand"),
            ("centre", "water"),
            ("left", "night"),
            ("right", "wood"),
            ("top", "snow"),
        )
    ] + [
        f"photo of a {noun} in {back} background"
        for noun in ("red ball and a blue star", "green dotted heart and a yellow box")
        for back in ("grass", "brick", "sky", "sand", "water", "night", "wood", "snow")
    ]
    with torch.inference_mode():
        images = sample(load_demo_model(arguments.model), prompts, arguments.seed)
    sheet(images, arguments.out, columns=8, scale=3)


if __name__ == "__main__":
    main()
