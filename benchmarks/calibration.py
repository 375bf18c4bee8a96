"""Is the judge to be trusted? Writes docs/science/judge.json.

python -m benchmarks.calibration

On new renders, clean and with blur, noise and colour jitter: how often the judge and the exact
reader are right, how often they agree, and the judge's expected calibration error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detex_pack.detex.toys.render import render
from detex_pack.detex.toys.scene import Scenes
from detex_pack.detex.toys.world import any_scenes
from detex_pack.pretraining.judge import WEIGHTS, degrade, load_net
from devtools.machine import ROOT

from . import reader
from .cells import sha256_of

REPORT = ROOT / "docs" / "science" / "judge.json"
COUNT = 2000
SEED = 96  # training used 91 to 93, its scores 94
_BINS = 10


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error: sum over ten bins of share |accuracy - mean confidence|.

    confidence [N] of the chosen kind; right [N] bool.
    """
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    total = 0.0
    for index in range(_BINS):
        inside = bins == index
        if inside.any():
            gap = right[inside].float().mean() - confidence[inside].mean()
            total += float(inside.float().mean() * gap.abs())
    return total


@torch.no_grad()
def examine(images: Tensor, scenes: Scenes) -> dict[str, dict[str, float]]:
    """Every factor's figures on pictures [N,64,64,3] whose truth is known."""
    net, read = load_net(), reader.read(images)
    parts = [net(images[i : i + 100]) for i in range(0, len(images), 100)]
    logits = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    figures = {}
    for name, values in logits.items():
        truth = getattr(scenes, name)
        confidence, seen = values.softmax(1).max(1)
        figures[name] = {
            "judge right": _share(seen == truth),
            "calibration error": round(calibration_error(confidence, seen == truth), 4),
        }
        if name in read:
            figures[name]["reader right"] = _share(read[name] == truth)
            figures[name]["both agree"] = _share(read[name] == seen)
    return figures


def agreement(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How often judge and reader agree on the generated pictures of finished cells, by factor."""
    return {
        name: float(np.mean([a == b for r in results for a, b in _pairs(r, name)]))
        for name in reader.FACTORS
    }


def _pairs(result: Mapping[str, Any], name: str) -> zip:
    return zip(result["judge"][name], result["reader"][name], strict=True)


def _share(hits: Tensor) -> float:
    return round(float(hits.float().mean()), 4)


def main() -> None:
    """Examines the judge and the reader and writes the report."""
    generator = torch.Generator().manual_seed(SEED)
    scenes = any_scenes(COUNT, generator)
    clean = render(scenes)[0]
    report = {
        "judge": sha256_of(WEIGHTS),
        "renders": COUNT,
        "seed": SEED,
        "clean": examine(clean, scenes),
        "blurred, noisy, colours shifted": examine(degrade(clean, generator), scenes),
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
