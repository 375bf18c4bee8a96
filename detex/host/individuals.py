"""Prompts of a concept as CONDITIONING: what only the prompt's own branch has rides on it.

An individual's part of the deltas belongs to the positive prompt alone: where the unconditional
branch has it too, guidance takes it out again. ComfyUI's hooks carry weight patches on CONDITIONING
(comfy/hooks.py): it patches the UNet while it computes that prompt, around whatever else is there.
"""

from collections.abc import Sequence

import comfy.hooks
import comfy.sd

from ..concept.file import Concept
from ..concept.individuals import check_individual
from ..prompt.grammar import split_placeholders
from .deltas import weight_patch
from .text import compose
from .towers import tower_of


def compose_all(clip: comfy.sd.CLIP, concept: Concept, texts: Sequence[str]) -> list[list]:
    """CONDITIONING of each text, as `compose`; of an individual, those that name it have its part.

    Raises ValueError for a distribution, and for the CLIP of another family.
    """
    check_individual(concept)
    vectors = concept.vectors(tower_of(clip))
    found = [compose(clip, text, vectors) for text in texts]
    hooks = hooks_of(concept)
    if hooks is None:
        return found
    return [
        comfy.hooks.set_hooks_for_conditioning(conditioning, hooks) if names(text) else conditioning
        for conditioning, text in zip(found, texts, strict=True)
    ]


def names(text: str) -> bool:
    """Whether a prompt has a subject's word, as a negative prompt has not."""
    return any(word.startswith("V") for word in split_placeholders(text)[1])


def hooks_of(concept: Concept) -> comfy.hooks.HookGroup | None:
    """What varies, as ComfyUI's hook; None where nothing does."""
    if not concept.varied:
        return None
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    hook.weights = {
        f"diffusion_model.{name}.weight": weight_patch(delta)
        for name, delta in concept.varied.items()
    }
    hook.need_weight_init = False  # the weights have ComfyUI's own keys
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return group
