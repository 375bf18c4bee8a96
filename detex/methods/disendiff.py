"""DisenDiff (arXiv 2403.18551): several concepts of one photo, each bound to its class.

The caption is "photo of a [V] cat and [V2] dog". Beside Custom Diffusion's loss, the attention
calibration holds each modifier's map to that of its class (L_bind) and keeps the classes' maps
apart (L_s&s), after these were suppressed: smoothed and squared. The constants are those of the
released code. Where the photo has a mask for each concept, the mask stands for the class's map that
another map is held to, or kept off: not in the paper.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..evaluate.scores import half_maximum_iou
from ..photos.photos import latent_grid, subject_cells
from ..prompt.grammar import PromptTokens, joint_class, joint_prompt
from ..prompt.words import WordAnchors, Words
from ..training.config import TrainConfig
from ..unet.attention import AttentionTap
from ..unet.features import quarter_grid
from ..unet.interfaces import TextEncoder
from ..unet.losses import binding_loss, scaled_map, separation_loss, smoothed, suppressed
from .base import Batch, Chosen, Predict, SubjectMethod, check_weight, generator

EPS = 1e-8  # of the scale of the maps
# 250 steps of four photos and four prior images, at 8e-5 together
RELEASED = TrainConfig(steps=250, batch_size=4, learning_rate=2e-5)


@dataclass(frozen=True, kw_only=True)
class DisenDiffConfig:
    # the released code has 0.01 for both, beside a diffusion loss of four times the mean
    bind_weight: float = 0.0025  # of L_bind
    separate_weight: float = 0.0025  # of L_s&s
    prior_weight: float = 1.0  # of the class images' loss
    suppress: bool = True  # smooth and square the class maps
    use_masks: bool = True  # where there are any; not in the paper
    # of two concepts, either stands first as often; the release has this setting without its code
    random_order: bool = True
    detach_start_token: bool = True  # no gradient into K, V through the start token

    def __post_init__(self):
        check_weight(self, "bind_weight", "separate_weight", "prior_weight")

    @classmethod
    def recommended(cls, **settings: Any) -> "DisenDiffConfig":
        """What the nodes do: the paper's, with masks where there are any."""
        return cls(**settings)


