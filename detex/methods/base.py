"""What all methods share: the seam to the loop, the batch, and one subject's photos, word and loss.

The loop draws a batch, asks the method for its losses, and steps the optimisers whose turn it is.
The method asks the UNet through `predict`, as often as it needs.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..photos.photos import Photos
from ..prompt.grammar import Named, PromptTokens, spelled_out, training_prompt
from ..prompt.words import RARE_ROWS, WordAnchors, Words
from ..training.config import TrainConfig, as_json
from ..unet.condition import Condition, joined, whole_picture
from ..unet.deltas import Delta, Deltas, text_layers
from ..unet.interfaces import Denoiser, Tap, TextEncoder
from ..unet.losses import diffusion_loss
from ..unet.transfer import to_device

NEW_PLACE = "water"  # of a sample: few photos are taken there


@dataclass(frozen=True)
class Batch:
    """All that is random in one step: B photos, then as many prior images where there are any.

    A field has an entry a photo, B, or a row of the UNet, B + R; its length tells which.
    """

    photos: Tensor  # [B] indices
    latents: Tensor  # [B + R, 4, h, w]
    noise: Tensor  # [B + R, 4, h, w]
    timesteps: Tensor  # [B + R], on the CPU
    valid: Tensor  # [B + R, h, w], 0 where nothing is to be learned
    size_ids: Tensor  # [B + R, 6]
    prompts: tuple[PromptTokens, ...]  # [B]
    masks: Tensor | None = None  # [B, h, w], or [B, M, h, w] of M concepts
    blanked: Tensor = field(default_factory=lambda: torch.zeros(0))  # [B] bool

    @property
    def count(self) -> int:
        return len(self.photos)

    def split(self, parts: int) -> Iterator[tuple[float, "Batch"]]:
        """(share of the batch, part) of parts of about the same size, each photo with its prior
        image.
        """
        if parts == 1:
            yield 1.0, self
            return
        for photos in torch.arange(self.count).chunk(parts):
            yield len(photos) / self.count, self.pick(photos, with_prior=True)

    def without_prior(self) -> "Batch":
        return self.pick(torch.arange(self.count), with_prior=False)

    def pick(self, photos: Tensor, *, with_prior: bool) -> "Batch":
        """Some of the photos, with or without their prior images."""
        paired = with_prior and len(self.latents) > self.count
        rows = torch.cat([photos, photos + self.count]) if paired else photos
        changes = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None:
                continue
            index = photos if len(value) == self.count else rows
            if isinstance(value, Tensor):
                changes[one.name] = value[to_device(index, value.device)]
            else:
                changes[one.name] = tuple(value[i] for i in index.tolist())
        return replace(self, **changes)


class Prediction(NamedTuple):
    """What the UNet answered, and what it should have, both [B + R, 4, h, w] in float32."""

    output: Tensor
    target: Tensor


# Noise on the batch's latents, one pass of the UNet; the taps collect attention, or features, on
# the way.
Predict = Callable[[Batch, Condition, Sequence[Tap]], Prediction]


class Learned(NamedTuple):
    """What is kept of a training."""

    words: Mapping[str, Tensor]  # "V" [n, C], "P1" [1, C]
    deltas: Mapping[str, Delta]  # by the path of their layer
    varied: Mapping[str, Delta] = {}  # what the codes scale
    codes: Tensor | None = None  # [N, r] of the photos


class Method(Protocol):
    """What a training method tells the loop, and the host that saves what was learned."""

    name: ClassVar[str]
    photos_from: ClassVar[str]  # the node that makes the photos which it learns from
    Config: ClassVar[Any]
    photos: Photos
    config: Any
    train_config: TrainConfig
    learned: nn.ModuleDict  # a snapshot takes it whole
    weights: Mapping[str, float]  # of its loss terms
    rngs: Mapping[str, torch.Generator]  # all that `draw` draws from

    def insert(self, denoiser: Denoiser) -> AbstractContextManager[None]: ...  # for a whole run
    def optimisers(self) -> Mapping[str, list[dict]]: ...  # name -> parameter groups
    def turn(self, step: int) -> Sequence[str]: ...  # the optimisers that step now
    def draw(self) -> Batch: ...
    def losses(
        self, batch: Batch, predict: Predict, turn: Sequence[str]
    ) -> dict[str, Tensor]: ...  # unweighted scalars; "diffusion" is that of the photos
    def export(self) -> Learned: ...
    def samples(self) -> dict[str, Condition]: ...  # by caption; "" is the empty prompt
    def report(self, predict: Predict) -> dict[str, dict[str, float]]: ...  # scores of this moment
    def named(self) -> tuple[Named, ...]: ...
    def key(self) -> Iterable[Tensor | str]: ...  # all that decides the result, but the base model


class Chosen(NamedTuple):
    """The photos' part of a batch, before it goes to the device."""

    latents: Tensor  # [B, 4, h, w]
    valid: Tensor  # [B, h, w]
    masks: Tensor | None  # [B, h, w], or [B, M, h, w] of M concepts
    blanked: Tensor  # [B] bool
    prompts: tuple[PromptTokens, ...]
    more: Mapping[str, Any] = {}  # what the method's own kind of batch has besides


