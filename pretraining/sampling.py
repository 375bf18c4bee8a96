"""Pictures from prompts by the stock nodes."""

from __future__ import annotations

from collections.abc import Sequence

import nodes
import torch

from detex_pack.detex.host.demo_model import DemoModel

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
