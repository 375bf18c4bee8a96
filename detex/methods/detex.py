"""DETEX (arXiv 2312.11826), section 3: [V] beside each photo's [P] and [B].

Joint training (3.3): with chance gamma a sample is the subject alone on a blank background, under
a prompt without [B]. Cross-attention loss (3.4): [P] attends to the subject, [B] to the rest.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..evaluate.scores import half_maximum_iou
from ..photos.photos import latent_grid, subject_cells
from ..photos.places import DEFAULT_PLACES
from ..prompt.captions import neutral_captions
from ..prompt.grammar import PromptTokens
from ..prompt.words import Attributes, WordAnchors, Words
from ..unet.attention import AttentionTap
from ..unet.deltas import apply_delta
from ..unet.losses import attention_loss, keep_loss, map_loss
from ..unet.transfer import to_device
from .base import (
    Batch,
    Chosen,
    Predict,
    Prediction,
    SubjectMethod,
    check_choice,
    check_weight,
    generator,
)

TOGETHER = 32  # prompts that the text encoder takes at once
UNNAMED = 0.3  # of the composites on a place: the prompt does not say where they are


@dataclass(frozen=True, kw_only=True)
class DetexConfig:
    """The defaults are the paper's; `recommended` has those of the nodes."""

    attributes: Attributes = Attributes.MAPPERS
    gamma: float = 0.5  # chance that a sample trains on the subject alone, background blanked
    attention_weight: float = 0.01  # lambda_CA of Eq. (5)
    prior_weight: float = 1.0  # lambda_pr of Eq. (5)
    # of the change of K and V under prompts without learned words; not in the paper
    keep_weight: float = 0.0
    attention_norm: str = "mse"  # the norm of Eq. (4), which the paper leaves open: mse, l1, fro
    attention_map: str = "max"  # how a map is scaled to [0, 1]: max, max_detach, minmax, raw
    subject_attention: bool = False  # [V] is held to the subject as [P] is; not in the paper
    # the [P] words average to their anchor, so what all photos share is [V]'s; not in the paper
    center_poses: bool = False
    # photos train where a picture's layout is decided, at high noise; not in the paper
    layout_noise: bool = False
    # mapper_rate is a speed: at 1 the words [P] and [B] move as fast as [V]; not in the paper
    relative_speed: bool = False
    masked_pose: bool = True  # the [P] term also acts on blanked samples
    masked_loss: bool = False  # blanked samples count the subject's pixels only (Table 4)
    detach_start_token: bool = True  # no gradient into K, V through the start token
    center_features: bool = False  # subtract the photos' mean feature before the mappers
    plain_mapper: bool = False  # the bare three-layer MLP: no LayerNorm, no anchor word
    reduction: str = "mean"  # mean, or adobe: Custom Diffusion's photo loss, 4 x the mean

    def __post_init__(self):
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is a probability between 0 and 1, got {self.gamma}.")
        check_weight(self, "attention_weight", "prior_weight", "keep_weight")
        check_choice(self, "attention_norm", ("mse", "l1", "fro"))
        check_choice(self, "attention_map", ("max", "max_detach", "minmax", "raw"))
        check_choice(self, "reduction", ("mean", "adobe"))

    @classmethod
    def recommended(cls, **settings: Any) -> "DetexConfig":
        """What the nodes do: the additions of ours that pay (docs/science.md)."""
        ours: dict[str, Any] = {
            "subject_attention": True,
            "center_poses": True,
            "relative_speed": True,
            "center_features": True,
            "layout_noise": True,
            "keep_weight": 0.1,
        }
        return cls(**(ours | settings))


