"""What a loaded concept and the capture of attention cost a KSampler run.

Four MODELs of one checkpoint sample in turn: as it is; with a concept; with a concept and three
words captured; with every map of every layer kept, as attention viewers usually do. A ratio is the
Hodges-Lehmann estimate over the rounds, each against the plain run of its own round.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import comfy.sd
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.evaluate.paired import bootstrap_interval, hodges_lehmann
from detex_pack.detex.host.attention import capture_attention
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.families import cross_attentions
from detex_pack.detex.unet.attention import AttentionMaps, attend, attention_probs

from .measure import Keep, gigabytes, operations, peak, reset_peak, timed
from .runs import encoded, loaded, random_concept, sampled

OPTIONS = {"checkpoint": None, "pixels": 256, "steps": 4, "rounds": 12}
WORDS = ("sks", "dog", "beach")
PROMPT = "photo of a sks dog on the beach"
PLACES = ((4,), (5,), (8,))  # of the words in the prompt's tokens
PLAIN, CONCEPT = "the MODEL alone", "with a concept"
CAPTURED, EVERY_MAP = "with a concept, three words captured", "with a concept, every map kept"


@torch.inference_mode()
def measure(options: argparse.Namespace, keep: Keep) -> None:
    """After each round, of all so far; a first step puts each MODEL's weights in place."""
    model, clip, _ = loaded(options.checkpoint)
    kept: list[Tensor] = []
    models, conds = variants(model, clip, kept), encoded(clip, PROMPT, "")
    seconds: dict[str, list[float]] = {name: [] for name in models}
    counted: dict[str, int] = {}
    peaks = dict.fromkeys(models, 0)
    for number in range(options.rounds):
        for name in turned(list(models), number):
            run = partial(sampled, models[name], conds, options.pixels)
            counted[name] = operations(partial(run, 1))
            kept.clear()
            reset_peak()
            seconds[name].append(timed(partial(run, options.steps))[0])
            peaks[name] = max(peaks[name], peak())
            kept.clear()
        runs = {
            name: timing(values, seconds[PLAIN])
            | {"operations": counted[name], "peak_gb": gigabytes(peaks[name])}
            for name, values in seconds.items()
        }
        keep({"rounds": number + 1, "runs": runs})


def variants(
    model: ModelPatcher, clip: comfy.sd.CLIP, kept: list[Tensor]
) -> dict[str, ModelPatcher]:
    own = apply_concept(model, random_concept(model, clip), 1.0)
    return {
        PLAIN: model,
        CONCEPT: own,
        CAPTURED: capture_attention(own, AttentionMaps(WORDS), PLACES),
        EVERY_MAP: every_map_kept(own, kept),
    }


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


def turned(names: list[str], number: int) -> list[str]:
    """Each in every place of a round, as rounds go on."""
    first = number % len(names)
    return names[first:] + names[:first]


def timing(seconds: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """Of a MODEL's runs, beside the plain ones of the same rounds."""
    by_round = np.array(seconds) / np.array(plain)
    return {
        "seconds": round(median(seconds), 3),
        "ratio": round(float(hodges_lehmann(by_round)), 4),
        "interval": [round(bound, 4) for bound in bootstrap_interval(by_round)],
    }
