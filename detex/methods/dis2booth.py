"""Dis²Booth (AAAI 2025, 10.1609/aaai.v39i3.32279), a reconstruction from its abstract.

Only the abstract is public. It says: from pictures of different individuals, what they have in
common goes into an Anchor LoRA, how they vary into a Delta LoRA, held apart by a contextual and a
delta loss and an asynchronous optimisation. All else here is ours: each picture has a code c, which
scales the directions of the Delta LoRA,

    h(x) = W0 x + B_A A_A x + B_D diag(c) A_D x,

c = 0 is the anchor, and new individuals have new codes (`concept.individuals`). A code may say what
no caption says, the background too: captions name it where it has a name, and where there are masks
a sample with a code counts its subject alone, or shows it on another ground.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..concept.individuals import law_of
from ..prompt.grammar import PromptTokens
from ..unet.coded import CodedDeltas
from ..unet.codes import Codes, FreeCodes, MappedCodes, SharedCodes
from ..unet.condition import Condition
from ..unet.deltas import Deltas
from ..unet.features import FeatureTap, quarter_grid
from ..unet.interfaces import Denoiser
from ..unet.losses import code_scale_loss, contextual_loss, shared_direction_loss
from ..unet.transfer import to_device
from .base import (
    Batch,
    Chosen,
    Learned,
    Predict,
    SubjectMethod,
    check_choice,
    check_weight,
    generator,
)

SCHEDULES = ("joint", "alternate", "two_timescale", "sequential")
CODES = ("auto", "mapper", "free", "shared")
SLOW = 0.1  # rate of the anchor in `two_timescale`
FREE_RATE = 16.0  # a free code is of unit size, a LoRA's numbers of hundredths
UNNAMED = 0.3  # of the composites: the prompt does not say where they are, and the code cannot
CLEAR = 0.7  # of the schedule: beyond it features are mostly noise
SHOWN = 3  # individuals in the live picture
SHOWN_SEED = 4  # of their codes


@dataclass(frozen=True, kw_only=True)
class Dis2BoothConfig:
    # joint, two_timescale: both LoRAs in every step, in the latter the anchor at a tenth of the
    # rate; sequential: the anchor for `warm_up` steps, then the delta; alternate: from then on one
    # step for the anchor, two for the delta
    schedule: str = "joint"
    warm_up: int = 120  # steps of the anchor alone, where the schedule parts them
    codes: str = "auto"  # mapper over image features, free, shared (all 1); auto: mapper or free
    code_dropout: float = 0.25  # chance that a sample has no code, where both LoRAs learn at once
    anchor_rank: int = 8
    delta_rank: int = 8  # numbers of a code
    contextual_weight: float = 0.01
    delta_weight: float = 0.01
    prior_weight: float = 0.0  # of the class images' loss
    composites: float = 0.5  # chance that a sample shows its subject on another ground
    masked_loss: bool = True  # a photo with its code counts its subject alone, where it has a mask
    high_noise: bool = True  # samples with a code have high noise more often
    rate: float = 2.5  # multiplies the rate of the LoRAs: 1e-4 with four photos a step of 1e-5 each

    def __post_init__(self):
        check_choice(self, "schedule", SCHEDULES)
        check_choice(self, "codes", CODES)
        check_weight(self, "contextual_weight", "delta_weight", "prior_weight", "warm_up")
        for name in ("anchor_rank", "delta_rank"):
            if not 1 <= getattr(self, name) <= 128:
                raise ValueError(f"{name} must lie between 1 and 128, got {getattr(self, name)}.")
        for name in ("code_dropout", "composites"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a chance between 0 and 1, got {getattr(self, name)}.")
        if self.rate <= 0:
            raise ValueError(f"rate multiplies the LoRAs' learning rate: above 0, got {self.rate}.")

    @classmethod
    def recommended(cls, **settings: Any) -> "Dis2BoothConfig":
        """What the nodes do: the class's defaults."""
        return cls(**settings)


