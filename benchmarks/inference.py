"""What a loaded concept and the capture of attention cost a KSampler run.

    python -m benchmarks.inference --checkpoint sd15.safetensors

Four MODELs of one checkpoint sample in turn: as it is; with a concept; with a concept and three
words captured; with every map of every layer kept, as attention viewers usually do. A ratio is the
Hodges-Lehmann estimate over the rounds, each against the plain run of its own round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import comfy.sample
import comfy.sd
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.concept.file import BaseModel, Concept
from detex_pack.detex.host.attention import capture_attention
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.families import (
    attention_layers,
    cross_attentions,
    family_of,
    fingerprint,
    unet_layout,
)
from detex_pack.detex.host.towers import tower_of
from detex_pack.detex.prompt.grammar import Named
from detex_pack.detex.unet.attention import AttentionMaps, attend, attention_probs
from detex_pack.detex.unet.deltas import text_layers

from .machine import keep, operations, peak, real_size_parser, reset_peak, timed
from .statistics import bootstrap_interval, hodges_lehmann

WORDS = ("sks", "dog", "beach")
PROMPT = "photo of a sks dog on the beach"
PLACES = ((4,), (5,), (8,))  # of the words in the prompt's tokens
PLAIN, CONCEPT = "the MODEL alone", "with a concept"
CAPTURED, EVERY_MAP = "with a concept, three words captured", "with a concept, every map kept"


def random_concept(model: ModelPatcher, clip: comfy.sd.CLIP) -> Concept:
    """Deltas as a training makes them, in size; their values do not matter here."""
    rng = torch.Generator().manual_seed(0)
    deltas = {
        layer.path: 1e-3 * torch.randn(layer.out, layer.inp, generator=rng)
        for layer in text_layers(attention_layers(model))
    }
    base = BaseModel(
        family=family_of(model).name,
        fingerprint=fingerprint(model),
        tower=tower_of(clip),
        prediction="eps",
        unet=unet_layout(model),
    )
    return Concept(
        words={},
        deltas=deltas,
        named=(Named("V", "dog", "pose"),),
        method="DETEX",
        base=base,
        config={},
        photo_hashes=(),
        thumbnails=torch.zeros(0, 128, 128, 3, dtype=torch.uint8),
    )


def every_map_kept(model: ModelPatcher, kept: list[Tensor]) -> ModelPatcher:
    """Every layer's softmax in the open, all heads and tokens, moved to the CPU."""

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        probs = attention_probs(q, k, options["n_heads"])
        kept.append(probs.cpu())
        return attend(probs, v)

    patched = model.clone()
    for layer in cross_attentions(patched):
        patched.set_model_attn2_replace(attention, *layer.key)
    return patched


def variants(checkpoint: Path) -> tuple[dict[str, ModelPatcher], Any, list[Tensor]]:
    loaded: Any = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False)
    model, clip, *_ = loaded
    kept: list[Tensor] = []
    own = apply_concept(model, random_concept(model, clip), 1.0)
    models = {
        PLAIN: model,
        CONCEPT: own,
        CAPTURED: capture_attention(own, AttentionMaps(WORDS), PLACES),
        EVERY_MAP: every_map_kept(own, kept),
    }
    return models, clip, kept


def main() -> None:
    parser = real_size_parser(__doc__, "inference")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    facts = {"pixels": options.pixels, "steps": options.steps}
    with torch.inference_mode():
        rounds = measure(options.checkpoint, options.pixels, options.steps, options.rounds)
        for done, found in enumerate(rounds, start=1):
            keep(facts | {"rounds": done, "runs": found}, options.out)  # a stop loses little


def sampled(
    model: ModelPatcher, conds: Sequence[Any], pixels: int, steps: int, count: int = 1
) -> Tensor:
    """KSampler's latents [count, 4, h, w] for (positive, negative)."""
    latent = torch.zeros(count, 4, pixels // 8, pixels // 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    settings: Any = (steps, 7.0, "euler", "normal", *conds, latent)
    return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=0)


def measure(
    checkpoint: Path, pixels: int, steps: int, rounds: int
) -> Iterator[dict[str, dict[str, Any]]]:
    """Seconds of a run after a first step has put each MODEL's weights in place; after each round,
    of all so far.
    """
    models, clip, kept = variants(checkpoint)
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PROMPT, "")]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    counted: dict[str, int] = {}
    peaks: dict[str, int] = {}
    names = list(models)
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):  # each in every place of a round
            model = models[name]
            counted[name] = operations(partial(sampled, model, conds, pixels, 1))
            kept.clear()
            reset_peak()
            seconds[name].append(timed(partial(sampled, model, conds, pixels, steps))[0])
            peaks[name] = max(peaks.get(name, 0), peak())
            kept.clear()
        yield {
            name: timing(values, seconds[PLAIN])
            | {"operations": counted[name], "peak_gb": round(peaks[name] / 2**30, 2)}
            for name, values in seconds.items()
        }


def timing(seconds: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """Of a MODEL's runs, beside the plain ones of the same rounds."""
    by_round = np.array(seconds) / np.array(plain)
    return {
        "seconds": round(median(seconds), 3),
        "ratio": round(float(hodges_lehmann(by_round)), 4),
        "interval": [round(bound, 4) for bound in bootstrap_interval(by_round)],
    }


if __name__ == "__main__":
    main()
