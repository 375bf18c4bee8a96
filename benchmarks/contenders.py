"""One training step of each contender on the same checkpoint, for benchmarks.train_step.

As a program it is a worker: it loads, answers a line, and takes one step for each line it reads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.images import latent_encoder
from detex_pack.detex.host.preflight import measure
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run

from .machine import device, matrix_rate, memory_now, operations, peak, reset_peak, timed

Step = Callable[[], float | None]  # its seconds, where it measures itself
SEED = 0
DETEX = DetexConfig.recommended()
PROMPT = "photo of a sks dog"


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common. photos: and as many prior images."""

    checkpoint: str
    pixels: int
    photos: int


def pictures(setting: Setting) -> Tensor:
    """Photos and prior images [2 * photos, S, S, 3]."""
    shape = (2 * setting.photos, setting.pixels, setting.pixels, 3)
    return torch.rand(shape, generator=torch.Generator().manual_seed(SEED))


def random_subject(photos: Tensor, encode: Callable[[Tensor], Tensor]) -> Photos:
    """The middle of each of `photos` [N, S, S, 3], with random image features."""
    count, side = photos.shape[:2]
    mask = torch.zeros(side, side)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    features = torch.randn(count, 768, generator=torch.Generator().manual_seed(SEED))
    return make_photos(
        list(photos), [mask] * count, lambda _: features, encode, "dog", resolution=side
    )


@contextmanager
def open_run(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    subject: Photos,
    prior: Tensor,
    config: DetexConfig,
    train: TrainConfig,
) -> Iterator[tuple[Run, ComfyDenoiser]]:
    """A run that can take its steps one by one."""
    shape = (2 * train.batch_size, *subject.latents.shape[-3:])
    with training_session(model, clip, shape) as (denoiser, text):
        method = Detex(subject, prior, config, train, denoiser, text)
        with denoiser.with_deltas(method.deltas, detach_start_token=config.detach_start_token):
            yield Run(method, denoiser, train), denoiser


def our_run(
    setting: Setting, config: DetexConfig
) -> AbstractContextManager[tuple[Run, ComfyDenoiser]]:
    """DETEX Train's run on random photos."""
    return open_run(*_run_inputs(setting, config))


def _run_inputs(
    setting: Setting, config: DetexConfig
) -> tuple[ModelPatcher, comfy.sd.CLIP, Photos, Tensor, DetexConfig, TrainConfig]:
    """What open_run takes: the checkpoint's models, random photos, and the configuration."""
    loaded: Any = comfy.sd.load_checkpoint_guess_config(setting.checkpoint)
    model, clip, vae, _ = loaded
    n = setting.photos
    photos, priors = pictures(setting).split(n)
    encode = latent_encoder(vae)
    subject = random_subject(photos, encode)
    prior = encode(priors)
    del loaded, vae
    model_management.unload_all_models()
    return model, clip, subject, prior, config, TrainConfig(batch_size=n, seed=SEED)


@contextmanager
def ours(
    setting: Setting, config: DetexConfig, *, checkpointing: bool = False
) -> Iterator[tuple[Step, dict[str, Any]]]:
    """DETEX Train's own step, what is held before training, and what the preflight foretells."""
    inputs = _run_inputs(setting, config)
    held = memory_now()
    with open_run(*inputs) as (run, denoiser):
        resident = memory_now()
        footprint = measure(run, denoiser)
        run.rewind()
        denoiser.gradient_checkpointing = checkpointing
        whole = footprint.bytes_for(setting.photos, checkpointing=checkpointing)
        yield run.take_step, {"held": held, "foretold": resident + whole}


