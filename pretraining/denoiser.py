"""Trains the UNet and the text tower together on cached latents."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
from torch.nn import functional as F

from detex_pack.detex.host.demo_model import build_clip, build_unet
from detex_pack.detex.host.towers import walk

from . import vae
from .captions import CaptionTokens, training_captions
from .common import Average, Clock, Team, device, initialise, learning_rate, load, restore, save
from .guide import SceneGuide
from .words import Meanings
from .worlds import Run, World

LATENTS = "latents.pt"
CHECKPOINT = "denoiser.pt"
TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# 64 channels, because GroupNorm's 32 groups make 32 channels an instance norm (see vae.py).
UNET_CONFIG: dict[str, Any] = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 2],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "legacy": False,
    "context_dim": 128,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "use_checkpoint": False,
}
_BATCH = 32
PEAK = 1.2e-3
_GAMMA = 5.0  # of min-SNR

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """The two networks that train together, and the host objects around them."""

    model: Any
    clip: Any
    tokens: CaptionTokens

    @property
    def unet(self) -> torch.nn.Module:
        return self.model.model.diffusion_model

    @property
    def tower(self) -> torch.nn.Module:
        return self.clip.cond_stage_model.clip_l.transformer.text_model

    def parameters(self) -> list[torch.nn.Parameter]:
        """All that trains, UNet first."""
        return [*self.unet.parameters(), *self.tower.parameters()]

    def context(self, captions: list[str], said: torch.Tensor) -> torch.Tensor:
        """Captions to context [B,77,C], with `said` [B,3,C] added to their [V], [P] and [B]."""
        ids = self.tokens.ids(captions)
        new = (ids[:, :, None] == self.tokens.new).to(said)
        return encode(self.tower, ids.to(said.device), new @ said)

    def alphas(self) -> torch.Tensor:
        """The host schedule's cumulative alphas, [1000]."""
        sigmas = self.model.model.model_sampling.sigmas
        return 1 / (1 + sigmas.square())


def build(world: World) -> Pair:
    """The host's UNet and text tower with starting values, ready to train."""
    clip = build_clip(TEXT_CONFIG, {})
    pair = Pair(build_unet(UNET_CONFIG, {}), clip, CaptionTokens(world, clip))
    few = comfy.ops.manual_cast.Embedding(len(pair.tokens.rows), TEXT_CONFIG["hidden_size"])
    pair.tower.embeddings.token_embedding = few
    initialise(pair.unet, seed=12)
    initialise(pair.tower, seed=13)
    for p in pair.parameters():
        p.requires_grad_(requires_grad=True)
    pair.unet.to(device()).to(memory_format=torch.channels_last)
    pair.tower.to(device())
    return pair


