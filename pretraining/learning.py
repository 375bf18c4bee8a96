"""Teaches the base model one held-out subject by Custom Diffusion, and judges what it draws."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if "detex_pack" not in sys.modules:
    from devtools.pack_host import enter_host

    enter_host()

import nodes
import torch

from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.text import compose
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.photos.photos import make_photos
from detex_pack.detex.toys.scene import BACKGROUNDS, COLOURS, PATTERNS, SHAPES
from detex_pack.detex.toys.subjects import SUBJECTS, demo_subject
from detex_pack.detex.training.config import TrainConfig

from .common import RUNS, sheet
from .judge import load_judge
from .sampling import load_demo_model, sample, sample_conditions

PHOTOS = 4
TOKEN_RATE = 4.0  # [V] learns faster than K and V, see docs/base_model.md
_PRIORS = 24
_PICTURES = 16


@dataclass(frozen=True)
class Recipe:
    """How one subject is learned. `rate` is what the optimiser sees for K and V."""

    number: int
    rate: float
    steps: int = 600
    seed: int = 0


def learn_apart(recipe: Recipe) -> dict[str, Any]:
    """`learn` in a process of its own."""
    words = [f"--{name}={value}" for name, value in asdict(recipe).items()]
    command = [sys.executable, "-m", "pretraining.learning", *words]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def learn(recipe: Recipe) -> dict[str, Any]:
    """Trains, draws neutral pictures "a [V] ball", and gives the judge's shares."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        return _learn(recipe)


def _learn(recipe: Recipe) -> dict[str, Any]:
    demo = load_demo_model()
    photos = demo_subject(recipe.number, PHOTOS, recipe.seed)
    word = photos.class_word
    encode = latent_encoder(demo.vae)
    subject = make_photos(
        list(photos.images),
        list(photos.masks),
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
    away = [name for i, name in enumerate(BACKGROUNDS) if i not in photos.scenes.background]
    edits = torch.cat(
        [draw(f"a [V] {word} in {name} background", 700 + i, 4) for i, name in enumerate(away)]
    )
    name = f"learn_{recipe.number}_{recipe.rate:g}.png"
    sheet(torch.cat((photos.images, neutral, edits)), RUNS / name, columns=10)
    losses = found.terms["diffusion"]
    return _verdict(recipe, neutral, edits, away) | {
        "first_and_last_loss": [sum(losses[:50]) / 50, sum(losses[-50:]) / 50]
    }


def _verdict(
    recipe: Recipe, neutral: torch.Tensor, edits: torch.Tensor, away: list[str]
) -> dict[str, Any]:
    """Shares of pictures with both colours (and with each factor) of the subject."""
    shape, main, second, pattern = SUBJECTS[recipe.number]
    judge = load_judge()
    seen, edited = judge(neutral), judge(edits)
    right = {
        "shape": seen["shape"] == SHAPES.index(shape),
        "main": seen["main"] == COLOURS.index(main),
        "second": seen["second"] == COLOURS.index(second),
        "pattern": seen["pattern"] == PATTERNS.index(pattern),
    }
    wanted = torch.tensor([BACKGROUNDS.index(name) for name in away]).repeat_interleave(4)
    found = torch.stack((seen["main"], seen["second"])).sort(0).values
    asked = torch.tensor(sorted((COLOURS.index(main), COLOURS.index(second))))[:, None]
    return {
        "subject": f"{main} and {second} {pattern} {shape}",
        "rate": recipe.rate,
        "both_colours": float((right["main"] & right["second"]).float().mean()),
        "both_colours_in_either_order": float((found == asked).all(0).float().mean()),
        **{name: float(hits.float().mean()) for name, hits in right.items()},
        "background_edits_obeyed": float((edited["background"] == wanted).float().mean()),
    }


def main() -> None:
    """Learns one subject and prints its figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(learn(Recipe(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