@contextmanager
def diffusers(setting: Setting, *, cached_latents: bool) -> Iterator[tuple[Step, dict[str, Any]]]:
    """The step of diffusers' Custom Diffusion example, on diffusers' own classes.

    As there: the VAE encodes in each step (not where `cached_latents`), the whole token table has
    gradients and averages, K and V of every cross-attention are float32 copies.
    """
    unet, tower, vae = diffusers_models(setting.checkpoint)
    held = memory_now()
    trained = custom_diffusion_layers(unet)
    table = tower.get_input_embeddings().weight.requires_grad_()
    optimizer = torch.optim.AdamW([table, *trained], lr=1e-5 * setting.photos, weight_decay=1e-2)
    pixels = pictures(setting).movedim(-1, 1).to(device()) * 2 - 1
    tokens = torch.full((len(pixels), 77), 49407, device=device())
    tokens[:, :6] = torch.tensor([49406, 1125, 539, 320, 42170, 1929])
    on_card = device().type == "cuda"
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=device()).square()
    alphas = (1 - alphas).cumprod(0)

    def encode() -> Tensor:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=on_card):
            return vae.encode(pixels).latent_dist.sample() * 0.18215

    kept = encode() if cached_latents else None
    if cached_latents:
        vae.to("cpu")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=on_card):
            latents = encode() if kept is None else kept
            noise = torch.randn_like(latents)
            timesteps = torch.randint(1000, (len(latents),), device=latents.device)
            scale = alphas[timesteps].view(-1, 1, 1, 1)
            noisy = scale.sqrt() * latents + (1 - scale).sqrt() * noise
            context = tower(tokens)[0]
            answer = unet(noisy, timesteps, context).sample.float()
        photos, priors = (
            F.mse_loss(a, b) for a, b in zip(answer.chunk(2), noise.chunk(2), strict=True)
        )
        (photos + priors).backward()
        assert table.grad is not None
        table.grad[torch.arange(len(table)) != 42170] = 0
        torch.nn.utils.clip_grad_norm_([table, *trained], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    yield step, {"held": held}


def diffusers_models(checkpoint: str) -> tuple[Any, Any, Any]:
    """The checkpoint's UNet and text tower, and a VAE of the same size, in diffusers' classes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    weights: Any = comfy.utils.load_torch_file(checkpoint)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, norm_num_groups=32
    )
    layout = comfy.sd.model_detection.unet_config_from_diffusers_unet(unet.state_dict())
    names = comfy.utils.unet_to_diffusers(layout)
    prefix = "model.diffusion_model."
    known = {name: weights[prefix + own] for name, own in names.items() if prefix + own in weights}
    missing = unet.load_state_dict(known, strict=False).missing_keys
    if missing:
        raise ValueError(
            f"{checkpoint} has no {missing[0]}. Take a checkpoint of Stable Diffusion 1.5, such as "
            "python -m devtools.checkpoints writes."
        )
    tower: Any = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            eos_token_id=49407,
        )
    )
    prefix = "cond_stage_model.transformer."
    own = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
    stripped = {k.removeprefix("text_model."): w for k, w in own.items()}
    table = tower.state_dict()
    tower.load_state_dict({k: own.get(k, stripped.get(k)) for k in table}, strict=True)
    shape: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    vae = AutoencoderKL(**shape)
    precision = torch.float32 if device().type == "cpu" else torch.float16
    frozen: Any
    for frozen in (unet, vae):
        frozen.to(device(), precision).requires_grad_(requires_grad=False)
    return unet, tower.to(device()).requires_grad_(requires_grad=False), vae


def custom_diffusion_layers(unet: Any) -> list[Tensor]:
    """Put diffusers' own processors into the UNet -> their float32 K and V matrices."""
    from diffusers.models.attention_processor import (
        AttnProcessor2_0,
        CustomDiffusionAttnProcessor2_0,
    )

    processors, trained = {}, []
    for name in unet.attn_processors:
        layer = unet.get_submodule(name.removesuffix(".processor"))
        if not name.endswith("attn2.processor"):
            processors[name] = AttnProcessor2_0()
            continue
        processor = CustomDiffusionAttnProcessor2_0(
            train_kv=True,
            train_q_out=False,
            hidden_size=layer.inner_dim,
            cross_attention_dim=layer.cross_attention_dim,
        ).to(device())
        for mine, theirs in (("k", layer.to_k), ("v", layer.to_v)):
            matrix = getattr(processor, f"to_{mine}_custom_diffusion").weight
            matrix.data.copy_(theirs.weight)
            trained.append(matrix.requires_grad_())
        processors[name] = processor
    unet.set_attn_processor(processors)
    return trained


@contextmanager
def train_lora(setting: Setting) -> Iterator[tuple[Step, dict[str, Any]]]:
    """ComfyUI's own Train LoRA node. Its step cannot be had alone: the difference of two runs, long
    enough for the loading of a checkpoint, which varies, not to matter.
    """
    from comfy_extras.nodes_train import TrainLoraNode

    loaded: Any = comfy.sd.load_checkpoint_guess_config(setting.checkpoint)
    model, clip, vae, _ = loaded
    latents = latent_encoder(vae)(pictures(setting))
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    del loaded, vae, clip
    model_management.unload_all_models()
    settings = {
        "batch_size": 2 * setting.photos, "grad_accumulation_steps": 1,
        "learning_rate": 1e-5, "rank": 16, "optimizer": "AdamW", "loss_function": "MSE",
        "seed": SEED, "training_dtype": "fp32" if device().type == "cpu" else "bf16",
        "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": False, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
    }  # fmt: skip

    def seconds_of(steps: int) -> float:
        given = {"model": model, "latents": {"samples": latents}, "positive": positive}
        named = {name: [value] for name, value in (given | settings | {"steps": steps}).items()}
        return timed(lambda: TrainLoraNode.execute(**named))[0]

    more = 40 if device().type == "cuda" else 2

    def step() -> float:
        seconds = (seconds_of(1 + more) - seconds_of(1)) / more
        if seconds <= 0:
            raise RuntimeError("Train LoRA: its loading varied more than its steps took; again.")
        return seconds

    yield step, {"steps": 2 + more}


def contenders(setting: Setting) -> dict[str, Callable[[], Any]]:
    """By name: a context of (step, facts)."""
    return {
        "DETEX": lambda: ours(setting, DETEX),
        "DETEX, gradient checkpointing": lambda: ours(setting, DETEX, checkpointing=True),
        "Custom Diffusion, ours": lambda: ours(setting, CustomDiffusionConfig()),
        "Custom Diffusion, diffusers": lambda: diffusers(setting, cached_latents=False),
        "diffusers, latents kept": lambda: diffusers(setting, cached_latents=True),
        "Train LoRA, no checkpointing": lambda: train_lora(setting),
    }


def answer(out: Any, **facts: Any) -> None:
    print(json.dumps(facts), file=out, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("checkpoint")
    parser.add_argument("pixels", type=int)
    parser.add_argument("photos", type=int)
    options = parser.parse_args()
    out, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # others print too
    setting = Setting(options.checkpoint, options.pixels, options.photos)
    with contenders(setting)[options.name]() as (step, facts):
        flops = operations(step) / facts.get("steps", 1)  # warms up, too
        answer(out, flops=flops, **facts)
        rate = 0.0
        for _ in sys.stdin:
            rate = rate or matrix_rate()  # now, when no other contender computes
            reset_peak()
            seconds, own = timed(step)
            answer(out, seconds=own or seconds, peak=peak(), rate=rate)


if __name__ == "__main__":
    main()
