"""DETEX (arXiv 2312.11826), section 3; with every addition off it is Custom Diffusion.

Joint training (3.3): with chance gamma a sample is the subject alone on a blank background, under
a prompt without [B]. Cross-attention loss (3.4): [P] attends to the subject, [B] to the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..evaluate.scores import half_maximum_iou
from ..photos.subject import Subject, latent_grid, subject_cells
from ..prompt.grammar import PromptTokens, training_prompt
from ..prompt.words import RARE_ROWS, WordAnchors, Words
from ..training.config import DetexConfig, TrainConfig
from ..unet.attention import AttentionTap
from ..unet.condition import Condition, joined, whole_picture
from ..unet.deltas import make_deltas
from ..unet.interfaces import Denoiser, TextEncoder
from ..unet.losses import attention_loss, diffusion_loss, map_loss
from ..unet.schedules import add_noise
from ..unet.transfer import sent


@dataclass(frozen=True)
class Batch:
    """B photos, then as many prior images where there are any."""

    photos: Tensor  # [B] indices
    blanked: Tensor  # [B] bool
    latents: Tensor  # [B + R, 4, h, w]
    masks: Tensor  # [B, h, w]
    valid: Tensor  # [B + R, h, w]
    sizes: Tensor  # [B + R, 6]
    prompts: tuple[PromptTokens, ...]  # of the photos

    @property
    def count(self) -> int:
        return len(self.photos)

    def split(self, parts: int) -> Iterator[tuple[Tensor | slice, "Batch"]]:
        """Parts of about the same size, each photo with its prior image: (index of their rows in
        this batch, part).
        """
        if parts == 1:
            yield slice(None), self
            return
        for photos in torch.arange(self.count).chunk(parts):
            pairs = len(self.latents) > self.count
            rows = torch.cat([photos, photos + self.count]) if pairs else photos
            of_photos, of_rows = sent(photos, self.photos.device), sent(rows, self.photos.device)
            yield (
                rows,
                Batch(
                    photos=self.photos[of_photos],
                    blanked=self.blanked[of_photos],
                    latents=self.latents[of_rows],
                    masks=self.masks[of_photos],
                    valid=self.valid[of_rows],
                    sizes=self.sizes[of_rows],
                    prompts=tuple(self.prompts[i] for i in photos.tolist()),
                ),
            )


class Detex:
    """One subject's training: what is learned, what a batch is, what it costs."""

    def __init__(
        self,
        subject: Subject,
        prior_latents: Tensor | None,  # [R, 4, h, w]
        config: DetexConfig,
        train: TrainConfig,
        denoiser: Denoiser,
        text: TextEncoder,
    ):
        self.subject, self.config, self.train_config, self.text = subject, config, train, text
        self.device = denoiser.device
        self.prior_latents = prior_latents if config.prior_weight else None
        rank, rank_rng = train.rank or denoiser.rank, torch.Generator().manual_seed(train.seed + 4)
        self.deltas = make_deltas(denoiser.kv_shapes, rank, rank_rng, self.device)
        anchors = WordAnchors(
            {role: text.embedding_row(row) for role, row in RARE_ROWS.items()}, text.embedding_rms()
        )
        self.words = Words(
            subject.features,
            anchors,
            config.attributes,
            torch.Generator().manual_seed(train.seed),
            plain=config.plain_mapper,
            center=config.center_features,
            center_poses=config.center_poses,
        ).to(self.device)
        self.photo_rng = torch.Generator().manual_seed(train.seed + 1)
        self.gamma_rng = torch.Generator().manual_seed(train.seed + 2)  # of its own: gamma may be 0
        self.weights = {
            "diffusion": 1.0,
            "prior": config.prior_weight,
            "attention": config.attention_weight,
        }
        self.modules = {"deltas": self.deltas, "words": self.words}
        self.generators = {"photos": self.photo_rng, "gamma": self.gamma_rng}
        self._prompts: dict[str, PromptTokens] = {}
        self._prior_cond: Condition | None = None

    def parameter_groups(self) -> list[dict]:
        """The optimiser's groups, each with its rate; what has none is frozen."""
        train, rate = self.train_config, self.train_config.effective_rate
        groups = [
            {"params": list(self.deltas.parameters()), "lr": rate * train.kv_rate},
            {"params": [self.words.subject], "lr": rate * train.token_rate},
            {"params": list(self.words.attributes.parameters()), "lr": rate * train.mapper_rate},
        ]
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(group["lr"] > 0)
        return [group for group in groups if group["params"] and group["lr"]]

    def sample_batch(self) -> Batch:
        """Photos in turn, none again before all have been taken, each blanked or not."""
        size, subject = self.train_config.batch_size, self.subject
        rounds = range(-(-size // subject.count))
        turns = [torch.randperm(subject.count, generator=self.photo_rng) for _ in rounds]
        photos = torch.cat(turns)[:size]
        copies = torch.randint(subject.latents.shape[1], (size,), generator=self.photo_rng)
        blanked = torch.rand(size, generator=self.gamma_rng) < self.config.gamma
        picked = subject.latents[photos, copies], subject.blanked[photos, copies]
        latents = torch.where(blanked[:, None, None, None], picked[1], picked[0])
        masks, sizes = subject.masks[photos, copies], subject.sizes[photos, copies]
        valid = torch.where(
            blanked[:, None, None], torch.ones_like(masks), subject.valid[photos, copies]
        )
        if self.prior_latents is not None:
            chosen = torch.randint(len(self.prior_latents), (size,), generator=self.photo_rng)
            latents = torch.cat([latents, self.prior_latents[chosen]])
            valid = torch.cat([valid, torch.ones_like(valid)])
            side = subject.resolution
            sizes = torch.cat([sizes, whole_picture(size, side, side)])
        prompts = tuple(
            self.prompt(subject.prefixes[int(i)][int(k)], blanked=bool(b))
            for b, i, k in zip(blanked, photos, copies, strict=True)
        )
        drawn = (photos, blanked, latents, masks, valid, sizes)
        tensors = (sent(t, self.device) for t in drawn)
        return Batch(*tensors, prompts=prompts)

    def cond(self, batch: Batch) -> Condition:
        """B + R conditions, the learned words in place."""
        cond = self.text.encode(batch.prompts, self.words.of_photos(batch.photos))
        prior = len(batch.latents) - batch.count
        if prior:
            cond = joined(cond, self.prior_cond().expand(prior))
        return replace(cond, sizes=batch.sizes)

    def prior_cond(self) -> Condition:
        """That of the class alone."""
        if self._prior_cond is None:  # frozen tower, no learned word: the same every step
            caption = training_prompt(self.subject.class_word, self.subject.attribute, ())
            with torch.no_grad():
                self._prior_cond = self.text.encode([self.text.tokenize(caption)], [{}])
        return self._prior_cond

    def tap(self, batch: Batch) -> AttentionTap | None:
        """The maps that the attention loss needs: half the latent side, photos only."""
        if not self.config.attention_weight:
            return None
        h, w = batch.latents.shape[-2:]
        return AttentionTap(grid=(h // 2, w // 2), rows=batch.count)

    def loss_terms(
        self, batch: Batch, output: Tensor, target: Tensor, tap: AttentionTap | None
    ) -> dict[str, Tensor]:
        """L_LDM, L_pr and L_CA of Eq. (5), unweighted scalars."""
        n, valid = batch.count, batch.valid
        if self.config.masked_loss:
            alone = torch.where(batch.blanked[:, None, None], batch.masks, 1.0)
            valid = torch.cat([valid[:n] * alone, valid[n:]])
        photo = diffusion_loss(output[:n], target[:n], valid[:n], self.config.reduction)
        terms = {"diffusion": photo.mean()}
        if len(output) > n:
            terms["prior"] = diffusion_loss(output[n:], target[n:], valid[n:]).mean()
        if tap is not None:
            terms["attention"] = self._attention_term(batch, tap)
        return terms

    def _attention_term(self, batch: Batch, tap: AttentionTap) -> Tensor:
        subject = subject_cells(batch.masks, tap.grid).float()
        valid = (latent_grid(batch.valid[: batch.count], tap.grid) > 0.999).float()
        how, norm = self.config.attention_map, self.config.attention_norm
        pose = map_loss(token_maps(tap, batch.prompts, "P"), subject, valid, how, norm)
        if not self.config.masked_pose:
            pose = pose * ~batch.blanked
        if self.config.subject_attention:
            pose = pose + map_loss(token_maps(tap, batch.prompts, "V"), subject, valid, how, norm)
        # blanked prompts have no [B]: position 0 stands in, and its term is dropped
        background = map_loss(token_maps(tap, batch.prompts, "B"), 1 - subject, valid, how, norm)
        return attention_loss(pose, torch.where(batch.blanked, 0.0, background))

    @torch.no_grad()
    def preview_conds(self) -> dict[str, Condition]:
        """Prompts that show how far the words have come, by caption; "" is the empty one.

        [V] alone; and with the words of photo 1, where photos have words.
        """
        subject, words = self.subject, self.words.of_photos(torch.zeros(1, dtype=torch.long))
        roles = {"[V]": {"V"}}
        if self.words.attributes:
            roles["[V] + [P1] + [B1]"] = {"V", "P", "B"}
        texts = {
            caption: training_prompt(subject.class_word, subject.attribute, used)
            for caption, used in roles.items()
        }
        return {
            caption: self.text.encode([self.text.tokenize(text)], words)
            for caption, text in {"": "", **texts}.items()
        }

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return tuple(self.subject.latents.shape[-3:])

    def prompt(self, prefix: str, *, blanked: bool) -> PromptTokens:
        """y, or y' without [B] where `blanked`; tokenised once."""
        words = {"V", *self.words.attributes} - ({"B"} if blanked else set())
        text = training_prompt(self.subject.class_word, self.subject.attribute, words, prefix)
        if text not in self._prompts:
            self._prompts[text] = self.text.tokenize(text)
        return self._prompts[text]


def token_maps(tap: AttentionTap, prompts: Sequence[PromptTokens], word: str) -> Tensor:
    """The map [B, h, w] of `word` in each prompt; of the start token where a prompt lacks it."""
    return tap.token_map(torch.tensor([p.position(word) or 0 for p in prompts]))


@torch.no_grad()
def attention_overlap(method: Detex, denoiser: Denoiser) -> dict[str, float]:
    """How well the maps of [P] and [B] lie on the subject and off it: mean IoU at half maximum.

    Empty where the method has no [P] and [B].
    """
    if not method.words.attributes:
        return {}
    scores: dict[str, list[Tensor]] = {"pose": [], "background": []}
    with denoiser.with_deltas(method.deltas, detach_start_token=False):
        for maps, inside in photo_maps(method, denoiser, ("P", "B")):
            scores["pose"].append(half_maximum_iou(maps["P"], inside))
            scores["background"].append(half_maximum_iou(maps["B"], ~inside))
    return {name: torch.cat(values).mean().item() for name, values in scores.items()}


@torch.no_grad()
def photo_maps(
    method: Detex, denoiser: Denoiser, words: Sequence[str]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Each word's maps [N, h, w] of all photos, and where their subjects are, [N, h, w] bool.

    Unblanked, at a quarter and a half of the schedule, with noise of seed 0; a photo at a time,
    whatever memory a step has. words: of those in the training prompt. The deltas count as far as
    the caller has put them on (`with_deltas`).
    """
    subject = method.subject
    latents = subject.latents[:, 0].to(method.device)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    grid = (latents.shape[-2] // 2, latents.shape[-1] // 2)
    inside = subject_cells(subject.masks[:, 0], grid).to(method.device)
    prompts = [method.prompt(prefixes[0], blanked=False) for prefixes in subject.prefixes]
    photos = torch.arange(subject.count, device=method.device)
    cond = method.text.encode(prompts, method.words.of_photos(photos))
    cond = replace(cond, sizes=subject.sizes[:, 0].to(method.device))
    for part in (0.25, 0.5):
        step = int(part * len(denoiser.sigmas))
        sigma = denoiser.sigmas[step].to(latents).view(1)
        time = torch.tensor([float(step)], device=method.device)
        maps: dict[str, list[Tensor]] = {word: [] for word in words}
        for i in range(subject.count):
            one, tap = slice(i, i + 1), AttentionTap(grid=grid, rows=1)
            denoiser.predict(add_noise(latents[one], noise[one], sigma), time, cond.rows(one), tap)
            for word, seen in maps.items():
                seen.append(token_maps(tap, prompts[one], word))
        yield {word: torch.cat(seen) for word, seen in maps.items()}, inside