def encode(
    tower: torch.nn.Module, ids: torch.Tensor, added: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Token indices [B,77] to context [B,77,C]; as the host does, but with gradients.

    `added` [B,77,C] moves words off their rows.
    """
    hidden = walk(tower.encoder.layers, tower.embeddings(ids) + added)
    return tower.final_layer_norm(hidden)


# ---- latents -------------------------------------------------------------------------------------


@torch.no_grad()
def cache_latents(run: Run, count: int) -> None:
    """Renders `count` scenes, encodes them, and keeps latents of unit size."""
    world, model = run.world, vae.trained(run).to(memory_format=torch.channels_last)
    scenes = cached_scenes(world, count)
    latents, subjects, shares = [], [], []
    for start in range(0, count, 64):
        part = scenes.rows(slice(start, start + 64))
        images, subject = world.render(part)
        subjects.append(F.avg_pool2d(subject.unsqueeze(1), 4).half())
        shares.append(F.avg_pool2d(world.colour_shares(part), 4).half())
        x = vae.as_input(images).to(memory_format=torch.channels_last)
        latents.append(model.encode(x).cpu().contiguous())
        if start % 6400 == 0:
            log.info("latents %d of %d", start, count)
    raw = torch.cat(latents)
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    state: dict[str, Any] = {
        "latents": ((raw - mean[:, None, None]) / std[:, None, None]).half(),
        "subjects": torch.cat(subjects),
        "shares": torch.cat(shares),
        "mean": mean,
        "std": std,
    }
    save(run.file(LATENTS), state)
    log.info("latents: mean %s, std %s", mean.tolist(), std.tolist())


def cached_scenes(world: World, count: int) -> Any:
    """The scenes whose latents are cached: the same ones each time."""
    return world.sample_scenes(count, torch.Generator().manual_seed(41))


def cached(run: Run) -> dict[str, torch.Tensor]:
    """Latents [N,4,16,16], how much their cells matter [N,1,16,16], colour shares [N,S,16,16]."""
    return load(run.file(LATENTS), made_by="latents")


# ---- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Emphasis:
    """What the loss looks at more than plain epsilon prediction does.

    Place and shape are decided where there is much noise, and on the subject's few cells; without
    emphasis the background's texture drowns them (the position was not learned in 150,000
    pictures). It fades, so that the end of the run is nearly unbiased.
    """

    loud: float  # the power of (1 + sigma^2): 0 is epsilon prediction, 1 weighs like v prediction
    subject: float  # the extra weight of the subject's cells
    guide: float  # the weight of the auxiliary task
    early: float  # times are 1000 u^early: below 1 there are more of much noise

    @classmethod
    def at(cls, progress: float) -> Emphasis:
        """The emphasis at a share `progress` of the run."""
        late = max(0.0, (progress - 0.7) / 0.3)
        guide = min(1.0, max(0.0, (0.95 - progress) / 0.12))
        return cls(
            loud=1.0 - 0.8 * late,
            subject=4.0 - 2.0 * late,
            guide=guide,
            early=1.0 - 0.3 * guide,
        )


def loss(
    pair: Pair,
    latents: torch.Tensor,
    subject: torch.Tensor,
    context: torch.Tensor,
    emphasis: Emphasis,
    generator: torch.Generator,
) -> torch.Tensor:
    """Weighted epsilon prediction, times spread over the schedule within the batch.

    latents [B,4,16,16], subject [B,1,16,16] from 0 on, context [B,77,C].
    """
    count = len(latents)
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    times = (spread**emphasis.early * 1000).long().clamp(0, 999).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    alpha = pair.alphas().to(latents.device)[times].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    noisy = noisy.to(memory_format=torch.channels_last)
    predicted = pair.unet(noisy, times.float(), context=context)
    where = 1 + emphasis.subject * subject
    error = ((predicted - noise).square() * where).mean((1, 2, 3)) / where.mean((1, 2, 3))
    snr = (alpha / (1 - alpha)).flatten()
    weight = snr.clamp_max(_GAMMA) / snr * (1 + 1 / snr) ** emphasis.loud
    return (weight * error).mean() / 10


class Learner:
    """The two networks, what only helps them to learn, and the optimisers of both."""

    def __init__(self, run: Run, team: Team, peak: float) -> None:
        self.run, self.team, self.pair = run, team, build(run.world)
        self.parameters = self.pair.parameters()
        self.guide = SceneGuide(run.world, self.pair.unet)
        self.meanings = Meanings(run.world, TEXT_CONFIG["hidden_size"])
        self.helpers = [*self.guide.parameters(), *self.meanings.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        # At full speed from the first step on: until they know their part they only disturb.
        self.helping = torch.optim.AdamW(self.helpers, lr=PEAK)
        self.average = Average(self.parameters, 0.999)

    def losses(
        self,
        scenes: Any,
        latents: torch.Tensor,
        subject: torch.Tensor,
        shares: torch.Tensor,
        emphasis: Emphasis,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The diffusion loss and the guide's."""
        captions, meant = training_captions(self.run.world, scenes, generator)
        context = self.pair.context(captions, self.meanings(scenes, meant, generator))
        value = loss(self.pair, latents, subject, context, emphasis, generator)
        return value, self.guide.loss(scenes, shares)

    def learn(self, value: torch.Tensor, rate: float, step: int) -> None:
        """One step down `value`; `step` is its number, from 1."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        self.helping.zero_grad()
        value.backward()
        self.team.average_gradients([*self.parameters, *self.helpers])
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.helping.step()
        self.average.update(self.parameters, step)

    def resume(self, held: dict[str, Any]) -> None:
        """Takes a checkpoint's values; one of `unpack` holds the networks alone."""
        restore(self.parameters, held["model"])
        self.average.values = held["average"]
        if "optimiser" in held:
            for name, part in self._parts().items():
                part.load_state_dict(held[name])

    def keep(self, seconds: float, step: int) -> None:
        """Writes the checkpoint."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"model": [p.detach() for p in self.parameters], "average": self.average.values}
        save(self.run.file(CHECKPOINT), state | {"seconds": seconds, "step": step, "batch": _BATCH})

    def _parts(self) -> dict[str, Any]:
        return {
            "optimiser": self.optimiser,
            "helping": self.helping,
            "guide": self.guide,
            "meanings": self.meanings,
        }


def train(run: Run, minutes: float, steps: int, peak: float = PEAK) -> None:
    """Trains or goes on training, with a checkpoint every five minutes."""
    team = Team()
    learner, clock, step = Learner(run, team, peak), Clock(minutes, steps), 0
    if held := load(run.file(CHECKPOINT)):
        learner.resume(held)
        clock.spent, step = held["seconds"], held["step"]
    pool = cached(run)
    scenes = cached_scenes(run.world, len(pool["latents"]))
    generator = torch.Generator().manual_seed(51 + 1000 * step + team.rank)
    saved, running, begun = clock.seconds(), 0.0, step
    while (progress := team.agree(clock.progress(step))) < 1:
        emphasis = Emphasis.at(progress)
        index = torch.randint(len(scenes), (_BATCH // team.size,), generator=generator)
        given = [pool[n][index].float().to(device()) for n in ("latents", "subjects", "shares")]
        value, told = learner.losses(scenes.rows(index), *given, emphasis, generator)
        rate = learning_rate(peak, step - begun, progress, 300, 0.65)
        step += 1
        learner.learn(value + emphasis.guide * told, rate, step)
        running += (value.item() - running) / min(step - begun, 200)
        if team.leads and step % 100 == 0:
            figures = (step, clock.seconds(), running, told.item())
            log.info("denoiser step %d, %.0f s, loss %.4f, guide %.3f", *figures)
        if team.leads and clock.seconds() - saved > 300:
            saved = clock.seconds()
            learner.keep(saved, step)
    if team.leads:
        learner.keep(clock.seconds(), step)


def trained(run: Run) -> tuple[Pair, dict[str, Any]]:
    """The averaged networks of the checkpoint, and the checkpoint's figures."""
    held = load(run.file(CHECKPOINT), made_by="denoiser")
    pair = build(run.world)
    restore(pair.parameters(), held["average"])
    return pair, {key: held[key] for key in ("seconds", "step", "batch")}
