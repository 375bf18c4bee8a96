"""Measures whether a base model is good enough, and writes a report such as docs/base_model.json.

python -m pretraining.gate vae         what the VAE keeps of new pictures
python -m pretraining.gate captions    200 held-out captions, scored by the judge
python -m pretraining.gate named       the looks that were never drawn, painted by words alone
python -m pretraining.gate rate        Custom Diffusion's learning rate, chosen on two of them
python -m pretraining.gate subjects    Custom Diffusion on six others
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from safetensors import safe_open

from detex_pack.detex.host.demo_model import DEMO_MODEL_PATH, load_demo_model
from detex_pack.detex.toys.subjects import GATE_SUBJECTS, RATE_SUBJECTS, SUBJECTS
from devtools.machine import facts

from . import vae
from .common import sheet
from .denoiser import cached_scenes
from .judge import judge_weights, load_judge, load_net, scores
from .learning import Recipe, learn_apart
from .sampling import sample
from .worlds import ROOT, WORLDS, Run, World

_SEED = 201

log = logging.getLogger(__name__)


def measure_vae(run: Run, weights: Path, count: int) -> dict[str, Any]:
    """What the VAE keeps of new pictures: decibels, and what the judge still sees right."""
    model = load_demo_model(weights).vae.first_stage_model
    return {
        "psnr": vae.psnr(run, model),
        "judge_on_round_trips": scores(run, count, through=partial(vae.coded, model)),
        "judge_on_new_renders": scores(run, count),
    }


def held_out_captions(world: World, count: int, cached: int) -> tuple[Any, list[str]]:
    """Scenes and the captions that name them, none of which holds for a scene of training."""
    drawn = set(world.gate_captions(cached_scenes(world, cached)))
    pool = world.sample_scenes(8 * count, torch.Generator().manual_seed(_SEED))
    captions = world.gate_captions(pool)
    fresh = [i for i, caption in enumerate(captions) if caption not in drawn][:count]
    return pool.rows(fresh), [captions[i] for i in fresh]


def measure_captions(run: Run, weights: Path, count: int, cached: int) -> dict[str, Any]:
    """The share of pictures in which the judge sees what the caption says."""
    judge = load_judge(judge_weights(run), run.world)
    scenes, captions = held_out_captions(run.world, count, cached)
    with torch.inference_mode():
        images = sample(load_demo_model(weights), captions, seed=_SEED)
    sheet(images[:96], run.file("gate_captions.png"), scale=3)
    shares, goals = run.world.gate_shares(judge(images), scenes), run.world.GOALS
    renders = run.world.render(scenes)[0]
    shares |= {f"clear {name}": clear_share(run, images, name) for name in run.world.CLEAR}
    return {
        "captions": len(scenes),
        "sampler": "ddim, normal schedule, 30 steps, CFG 4",
        "seed": _SEED,
        "shares": shares,
        "goals": dict(goals),
        "clear_on_new_renders": {n: clear_share(run, renders, n) for n in run.world.CLEAR},
        "passed": all(shares[name] >= goal for name, goal in goals.items()),
        "judge_on_new_renders": scores(run),
    }


@torch.no_grad()
def clear_share(run: Run, images: torch.Tensor, name: str) -> float:
    """Share of pictures in which the judge is nine parts in ten sure what an unnamed part is.

    What is no kind that was ever drawn leaves it in doubt; new renders show how often those do.
    """
    net = load_net(judge_weights(run), run.world)
    sure = [net(part)[name].softmax(1).amax(1) for part in images.float().split(100)]
    return float((torch.cat(sure) >= 0.9).float().mean())


def measure_named(run: Run, weights: Path, count: int) -> dict[str, Any]:
    """Both colours' share where a caption names a look that training never drew."""
    judge, demo, looks = load_judge(judge_weights(run), run.world), load_demo_model(weights), {}
    for number in (*RATE_SUBJECTS, *GATE_SUBJECTS):
        shape, main, second, pattern = SUBJECTS[number]
        look = f"{main} and {second} {pattern} {shape}"
        with torch.inference_mode():
            seen = judge(sample(demo, [f"photo of a {look}"] * count, seed=_SEED))
        named = run.world.subject_answers(number)[0].items()
        hits = [seen[name] == k for name, k in named if name.startswith(("main", "second"))]
        looks[look] = float(torch.stack(hits).all(0).float().mean())
    return {"pictures": count, "seed": _SEED, "both_colours": mean(looks.values()), "looks": looks}


