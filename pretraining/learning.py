"""Teaches the base model one held-out subject by Custom Diffusion, and judges what it draws."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import nodes
import torch

from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.demo_model import load_demo_model
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.text import compose
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.photos.photos import make_photos
from detex_pack.detex.toys.scene import BACKGROUNDS, SUBJECTS
from detex_pack.detex.training.config import TrainConfig

from .common import sheet
from .judge import judge_weights, load_judge
from .sampling import sample, sample_conditions
from .worlds import Run

PHOTOS = 4
TOKEN_RATE = 4.0  # [V] learns faster than K and V, see docs/base_model.md
_PRIORS = 24
_PICTURES = 16


@dataclass(frozen=True)
class Recipe:
    """How one subject of a world is learned. `rate` is what the optimiser sees for K and V."""

    number: int
    rate: float
    world: str
    weights: str  # the base model's file
    steps: int = 600
    seed: int = 0


def learn_apart(recipe: Recipe) -> dict[str, Any]:
    """`learn` in a process of its own."""
    command = [sys.executable, "-m", "pretraining.learning", json.dumps(asdict(recipe))]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@torch.inference_mode()
def learn(recipe: Recipe) -> dict[str, Any]:
    """Trains, draws neutral pictures "a [V] ball", and gives the judge's shares."""
    torch.set_num_threads(1)
    run, demo = Run.of(recipe.world), load_demo_model(recipe.weights)
    images, masks, places = run.world.subject_photos(recipe.number, PHOTOS, recipe.seed)
    word = SUBJECTS[recipe.number][0]
    encode = latent_encoder(demo.vae)
    subject = make_photos(
        list(images),
        list(masks),
        feature_encoder(demo.clip_vision),
        encode,
        word,
        resolution=64,
    )
    prior = encode(sample(demo, [f"photo of a {word}"] * _PRIORS, seed=500, steps=20))
    train = TrainConfig(
        steps=recipe.steps,
        batch_size=4,
        learning_rate=recipe.rate / 4,
        token_rate=TOKEN_RATE,
        seed=recipe.seed,
    )
    concept, found = train_concept(
        demo.model,
        demo.clip,
        subject,
        prior,
        CustomDiffusionConfig(),
        train,
    )
    patched = apply_concept(demo.model, concept, 1.0)
    vectors = concept.vectors("l")
    empty = nodes.CLIPTextEncode().encode(demo.clip, "")[0]
    learned = type(demo)(patched, demo.clip, demo.vae, demo.clip_vision)

    def draw(text: str, seed: int, count: int) -> torch.Tensor:
        return sample_conditions(
            learned, [compose(demo.clip, text, vectors)[0]] * count, empty, seed
        )

    neutral = draw(f"a [V] {word}", 600, _PICTURES)
    away = [name for i, name in enumerate(BACKGROUNDS) if i not in places]
    edits = torch.cat(
        [draw(f"a [V] {word} in {name} background", 700 + i, 4) for i, name in enumerate(away)]
    )
    name = f"learn_{recipe.number}_{recipe.rate:g}.png"
    sheet(torch.cat((images, neutral, edits)), run.file(name), columns=10)
    losses = found.terms["diffusion"]
    return _verdict(run, recipe, neutral, edits, away) | {
        "first_and_last_loss": [sum(losses[:50]) / 50, sum(losses[-50:]) / 50]
    }


def _verdict(
    run: Run, recipe: Recipe, neutral: torch.Tensor, edits: torch.Tensor, away: list[str]
) -> dict[str, Any]:
    """Shares of pictures with both colours, with each factor of the subject, and their means."""
    judge = load_judge(judge_weights(run), run.world)
    seen, edited = judge(neutral), judge(edits)
    named, unnamed = run.world.subject_answers(recipe.number)
    hits = {name: seen[name] == index for name, index in (named | unnamed).items()}
    wanted = torch.tensor([BACKGROUNDS.index(name) for name in away]).repeat_interleave(4)
    main, second = (next(n for n in named if n.startswith(part)) for part in ("main", "second"))
    found = torch.stack((seen[main], seen[second])).sort(0).values
    asked = torch.tensor(sorted((named[main], named[second])))[:, None]
    shares = {name: float(right.float().mean()) for name, right in hits.items()}
    means = {"named": named, "unnamed": unnamed}
    return {
        "subject": " ".join(SUBJECTS[recipe.number]),
        "rate": recipe.rate,
        "both_colours": float((hits[main] & hits[second]).float().mean()),
        "both_colours_in_either_order": float((found == asked).all(0).float().mean()),
        **{f"S_{half}": mean(shares[n] for n in names) for half, names in means.items() if names},
        **shares,
        "background_edits_obeyed": float((edited["background"] == wanted).float().mean()),
    }


def main() -> None:
    """Learns one subject, a Recipe in JSON, and prints its figures as one line of JSON."""
    print(json.dumps(learn(Recipe(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