@dataclass(frozen=True)
class VariedBatch(Batch):
    """Each photo with or without its code, and another photo that the contextual loss compares."""

    coded: tuple[bool, ...] = ()  # [B]
    clear: tuple[bool, ...] = ()  # [B], at timesteps whose features are not mostly noise
    other_latents: Tensor | None = None  # [B, 4, h, w]
    other_noise: Tensor | None = None  # [B, 4, h, w]
    other_sizes: Tensor | None = None  # [B, 6]
    other_prompts: tuple[PromptTokens, ...] | None = None  # [B]


class Dis2Booth(SubjectMethod):
    """An anchor, [V] and a LoRA, and a second LoRA whose directions the photos' codes scale."""

    name = "Dis²Booth (reconstruction)"
    photos_from = "Varied Images"
    Config = Dis2BoothConfig
    BatchKind = VariedBatch

    def __init__(self, *given: Any):
        super().__init__(*given)
        denoiser, seed = given[4], self.train_config.seed
        if not self.train_config.kv_rate:
            raise ValueError("kv_rate is 0: neither LoRA would learn. Leave it at 1.")
        self.weights["contextual"] = self.config.contextual_weight
        self.weights["delta"] = self.config.delta_weight
        rank, rng = self.config.delta_rank, generator(seed + 5)
        self.varied = Deltas(denoiser.layers, rank, rng, self.device, scaled=False)
        self.codes = self.make_codes(generator(seed + 6)).to(self.device)
        self.learned["varied"], self.learned["codes"] = self.varied, self.codes
        self.rngs["codes"] = generator(seed + 7)
        self.live = CodedDeltas(self.deltas, self.varied, denoiser.codes)

    @classmethod
    def needs(cls, config: Dis2BoothConfig) -> Collection[str]:
        return ("features",) if config.codes == "mapper" else ()

    def make_deltas(self, denoiser: Denoiser, rng: torch.Generator) -> Deltas:
        """The anchor: Q, K, V and the output of self- and cross-attention."""
        rank = self.config.anchor_rank
        return Deltas(denoiser.layers, rank, rng, self.device, scaled=False)

    def make_codes(self, rng: torch.Generator) -> Codes:
        kind, features = self.config.codes, self.photos.features
        count, rank = self.photos.count, self.config.delta_rank
        if kind == "shared":
            return SharedCodes(count, rank)
        if kind == "free" or features is None:
            return FreeCodes(count, rank, rng)
        return MappedCodes(features.cpu(), rank, rng)

    def insert(self, denoiser: Denoiser) -> AbstractContextManager[None]:
        return denoiser.with_deltas(self.live, detach_start_token=False)

    # --- whose turn it is ---

    def optimisers(self) -> dict[str, list[dict]]:
        """One for what is common, one for what varies, which share neither weights nor moments."""
        train, config = self.train_config, self.config
        lora = config.rate * train.kv_rate
        slow = SLOW if config.schedule == "two_timescale" else 1.0
        free = FREE_RATE if isinstance(self.codes, FreeCodes) else 1.0
        anchor = [
            (list(self.deltas.parameters()), slow * lora),
            ([self.words.subject], slow * train.token_rate),
        ]
        delta = [
            (list(self.varied.parameters()), lora),
            (list(self.codes.parameters()), free * lora * train.mapper_rate),
        ]
        return {"anchor": self.groups(anchor), "delta": self.groups(delta)}

    def turn(self, step: int) -> tuple[str, ...]:
        schedule, after = self.config.schedule, step - self.config.warm_up
        if schedule in ("joint", "two_timescale"):
            return ("anchor", "delta")
        if after < 0 or (schedule == "alternate" and after % 3 == 0):
            return ("anchor",)
        return ("delta",)

    def of_turn(self, batch: VariedBatch, turn: Collection[str]) -> VariedBatch:
        """The batch as those see it whose turn it is: the anchor's samples have no code, the
        delta's have theirs; where both learn, each as it was drawn.
        """
        coded = batch.coded if len(turn) > 1 else ("delta" in turn,) * batch.count
        return replace(
            batch,
            coded=coded,
            timesteps=self.timesteps_of(batch, coded),
            valid=self.valid_of(batch, coded),
        )

    def timesteps_of(self, batch: VariedBatch, coded: Sequence[bool]) -> Tensor:
        """What an individual looks like is decided early. Not by `noisier` of the draw: which
        samples have a code is known with the turn.
        """
        times, n = batch.timesteps, batch.count
        if not self.config.high_noise:
            return times
        high = self.schedule.noisier(times[:n])
        return torch.cat([torch.where(torch.tensor(coded), high, times[:n]), times[n:]])

    def valid_of(self, batch: VariedBatch, coded: Sequence[bool]) -> Tensor:
        """Of a photo with its code, its subject alone: the ground is not the individual's."""
        if batch.masks is None or not self.config.masked_loss:
            return batch.valid
        n, valid = batch.count, batch.valid
        alone = to_device(torch.tensor(coded), batch.blanked.device) & ~batch.blanked
        shown = torch.where(alone[:, None, None], valid[:n] * batch.masks, valid[:n])
        return torch.cat([shown, valid[n:]])

    # --- what a batch is ---

    def draw(self) -> Batch:
        batch = super().draw()
        clear = batch.timesteps[: batch.count] < CLEAR * len(self.schedule)
        return replace(batch, clear=tuple(clear.tolist()))  # type: ignore[call-arg]

    def choose(self, photos: Tensor, copies: Tensor) -> Chosen:
        """Each photo as it is, or, where there are composites, its subject on another ground; in
        three of ten of their prompts the ground is not named, and no code tells it.
        """
        plain, rng, size = super().choose(photos, copies), self.rngs["codes"], len(photos)
        plain = plain._replace(prompts=tuple(self.caption(i) for i in photos.tolist()))
        if self.photos.composites is not None:
            plain = self.choose_composites(plain, photos)
        more: dict[str, Any] = {
            "coded": tuple((torch.rand(size, generator=rng) >= self.config.code_dropout).tolist())
        }
        if self.config.contextual_weight:
            more |= self.other_photos(photos)
        return plain._replace(more=more)

    def choose_composites(self, plain: Chosen, photos: Tensor) -> Chosen:
        made: Any = self.photos.composites
        rng, size = self.rngs["gamma"], len(photos)
        composed = torch.rand(size, generator=rng) < self.config.composites
        drawn = torch.randint(made.latents.shape[1], (size,), generator=rng)
        named = (torch.rand(size, generator=rng) >= UNNAMED).tolist()

        def either(name: str) -> Tensor:
            of_composites, of_photos = getattr(made, name)[photos, drawn], getattr(plain, name)
            chosen = composed.view(-1, *[1] * (of_photos.ndim - 1))
            return torch.where(chosen, of_composites, of_photos)

        places = [
            made.said[i][k].place for i, k in zip(photos.tolist(), drawn.tolist(), strict=True)
        ]
        prompts = tuple(
            self.prompt("", {"V"}, place * name) if other else prompt
            for prompt, place, name, other in zip(
                plain.prompts, places, named, composed.tolist(), strict=True
            )
        )
        return Chosen(either("latents"), either("valid"), either("masks"), composed, prompts)

    def other_photos(self, photos: Tensor) -> dict[str, Any]:
        """For each photo another one with noise of its own, at the same timestep."""
        rng, count = self.rngs["codes"], self.photos.count
        others = (photos + torch.randint(1, count, photos.shape, generator=rng)) % count
        latents = self.photos.latents[others, 0]
        noise = torch.randn(latents.shape, generator=rng)
        return {
            "other_latents": to_device(latents, self.device),
            "other_noise": to_device(noise, self.device),
            "other_sizes": to_device(self.photos.size_ids[others, 0], self.device),
            "other_prompts": tuple(self.caption(i) for i in others.tolist()),
        }

    def caption(self, photo: int) -> PromptTokens:
        """ "photo of a [V] dog in sandy beach background", where the background has a name."""
        places = self.photos.places
        return self.prompt(self.photos.prefixes[photo][0], {"V"}, places[photo] if places else "")

    def condition(self, batch: Any) -> Condition:
        """The prompts, and the codes of those samples that have one; prior images have none."""
        coded = to_device(torch.tensor(batch.coded).float(), batch.latents.device)
        codes = self.codes(batch.photos) * coded[:, None]
        prior = codes.new_zeros(len(batch.latents) - batch.count, codes.shape[1])
        return replace(super().condition(batch), codes=torch.cat([codes, prior]))

    # --- what it costs ---

    def losses(self, batch: Any, predict: Predict, turn: Collection[str]) -> dict[str, Tensor]:
        """L_LDM, L_pr, the contextual loss of the anchor and the delta loss, unweighted scalars.

        In the anchor's turn no sample has a code, so that the delta's gradients are 0; in the
        delta's turn the anchor gets gradients, which are thrown away.
        """
        batch = self.of_turn(batch, turn)
        contextual = "anchor" in turn and bool(self.config.contextual_weight)
        rows = self.compared_rows(batch) if contextual else []
        # before the pass whose codes must stay for the backward pass
        others = self.other_features(batch, rows, predict) if rows else []
        taps = (FeatureTap(quarter_grid(batch.latents), batch.count),) if others else ()
        terms = self.diffusion_terms(batch, predict(batch, self.condition(batch), taps))
        if contextual:
            terms["contextual"] = terms["diffusion"].new_zeros(())
        for tap in taps:
            pairs = zip(tap.features(), others, strict=True)
            each = [contextual_loss(found[rows], other) for found, other in pairs]
            terms["contextual"] = torch.stack(each).mean(dim=0).sum() / batch.count
        if "delta" in turn and self.config.delta_weight:
            terms["delta"] = self.delta_term(batch)
        return terms

    def compared_rows(self, batch: VariedBatch) -> list[int]:
        """The samples of the anchor alone, but for those that are mostly noise."""
        return [i for i in range(batch.count) if batch.clear[i] and not batch.coded[i]]

    @torch.no_grad()
    def other_features(
        self, batch: VariedBatch, rows: Sequence[int], predict: Predict
    ) -> list[Tensor]:
        """What the anchor makes of the other photos of these samples: [rows, L, C] a block."""
        part: Any = batch.pick(torch.tensor(rows), with_prior=False)
        other = replace(
            part,
            latents=part.other_latents,
            noise=part.other_noise,
            size_ids=part.other_sizes,
            prompts=part.other_prompts,
        )
        tap = FeatureTap(quarter_grid(batch.latents), len(rows))
        predict(other, self.condition(other), (tap,))
        return tap.features()

    def delta_term(self, batch: VariedBatch) -> Tensor:
        """Codes of unit size, and a Delta LoRA that does not read what the anchor reads."""
        pairs = zip(self.deltas.downs, self.varied.downs, strict=True)
        shared = [shared_direction_loss(anchor.detach(), varied) for anchor, varied in pairs]
        return code_scale_loss(self.codes(batch.photos)).mean() + torch.stack(shared).mean()

    # --- what is kept and shown ---

    def export(self) -> Learned:
        with torch.no_grad():
            codes = self.codes.every().float().cpu().clone()
        return Learned(self.words.export(), self.deltas.export(), self.varied.export(), codes)

    def sample_prompts(self) -> dict[str, PromptTokens]:
        return {"[V]": self.prompt("", {"V"})}

    @torch.no_grad()
    def samples(self) -> dict[str, Condition]:
        """The anchor, and a few individuals of the codes as they are now, always the same draws."""
        law = law_of(self.codes.every().cpu())
        drawn = law.draw(SHOWN, 1.0, SHOWN_SEED).to(self.device)
        nothing = torch.zeros_like(drawn[:1])
        plain = {caption: replace(c, codes=nothing) for caption, c in super().samples().items()}
        individuals = {
            f"individual {number}": replace(plain["[V]"], codes=code[None])
            for number, code in enumerate(drawn, start=1)
        }
        return plain | individuals

    def key(self) -> Iterator[Tensor | str]:
        yield from super().key()
        yield repr([list(p.shape) for p in self.varied.parameters()])