def learn_all(recipes: Sequence[Recipe], workers: int) -> list[dict[str, Any]]:
    """Every recipe's figures, side by side in processes of one thread each."""
    with ThreadPoolExecutor(workers) as pool:
        results = []
        for result in pool.map(learn_apart, recipes):
            log.info("%s", json.dumps(result))
            results.append(result)
    return results


def measure_rates(recipes: Sequence[Recipe], workers: int) -> dict[str, Any]:
    """Both colours' share at every rate on the two subjects that nothing else uses."""
    runs = learn_all(recipes, workers)
    rates = {r["rate"] for r in runs}
    means = {x: mean(r["both_colours"] for r in runs if r["rate"] == x) for x in sorted(rates)}
    return {"runs": runs, "both_colours_by_rate": {f"{x:g}": m for x, m in means.items()}}


def measure_subjects(recipes: Sequence[Recipe], workers: int) -> dict[str, Any]:
    """Both colours' share on the gate's six subjects, and their fidelity by named and unnamed."""
    runs = learn_all(recipes, workers)
    halves = [name for name in ("S_named", "S_unnamed") if name in runs[0]]
    share = mean(r["both_colours"] for r in runs)
    return {
        "method": "Custom Diffusion, 600 steps, batch 4 and 4 prior images, 4 photos",
        "rate": recipes[0].rate,
        "both_colours": share,
        **{name: mean(r[name] for r in runs) for name in halves},
        "goal": 0.60,
        "passed": share >= 0.60,
        "subjects": runs,
    }


def _rounded(value: Any) -> Any:
    """The same report with numbers of four decimals."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def record(path: Path, weights: Path, name: str, result: dict[str, Any]) -> None:
    """Puts one result into the report, beside the figures of the model's training."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with safe_open(str(weights), framework="pt") as file:
        training = json.loads(file.metadata()["configs"])["training"]
    report["model"] = training | {"megabytes": round(weights.stat().st_size / 1e6, 1)}
    report[name] = result | facts()
    path.write_text(json.dumps(_rounded(report), indent=2) + "\n", encoding="utf-8")
    log.info("%s: %s", name, json.dumps(result))


def main() -> None:
    """Runs one part of the gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("vae", "captions", "named", "rate", "subjects"))
    parser.add_argument("--world", choices=WORLDS, default="toyland")
    parser.add_argument("--weights", type=Path, default=DEMO_MODEL_PATH, help="of the base model")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "base_model.json")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=16, help="of each look, for named")
    parser.add_argument("--cached", type=int, default=36_000, help="scenes that training had")
    parser.add_argument("--rates", type=float, nargs="+", default=(5e-4, 1e-3, 2e-3))
    parser.add_argument("--rate", type=float, default=1e-3, help="of the optimiser, for subjects")
    parser.add_argument("--workers", type=int, default=2, help="subjects learned side by side")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    run, weights = Run.of(given.world), given.weights

    def recipes(numbers: Sequence[int], rates: Sequence[float]) -> list[Recipe]:
        return [Recipe(n, rate, given.world, str(weights)) for rate in rates for n in numbers]

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "vae": lambda: measure_vae(run, weights, given.count),
        "captions": lambda: measure_captions(run, weights, given.count, given.cached),
        "named": lambda: measure_named(run, weights, given.pictures),
        "rate": lambda: measure_rates(recipes(RATE_SUBJECTS, given.rates), given.workers),
        "subjects": lambda: measure_subjects(recipes(GATE_SUBJECTS, [given.rate]), given.workers),
    }
    record(given.report, weights, given.part, parts[given.part]())


if __name__ == "__main__":
    main()
