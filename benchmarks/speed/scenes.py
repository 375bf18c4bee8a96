"""DisenDiff to its end on real photos: five pictures of two DreamBench subjects side by side and
one of three, each trained, written and loaded again. Random weights learn nothing: what is shown is
that nothing fails.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from detex_pack.detex.concept.file import concept_bytes, load_concept
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.images import latent_encoder
from detex_pack.detex.host.text import compose
from detex_pack.detex.host.towers import tower_of
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.disendiff import DisenDiffConfig
from detex_pack.detex.prompt.grammar import joint_prompt
from detex_pack.detex.training.config import TrainConfig

from .measure import Keep, gigabytes, peak, reset_peak, timed
from .photos import masked_subjects, side_by_side
from .runs import SEED, loaded, sampled

OPTIONS = {"checkpoint": None, "bench": None, "pixels": 128, "photos": 1, "steps": 2}
SCENES = ((0, 12), (0, 8, 16), (2, 14), (4, 16), (6, 18), (8, 20))  # by their place in the list


@torch.inference_mode()
def measure(options: argparse.Namespace, keep: Keep) -> None:
    """Every second one with its masks, the others as in the paper."""
    read = masked_subjects(options.bench, 1)
    model, clip, vae = loaded(options.checkpoint)
    encode, told = latent_encoder(vae), []
    train = TrainConfig(steps=options.steps, batch_size=options.photos, seed=SEED)
    for number, subjects in enumerate(SCENES):
        scene = side_by_side([read(subject) for subject in subjects], options.pixels, encode)
        config = DisenDiffConfig(use_masks=number % 2 == 1)
        reset_peak()
        learn = partial(train_concept, model, clip, scene, scene.latents[:, 0], config, train)
        seconds, (concept, losses) = timed(learn)
        row = {"concepts": [one.class_word for one in concept.named], "masks": config.use_masks}
        row |= {"seconds": round(seconds, 1), "peak_gb": gigabytes(peak())}
        with TemporaryDirectory() as folder:
            file = Path(folder) / "scene.safetensors"
            file.write_bytes(concept_bytes(concept))
            again = load_concept(file)
        conds = [
            compose(clip, text, again.vectors(tower_of(clip)))
            for text in (joint_prompt(again.named), "")
        ]
        drawn = sampled(apply_concept(model, again, 1.0), conds, options.pixels, 1)
        row["losses"] = {name: round(values[-1], 4) for name, values in losses.terms.items()}
        row["finite"] = bool(drawn.isfinite().all())
        told.append(row)
        keep({"scenes": told})