class DisenDiff(SubjectMethod):
    """A word for each concept, and K, V of cross-attention. One concept alone has L_bind only."""

    name = "DisenDiff"
    photos_from = "Concepts in One Photo"
    Config = DisenDiffConfig

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.concepts = {one.word: one for one in self.photos.named}
        self.weights["bind"] = self.config.bind_weight
        if len(self.concepts) > 1:
            self.weights["separate"] = self.config.separate_weight
        self.rngs["order"] = generator(self.train_config.seed + 5)
        self.pieces = {
            word: count_pieces(self.text, one.class_word) for word, one in self.concepts.items()
        }
        for prefix in {prefix for copies in self.photos.prefixes for prefix in copies}:
            self.prompt(prefix, tuple(self.concepts))  # a caption that is too long is refused now

    def make_words(self, anchors: WordAnchors, rng: torch.Generator) -> Words:
        others = [one.word for one in self.photos.named[1:]]
        return Words(self.photos.count, anchors, rng, others=others)

    def prompt(self, prefix: str, words: Collection[str], place: str = "") -> PromptTokens:
        """The caption of these concepts, in this order; of none, that of their classes."""
        if not words:
            return self.tokens(f"photo of {joint_class(self.photos.named)}")
        return self.tokens(joint_prompt([self.concepts[word] for word in words], prefix))

    def choose(self, photos: Tensor, copies: Tensor) -> Chosen:
        """The photo with all concepts, in a random order."""
        words, rng = list(self.concepts), self.rngs["order"]
        prompts = []
        for i, k in zip(photos.tolist(), copies.tolist(), strict=True):
            if self.config.random_order:
                words = [words[j] for j in torch.randperm(len(words), generator=rng).tolist()]
            prompts.append(self.prompt(self.photos.prefixes[i][k], words))
        return super().choose(photos, copies)._replace(prompts=tuple(prompts))

    def losses(self, batch: Batch, predict: Predict, turn: Collection[str]) -> dict[str, Tensor]:
        """L_LDM, L_pr, L_bind and L_s&s, unweighted scalars."""
        calibrating = any(self.weights.get(name) for name in ("bind", "separate"))
        taps = (self.tap(batch),) if calibrating else ()
        terms = self.diffusion_terms(batch, predict(batch, self.condition(batch), taps))
        for tap in taps:
            terms |= self.calibration(batch, tap)
        return terms

    def tap(self, batch: Batch) -> AttentionTap:
        """The maps of the photos on a quarter of the latents' side: 16 x 16 of 64 x 64."""
        return AttentionTap(quarter_grid(batch.latents), batch.count)

    def calibration(self, batch: Batch, tap: AttentionTap) -> dict[str, Tensor]:
        """The terms of the attention calibration, from the maps that the tap has collected."""
        valid = (latent_grid(batch.valid[: batch.count], tap.grid) > 0.999).float()
        modifiers = each(smoothed, scaled(self.modifier_maps(batch, tap)))
        classes = scaled(self.class_maps(batch, tap))
        if self.config.suppress:
            classes = each(suppressed, classes)
        known = classes
        if batch.masks is not None and self.config.use_masks:
            known = concept_cells(batch.masks, tap.grid).to(classes)
        terms = {"bind": binding_loss(modifiers, known, valid).mean()}
        if len(self.concepts) > 1:
            terms["separate"] = separation_loss(classes, known, valid).mean()
        return terms

    def modifier_maps(self, batch: Batch, tap: AttentionTap) -> Tensor:
        """[B, M, h, w] of [V], [V2]..., as the UNet has them."""
        return torch.stack([tap.token_map(places(batch, word)) for word in self.concepts], dim=1)

    def class_maps(self, batch: Batch, tap: AttentionTap) -> Tensor:
        """[B, M, h, w] of the class words: the mean over the pieces of each, which stand behind its
        modifier.
        """
        found = []
        for word, pieces in self.pieces.items():
            behind = [tap.token_map(places(batch, word) + 1 + i) for i in range(pieces)]
            found.append(torch.stack(behind).mean(dim=0))
        return torch.stack(found, dim=1)

    def sample_prompts(self) -> dict[str, PromptTokens]:
        """Each concept alone, and all of them."""
        alone = {f"[{word}]": self.prompt("", (word,)) for word in self.concepts}
        return alone | {" + ".join(alone): self.prompt("", tuple(self.concepts))}

    @torch.no_grad()
    def report(self, predict: Predict) -> dict[str, dict[str, float]]:
        """How well the map of each modifier lies on its concept's mask: mean IoU at half maximum,
        at a quarter and a half of the schedule. Empty for a photo without masks.
        """
        if self.photos.masks is None:
            return {}
        scores: dict[str, list[Tensor]] = {f"[{word}]": [] for word in self.concepts}
        for part in (0.25, 0.5):
            batch = self.photos_at(part)  # one photo
            tap = self.tap(batch)
            predict(batch, self.condition(batch), (tap,))
            masks: Any = batch.masks
            inside = concept_cells(masks, tap.grid)
            maps = self.modifier_maps(batch, tap)
            for i, found in enumerate(scores.values()):
                found.append(half_maximum_iou(maps[:, i], inside[:, i]))
        return {"overlap": {name: torch.cat(found).mean().item() for name, found in scores.items()}}


def count_pieces(text: TextEncoder, class_word: str) -> int:
    """How many tokens a class word takes, counted between two placeholders."""
    (before, _), (behind, _) = text.tokenize(f"[V] {class_word} [V]").slots
    return behind - before - 1


def places(batch: Batch, word: str) -> Tensor:
    """[B] where `word` stands in each prompt; all prompts have it."""
    found: list[Any] = [prompt.position(word) for prompt in batch.prompts]
    return torch.tensor(found)


def scaled(maps: Tensor) -> Tensor:
    """Maps [B, M, h, w], each from 0 to 1."""
    return each(lambda flat: scaled_map(flat, "minmax", EPS), maps)


def each(change: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """A change of maps [B, h, w], for [B, M, h, w]."""
    return change(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


def concept_cells(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks [B, M, h, w], or [B, h, w] of one concept -> [B, M, h, w] bool: the cells of which each
    concept covers more than half.
    """
    planes = masks if masks.ndim == 4 else masks[:, None]
    return each(lambda flat: subject_cells(flat, grid), planes)