class Detex(SubjectMethod):
    """One subject's training: what is learned, what a batch is, what it costs."""

    name = "DETEX"
    Config = DetexConfig

    def __init__(self, *given):
        super().__init__(*given)
        self.weights |= {
            "attention": self.config.attention_weight,
            "keep": self.config.keep_weight,
        }
        self._kept: Tensor | None = None
        made = self.photos.composites
        said = [one for row in made.said for one in row] if made and self.config.gamma else ()
        for words, place in dict.fromkeys(said):
            self.prompt("", words, place)  # one that is too long is refused now

    @classmethod
    def needs(cls, config: DetexConfig) -> Collection[str]:
        masks = ("masks",) if config.gamma or config.attention_weight else ()
        features = ("features",) if config.attributes is Attributes.MAPPERS else ()
        return (*masks, *features)

    def make_words(self, anchors: WordAnchors, rng: torch.Generator) -> Words:
        config = self.config
        return Words(
            self.photos.count,
            anchors,
            rng,
            attributes=config.attributes,
            features=self.photos.features,
            plain=config.plain_mapper,
            center=config.center_features,
            center_poses=config.center_poses,
        )

    def kept(self) -> Tensor:
        """What the deltas should change little; the same in every step."""
        if self._kept is None:
            there = next(self.deltas.parameters()).device
            self._kept = to_device(self.neutral_features(), there)
        return self._kept

    @torch.no_grad()
    def neutral_features(self) -> Tensor:
        """Text features [M, C] of the tokens of prompts without learned words: the class in the
        places of the composites, or in common ones, under several views. A token says nothing of
        what follows it, so that a beginning that prompts share is there once.
        """
        made, of = self.photos.composites, self.subject
        said = {one.place for row in made.said for one in row if one.place} if made else ()
        captions = neutral_captions(of.class_word, of.attribute, sorted(said) or DEFAULT_PLACES)
        found, begun = [], set()
        for i in range(0, len(captions), TOGETHER):
            prompts = [self.tokens(text) for text in captions[i : i + TOGETHER]]
            contexts = self.text.encode(prompts, [{}] * len(prompts)).context
            for prompt, context in zip(prompts, contexts, strict=True):
                ids = prompt.ids[0]
                # without the start token, which all prompts have; with one that fills up: the end
                new = [k for k in range(1, prompt.length() + 1) if ids[: k + 1] not in begun]
                begun.update(ids[: k + 1] for k in new)
                found.append(context[new])
        return torch.cat(found)

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Many weights of a mapper push one word, so that at one rate it moves some ten times as
        fast as [V], more in larger models; `relative_speed` divides that out.
        """
        if not self.config.relative_speed:
            return super().rates()
        deltas, subject, _ = super().rates()
        rng = generator(self.train_config.seed + 5)
        wanted = self.train_config.mapper_rate * (subject[1] or 1.0)  # [V] may be at rest
        mappers = [  # photos that look alike have words that hardly move apart: not to be forced
            (list(source.parameters()), wanted / max(1.0, self.words.speed(role, rng)))
            for role, source in self.words.attributes.items()
        ]
        return [deltas, subject, *mappers]

    def noisier(self, timesteps: Tensor, chosen: Chosen) -> Tensor:
        """Photos teach what [P] and [B] say, the layout; the cut-out subject teaches the look too,
        which is decided later.
        """
        if not self.config.layout_noise:
            return timesteps
        look, layout = (self.schedule.noisier(timesteps, root) for root in (2, 4))
        return torch.where(chosen.blanked, look, layout)

    def choose(self, photos: Tensor, copies: Tensor) -> Chosen:
        """Each photo as it is or, with chance gamma, its subject on a blank."""
        plain, given = super().choose(photos, copies), self.photos
        blanked = torch.rand(len(photos), generator=self.rngs["gamma"]) < self.config.gamma
        if given.composites is not None:
            return self.choose_composites(plain, photos, copies, blanked)
        latents, valid = plain.latents, plain.valid
        if given.blanked is not None:
            alone = given.blanked[photos, copies]
            latents = torch.where(blanked[:, None, None, None], alone, latents)
            valid = torch.where(blanked[:, None, None], torch.ones_like(valid), valid)
        prompts = tuple(
            self.prompt(given.prefixes[i][k], {"V", "P"} if b else {"V", "P", "B"})
            for b, i, k in zip(blanked.tolist(), photos.tolist(), copies.tolist(), strict=True)
        )
        return Chosen(latents, valid, plain.masks, blanked, prompts)

    def choose_composites(
        self, plain: Chosen, photos: Tensor, copies: Tensor, composed: Tensor
    ) -> Chosen:
        """Where `composed`, a composite for the photo's words, else the photo as it is. In three of
        ten prompts the place is not named.
        """
        made: Any = self.photos.composites
        rng, size = self.rngs["gamma"], len(photos)
        drawn = torch.randint(made.latents.shape[1], (size,), generator=rng)
        named = torch.rand(size, generator=rng) >= UNNAMED

        def either(name: str) -> Tensor:
            of_composites, of_photos = getattr(made, name)[photos, drawn], getattr(plain, name)
            chosen = composed.view(-1, *[1] * (of_photos.ndim - 1))
            return torch.where(chosen, of_composites, of_photos)

        prompts = []
        for row, (i, k) in enumerate(zip(photos.tolist(), drawn.tolist(), strict=True)):
            words, place = made.said[i][k]
            if composed[row]:
                prompts.append(self.prompt("", set(words), place if named[row] else ""))
            else:
                prefix = self.photos.prefixes[i][int(copies[row])]
                prompts.append(self.prompt(prefix, {"V", "P", "B"}))
        return Chosen(either("latents"), either("valid"), either("masks"), composed, tuple(prompts))

    def losses(self, batch: Batch, predict: Predict, turn: Sequence[str]) -> dict[str, Tensor]:
        """L_LDM, L_pr and L_CA of Eq. (5), unweighted scalars."""
        tap = self.tap(batch) if self.config.attention_weight else None
        prediction = predict(batch, self.condition(batch), (tap,) if tap else ())
        terms = self.diffusion_terms(batch, prediction)
        if tap is not None:
            terms["attention"] = self.attention_term(batch, tap)
        if self.config.keep_weight:
            terms["keep"] = keep_loss(self.added_to(self.kept()), self.kept())
        return terms

    def added_to(self, features: Tensor) -> list[Tensor]:
        """What the deltas add to K and V of these tokens, [M, out] each."""
        return [apply_delta(delta, features) for _, delta in self.deltas.of_layers()]

    def diffusion_terms(self, batch: Batch, prediction: Prediction) -> dict[str, Tensor]:
        if self.config.masked_loss and batch.masks is not None:
            alone = torch.where(batch.blanked[:, None, None], batch.masks, 1.0)
            n, valid = batch.count, batch.valid
            batch = replace(batch, valid=torch.cat([valid[:n] * alone, valid[n:]]))
        return super().diffusion_terms(batch, prediction)

    def tap(self, batch: Batch) -> AttentionTap:
        """The maps that the attention loss needs: half the latent side, photos only."""
        h, w = batch.latents.shape[-2:]
        return AttentionTap(grid=(h // 2, w // 2), rows=batch.count)

    def attention_term(self, batch: Batch, tap: AttentionTap) -> Tensor:
        """L_CA of Eq. (4): [P] on the subject, [B] off it."""
        masks: Any = batch.masks  # there, as `needs` says
        subject = subject_cells(masks, tap.grid).float()
        valid = (latent_grid(batch.valid[: batch.count], tap.grid) > 0.999).float()
        how, norm = self.config.attention_map, self.config.attention_norm
        pose = map_loss(token_maps(tap, batch.prompts, "P"), subject, valid, how, norm)
        pose = torch.where(self.has(batch, "P"), pose, 0.0)
        if not self.config.masked_pose:
            pose = pose * ~batch.blanked
        if self.config.subject_attention:
            pose = pose + map_loss(token_maps(tap, batch.prompts, "V"), subject, valid, how, norm)
        background = map_loss(token_maps(tap, batch.prompts, "B"), 1 - subject, valid, how, norm)
        return attention_loss(pose, torch.where(self.has(batch, "B"), background, 0.0))

    @staticmethod
    def has(batch: Batch, word: str) -> Tensor:
        """[B] whether the prompt has the word: for one without, the map of the start token stands
        in, and its term is dropped.
        """
        found = torch.tensor([prompt.position(word) is not None for prompt in batch.prompts])
        return to_device(found, batch.photos.device)

    @torch.no_grad()
    def report(self, predict: Predict) -> dict[str, dict[str, float]]:
        """How well the maps of [P] and [B] lie on the subject and off it: mean IoU at half maximum.
        Empty for photos without masks.
        """
        if self.photos.masks is None:
            return {}
        scores: dict[str, list[Tensor]] = {"pose": [], "background": []}
        for maps, inside in photo_maps(self, predict, ("P", "B")):
            scores["pose"].append(half_maximum_iou(maps["P"], inside))
            scores["background"].append(half_maximum_iou(maps["B"], ~inside))
        means = {name: torch.cat(values).mean().item() for name, values in scores.items()}
        return {"overlap": means}


def token_maps(tap: AttentionTap, prompts: Sequence[PromptTokens], word: str) -> Tensor:
    """The map [B, h, w] of `word` in each prompt; of the start token where a prompt lacks it."""
    return tap.token_map(torch.tensor([p.position(word) or 0 for p in prompts]))


@torch.no_grad()
def photo_maps(
    method: Detex, predict: Predict, words: Sequence[str]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Each word's maps [N, h, w] of all photos, and where their subjects are, [N, h, w] bool.

    Unblanked, at a quarter and a half of the schedule, with noise of seed 0; a photo at a time,
    whatever memory a step has. words: of those in the training prompt.
    """
    for part in (0.25, 0.5):
        every = method.photos_at(part)
        masks: Any = every.masks
        inside = subject_cells(masks, method.tap(every).grid)
        maps: dict[str, list[Tensor]] = {word: [] for word in words}
        for _, one in every.split(every.count):
            tap = method.tap(one)
            predict(one, method.condition(one), (tap,))
            for word, found in maps.items():
                found.append(token_maps(tap, one.prompts, word))
        yield {word: torch.cat(found) for word, found in maps.items()}, inside