class SubjectMethod:
    """One subject, [V], from its photos: "photo of a [V] dog", beside prior images of its class.

    A method of this kind says in `layers` and `make_deltas` what it changes of the UNet, in
    `make_words` which words it learns, in `choose` what a sample shows, in `losses` what it costs.
    """

    name: ClassVar[str]
    photos_from: ClassVar[str] = "Subject Images"
    Config: ClassVar[Any]
    BatchKind: ClassVar[type[Batch]] = Batch

    def __init__(
        self,
        photos: Photos,
        prior_latents: Tensor | None,  # [R, 4, h, w]
        config: Any,
        train: TrainConfig,
        denoiser: Denoiser,
        text: TextEncoder,
    ):
        check_photos(self, photos, self.needs(config))
        self.photos, self.config, self.train_config, self.text = photos, config, train, text
        self.device, self.schedule = denoiser.device, denoiser.schedule
        self.subject = photos.named[0]
        prior_weight = getattr(config, "prior_weight", 0.0)
        self.prior_latents = prior_latents if prior_weight else None
        self.weights = {"diffusion": 1.0, "prior": prior_weight}
        self.deltas = self.make_deltas(denoiser, generator(train.seed + 4))
        anchors = WordAnchors(
            {role: text.embedding_row(row) for role, row in RARE_ROWS.items()}, text.embedding_rms()
        )
        self.words = self.make_words(anchors, generator(train.seed)).to(self.device)
        self.learned = nn.ModuleDict({"deltas": self.deltas, "words": self.words})
        self.rngs = {
            "photos": generator(train.seed + 1),
            "gamma": generator(train.seed + 2),  # of its own: gamma may be 0
            "noise": generator(train.seed + 3),
        }
        self._prompts: dict[str, PromptTokens] = {}
        self._prior_cond: Condition | None = None

    # --- what a method of this kind says ---

    @classmethod
    def needs(cls, config: Any) -> Collection[str]:
        """What it cannot do without: of "masks" and "features"."""
        return ()

    def make_deltas(self, denoiser: Denoiser, rng: torch.Generator) -> Deltas:
        """Additions to K and V of cross-attention, as Custom Diffusion has them."""
        rank = self.train_config.rank or denoiser.rank
        return Deltas(text_layers(denoiser.layers), rank, rng, self.device)

    def make_words(self, anchors: WordAnchors, rng: torch.Generator) -> Words:
        return Words(self.photos.count, anchors, rng)

    def choose(self, photos: Tensor, copies: Tensor) -> Chosen:
        """What the samples show: photos [B], of the copy [B] each."""
        given = self.photos
        return Chosen(
            latents=given.latents[photos, copies],
            valid=given.valid[photos, copies],
            masks=None if given.masks is None else given.masks[photos, copies],
            blanked=torch.zeros(len(photos), dtype=torch.bool),
            prompts=tuple(
                self.prompt(given.prefixes[i][k], {"V"})
                for i, k in zip(photos.tolist(), copies.tolist(), strict=True)
            ),
        )

    def noisier(self, timesteps: Tensor, chosen: Chosen) -> Tensor:
        """The photos' timesteps [B], drawn evenly, moved to where there is most to learn."""
        return timesteps

    def losses(self, batch: Batch, predict: Predict, turn: Sequence[str]) -> dict[str, Tensor]:
        """The diffusion loss of the photos, and of their prior images."""
        return self.diffusion_terms(batch, predict(batch, self.condition(batch), ()))

    def sample_prompts(self) -> dict[str, PromptTokens]:
        """[V] alone, in a place that few photos show, and with the words of photo 1 where photos
        have words.
        """
        shown = {"[V]": self.prompt("", {"V"})}
        shown[f"[V] in {NEW_PLACE}"] = self.prompt("", {"V"}, NEW_PLACE)
        if self.words.attributes:
            shown["[V] + [P1] + [B1]"] = self.prompt("", {"V", "P", "B"})
        return shown

    def report(self, predict: Predict) -> dict[str, dict[str, float]]:
        return {}

    # --- the rest is the same for all ---

    def insert(self, denoiser: Denoiser) -> AbstractContextManager[None]:
        detach = getattr(self.config, "detach_start_token", False)
        return denoiser.with_deltas(self.deltas, detach_start_token=detach)

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters, and what multiplies their rate."""
        train = self.train_config
        return [
            (list(self.deltas.parameters()), train.kv_rate),
            ([self.words.subject, *self.words.others.values()], train.token_rate),
            (list(self.words.attributes.parameters()), train.mapper_rate),
        ]

    def optimisers(self) -> dict[str, list[dict]]:
        """One, with a group for each rate; what has none is frozen."""
        return {"all": self.groups(self.rates())}

    def groups(self, rates: Sequence[tuple[list[nn.Parameter], float]]) -> list[dict]:
        """An optimiser's groups of parameters with their rates."""
        groups = [
            {"params": parameters, "lr": self.train_config.effective_rate * rate}
            for parameters, rate in rates
        ]
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(group["lr"] > 0)
        return [group for group in groups if group["params"] and group["lr"]]

    def turn(self, step: int) -> Sequence[str]:
        return ("all",)

    def draw(self) -> Batch:
        """Photos in turn, none again before all have been taken; as many prior images; noise."""
        size, given, rng = self.train_config.batch_size, self.photos, self.rngs["photos"]
        turns = [torch.randperm(given.count, generator=rng) for _ in range(-(-size // given.count))]
        photos = torch.cat(turns)[:size]
        copies = torch.randint(given.latents.shape[1], (size,), generator=rng)
        chosen = self.choose(photos, copies)
        latents, valid = chosen.latents, chosen.valid
        sizes = given.size_ids[photos, copies]
        if self.prior_latents is not None:
            prior = torch.randint(len(self.prior_latents), (size,), generator=rng)
            latents = torch.cat([latents, self.prior_latents[prior]])
            valid = torch.cat([valid, torch.ones_like(valid)])
            sizes = torch.cat([sizes, whole_picture(size, given.resolution, given.resolution)])
        noise_rng, stratified = self.rngs["noise"], self.train_config.stratified_timesteps
        timesteps = self.schedule.sample(len(latents), noise_rng, stratified=stratified)
        timesteps[:size] = self.noisier(timesteps[:size], chosen)
        noise = torch.randn(latents.shape, generator=noise_rng)
        drawn = (photos, latents, noise, valid, sizes, chosen.blanked)
        photos, latents, noise, valid, sizes, blanked = (
            to_device(tensor, self.device) for tensor in drawn
        )
        masks = None if chosen.masks is None else to_device(chosen.masks, self.device)
        drawn = (photos, latents, noise, timesteps, valid, sizes, chosen.prompts, masks, blanked)
        return self.BatchKind(*drawn, **chosen.more)

    def photos_at(self, part: float) -> Batch:
        """All photos as they are, at this part of the schedule, with noise of seed 0, under all of
        their words.
        """
        given = self.photos
        latents = given.latents[:, 0].to(self.device)
        noise = torch.randn(latents.shape, generator=generator(0)).to(latents)
        words = ("V", *self.words.others, *self.words.attributes)
        return Batch(
            photos=torch.arange(given.count, device=self.device),
            latents=latents,
            noise=noise,
            timesteps=torch.full((given.count,), int(part * len(self.schedule))),
            valid=given.valid[:, 0].to(self.device),
            size_ids=given.size_ids[:, 0].to(self.device),
            prompts=tuple(self.prompt(prefixes[0], words) for prefixes in given.prefixes),
            masks=None if given.masks is None else given.masks[:, 0].to(self.device),
            blanked=torch.zeros(given.count, dtype=torch.bool, device=self.device),
        )

    def condition(self, batch: Batch) -> Condition:
        """B + R conditions, the learned words in place."""
        cond = self.text.encode(batch.prompts, self.words.of_photos(batch.photos))
        prior = len(batch.latents) - batch.count
        if prior:
            cond = joined(cond, self.prior_condition().expand(prior))
        return replace(cond, size_ids=batch.size_ids)

    def prior_condition(self) -> Condition:
        """That of the class alone."""
        if self._prior_cond is None:  # frozen tower, no learned word: the same every step
            with torch.no_grad():
                self._prior_cond = self.text.encode([self.prompt("", ())], [{}])
        return self._prior_cond

    def diffusion_terms(self, batch: Batch, prediction: Prediction) -> dict[str, Tensor]:
        """L_LDM of the photos and L_pr of their prior images, unweighted scalars."""
        (output, target), n = prediction, batch.count
        reduction = getattr(self.config, "reduction", "mean")
        photo = diffusion_loss(output[:n], target[:n], batch.valid[:n], reduction)
        terms = {"diffusion": photo.mean()}
        if len(output) > n:
            terms["prior"] = diffusion_loss(output[n:], target[n:], batch.valid[n:]).mean()
        return terms

    @torch.no_grad()
    def samples(self) -> dict[str, Condition]:
        """Prompts that show how far the words have come, by caption, and the empty one."""
        words = self.words.of_photos(torch.zeros(1, dtype=torch.long))
        shown = {"": self.text.tokenize("")} | self.sample_prompts()
        return {caption: self.text.encode([tokens], words) for caption, tokens in shown.items()}

    def prompt(self, prefix: str, words: Collection[str], place: str = "") -> PromptTokens:
        """The training prompt with these of the learned words."""
        of = self.subject
        return self.tokens(training_prompt(of.class_word, of.attribute, words, prefix, place))

    def tokens(self, text: str) -> PromptTokens:
        """Tokenised once."""
        if text not in self._prompts:
            vectors = {"V": self.words.vectors}
            self._prompts[text] = self.text.tokenize(spelled_out(text, vectors))
        return self._prompts[text]

    def export(self) -> Learned:
        return Learned(self.words.export(), self.deltas.export())

    def named(self) -> tuple[Named, ...]:
        """What the photos show; their numbers where they have words."""
        numbered = bool(self.words.attributes)
        return tuple(one if numbered else one._replace(photos=()) for one in self.photos.named)

    def key(self) -> Iterator[Tensor | str]:
        settings = as_json(self.train_config, self.config)
        del settings["steps"]  # the same run may be left early, or made longer
        settings["rank"] = [list(p.shape) for p in self.deltas.parameters()]
        given = [self.photos.named, self.photos.prefixes, self.photos.hashes]
        if self.photos.composites:
            given.append(self.photos.composites.said)
        if self.photos.places:
            given.append(self.photos.places)
        yield json.dumps([self.name, settings, given], sort_keys=True)
        for name, tensor in self.photos.tensors():
            yield name
            yield tensor
        if self.prior_latents is not None:
            yield self.prior_latents


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


REMEDIES = {
    "masks": "Wire masks into {}, one a photo",
    "features": "Wire CLIP_VISION into {}",
}


def check_photos(method: "SubjectMethod", photos: Photos, needs: Collection[str]) -> None:
    """Raise ValueError where the photos lack what a method needs."""
    given = {name for name, _ in photos.tensors()}
    missing = [name for name in needs if name not in given]
    if missing:
        what = {"masks": "masks", "features": "image features"}[missing[0]]
        remedy = REMEDIES[missing[0]].format(method.photos_from)
        raise ValueError(
            f"{method.name} needs {what} of the photos, and the subject wired here has none. "
            f"{remedy}, or choose a method without them, such as Custom Diffusion."
        )


def check_weight(config: Any, *names: str) -> None:
    """Raise ValueError where a weight of a loss is negative."""
    for name in names:
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}.")


def check_choice(config: Any, name: str, choices: Sequence[str]) -> None:
    """Raise ValueError where a setting is none of its choices."""
    if getattr(config, name) not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {getattr(config, name)!r}.")
