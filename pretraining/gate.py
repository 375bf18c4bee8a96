"""Measures whether the base model is good enough, and writes docs/base_model.json.

python -m pretraining.gate captions    200 held-out captions, scored by the judge
python -m pretraining.gate named       the looks that were never drawn, painted by words alone
python -m pretraining.gate rate        Custom Diffusion's learning rate, chosen on two of them
python -m pretraining.gate subjects    Custom Diffusion on six others
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

if "detex_pack" not in sys.modules:
    from devtools.pack_host import enter_host

    enter_host()

import torch
from safetensors import safe_open

from detex_pack.detex.host.demo_model import DEMO_MODEL_PATH, load_demo_model
from detex_pack.detex.toys.scene import COLOURS, Scenes, sample_scenes, words_of
from detex_pack.detex.toys.subjects import GATE_SUBJECTS, RATE_SUBJECTS, SUBJECTS

from .common import RUNS, sheet
from .judge import load_judge, scores
from .learning import Recipe, learn_apart
from .sampling import sample

REPORT = Path(__file__).resolve().parents[1] / "docs" / "base_model.json"
RATES = (5e-4, 1e-3, 2e-3)
COLOURS_GOAL = 0.60
GOALS = {"background": 0.90, "shape": 0.80, "position": 0.80, "main": 0.80}
_TRAINING_SEED = 41  # of the cached scenes, see denoiser.cache_latents
_SEED = 201

log = logging.getLogger(__name__)


def held_out_scenes(count: int, cached: int) -> Scenes:
    """Scenes whose (shape, colours, pattern, background, position) training never drew together."""
    drawn = set(_combinations(sample_scenes(cached, torch.Generator().manual_seed(_TRAINING_SEED))))
    pool = sample_scenes(8 * count, torch.Generator().manual_seed(_SEED))
    fresh = [i for i, factors in enumerate(_combinations(pool)) if factors not in drawn]
    return pool.rows(fresh[:count])


def _combinations(scenes: Scenes) -> list[tuple[int, ...]]:
    names = ("shape", "main", "second", "pattern", "background", "position")
    return list(zip(*(getattr(scenes, name).tolist() for name in names), strict=True))


def gate_captions(scenes: Scenes) -> list[str]:
    """A caption per scene that names every factor of the gate; half name the surface too."""
    captions = []
    for number, words in enumerate(words_of(scenes)):
        noun = f"{words['main']} {words['shape']}"
        if number % 2:
            noun = f"{words['main']} and {words['second']} {words['pattern']} {words['shape']}"
        captions.append(
            f"photo of a {noun} with {words['position']} view in {words['background']} background"
        )
    return captions


def measure_captions(count: int, cached: int) -> dict[str, Any]:
    """The share of pictures in which the judge sees what the caption says."""
    judge, scenes = load_judge(), held_out_scenes(count, cached)
    with torch.inference_mode():
        images = sample(load_demo_model(), gate_captions(scenes), seed=_SEED)
    sheet(images[:96], RUNS / "gate_captions.png")
    seen = judge(images)
    shares = {name: float((seen[name] == getattr(scenes, name)).float().mean()) for name in GOALS}
    surface = torch.arange(len(scenes)) % 2 == 1
    for name in ("second", "pattern"):
        right = seen[name] == getattr(scenes, name)
        shares[f"{name}, where named"] = float(right[surface].float().mean())
    return {
        "captions": len(scenes),
        "sampler": "ddim, normal schedule, 30 steps, CFG 4",
        "seed": _SEED,
        "shares": shares,
        "goals": GOALS,
        "passed": all(shares[name] >= goal for name, goal in GOALS.items()),
        "judge_on_new_renders": scores(),
    }


def measure_named(count: int) -> dict[str, Any]:
    """Both colours' share where a caption names a look that training never drew."""
    judge, demo, looks = load_judge(), load_demo_model(), {}
    for number in (*RATE_SUBJECTS, *GATE_SUBJECTS):
        shape, main, second, pattern = SUBJECTS[number]
        look = f"{main} and {second} {pattern} {shape}"
        with torch.inference_mode():
            seen = judge(sample(demo, [f"photo of a {look}"] * count, seed=_SEED))
        colours = torch.stack((seen["main"], seen["second"]), 1)
        asked = torch.tensor([COLOURS.index(main), COLOURS.index(second)])
        looks[look] = float((colours == asked).all(1).float().mean())
    return {"pictures": count, "seed": _SEED, "both_colours": mean(looks.values()), "looks": looks}


def learn_all(recipes: Sequence[Recipe], workers: int) -> list[dict[str, Any]]:
    """Every recipe's figures, side by side in processes of one thread each."""
    with ThreadPoolExecutor(workers) as pool:
        results = []
        for result in pool.map(learn_apart, recipes):
            log.info("%s", json.dumps(result))
            results.append(result)
    return results


def measure_rates(rates: Sequence[float], workers: int) -> dict[str, Any]:
    """Both colours' share at every rate on the two subjects that nothing else uses."""
    runs = learn_all([Recipe(n, rate) for rate in rates for n in RATE_SUBJECTS], workers)
    means = {
        rate: sum(r["both_colours"] for r in runs if r["rate"] == rate) / len(RATE_SUBJECTS)
        for rate in rates
    }
    return {"runs": runs, "both_colours_by_rate": {f"{r:g}": m for r, m in means.items()}}


def measure_subjects(rate: float, workers: int) -> dict[str, Any]:
    """Both colours' share on the gate's six subjects."""
    runs = learn_all([Recipe(n, rate) for n in GATE_SUBJECTS], workers)
    share = mean(r["both_colours"] for r in runs)
    return {
        "method": "Custom Diffusion, 600 steps, batch 4 and 4 prior images, 4 photos",
        "rate": rate,
        "both_colours": share,
        "goal": COLOURS_GOAL,
        "passed": share >= COLOURS_GOAL,
        "subjects": runs,
    }


def _rounded(value: Any) -> Any:
    """The same report with numbers of four decimals."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def record(name: str, result: dict[str, Any]) -> None:
    """Puts one result into docs/base_model.json, beside the figures of the model's training."""
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.is_file() else {}
    with safe_open(str(DEMO_MODEL_PATH), framework="pt") as file:
        training = json.loads(file.metadata()["configs"])["training"]
    report["model"] = training | {"megabytes": round(DEMO_MODEL_PATH.stat().st_size / 1e6, 1)}
    report[name] = result | {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(_rounded(report), indent=2) + "\n", encoding="utf-8")
    log.info("%s: %s", name, json.dumps(result))


def main() -> None:
    """Runs one part of the gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("captions", "named", "rate", "subjects"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=16, help="of each look, for named")
    parser.add_argument("--cached", type=int, default=36_000, help="scenes that training had")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--rate", type=float, default=1e-3, help="of the optimiser, for subjects")
    parser.add_argument("--workers", type=int, default=2, help="subjects learned side by side")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "captions": lambda: measure_captions(arguments.count, arguments.cached),
        "named": lambda: measure_named(arguments.pictures),
        "rate": lambda: measure_rates(arguments.rates, arguments.workers),
        "subjects": lambda: measure_subjects(arguments.rate, arguments.workers),
    }
    result = parts[arguments.part]()
    record(arguments.part, result)


if __name__ == "__main__":
    main()
