"""Place pictures that the untrained model draws, kept on disk like prior images."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..photos.places import Places
from .prior import PriorConfig, Report, found_pictures, prior_folder, prior_pictures

PROMPT = "photo of {place}"
AT_ONCE = 4  # pictures of one place


def drawn_places(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    vae: comfy.sd.VAE,
    names: Sequence[str],
    each: int,
    config: PriorConfig,
    report: Report,
) -> tuple[Places, int]:
    """`each` pictures of every place; only what is missing on disk is made.

    config: its prompt has {place} where the name goes. -> the pictures, how many were made.
    report: hears of those alone. Raises ValueError for a name that does not fit into a prompt.
    """
    check_length(clip, names)
    configs = [
        replace(
            config, prompt=config.prompt.replace("{place}", name), seed=config.seed + own_seed(name)
        )
        for name in names
    ]
    folders = [prior_folder(model, clip, vae, of_place) for of_place in configs]
    found = [found_pictures(folder, each) for folder in folders]
    missing = each * len(names) - sum(found)
    pictures, made = [], 0

    def told(before: int, done: int, _of_one: int, picture: Tensor | None) -> None:
        report(before * config.steps + done, missing * config.steps, picture)

    for of_place, folder, there in zip(configs, folders, found, strict=True):
        drawn, _, new = prior_pictures(
            model, clip, vae, of_place, each, AT_ONCE, partial(told, made - there), folder=folder
        )
        pictures.append(drawn)
        made += new
    named = tuple(name for name in names for _ in range(each))
    return Places(torch.cat(pictures), named), made


def own_seed(name: str) -> int:
    """Of a place whatever its line: with one seed for all, all places would be laid out alike."""
    return zlib.crc32(name.encode())


def check_length(clip: comfy.sd.CLIP, names: Sequence[str]) -> None:
    """Raise ValueError for a name with which no prompt fits into the text tower."""
    for name in names:
        sentence = f"photo of a ucd class with ucd view in {name} background"
        if any(len(chunks) > 1 for chunks in clip.tokenize(sentence).values()):
            raise ValueError(
                f'The place "{name}" is too long: a prompt with it has to fit into 77 tokens. Two '
                "or three words are enough."
            )
