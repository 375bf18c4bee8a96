"""One training step of ours and of others at the same sizes, for benchmarks.speed.contenders.

As a program it is a worker (benchmarks.workers): it tells its facts, and takes a step when asked.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import comfy.model_management as model_management
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detex_pack.detex.host.images import latent_encoder
from detex_pack.detex.host.preflight import measure
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig

from ..workers import serve, take_stdout
from .measure import device, matrix_rate, memory_now, operations, peak, reset_peak, timed
from .runs import DETEX, SEED, encoded, loaded, open_run, random_pictures, real_inputs

Step = Callable[[], float | None]  # its seconds, where it measures itself
Rival = AbstractContextManager[tuple[Step, dict[str, Any]]]  # a step, and facts about it
PROMPT = "photo of a sks dog"
START, END, SKS = 49406, 49407, 42170
TOKENS = (START, 1125, 539, 320, SKS, 1929)  # of the prompt, for diffusers' text tower


@contextmanager
def ours(
    options: Namespace, config: Any = DETEX, *, checkpointing: bool = False
) -> Iterator[tuple[Step, dict[str, Any]]]:
    """DETEX Train's own step, what is held before training, and what the preflight foretells."""
    inputs = real_inputs(options, config)
    held = memory_now()
    with open_run(*inputs) as (run, denoiser):
        resident = memory_now()
        footprint = measure(run, denoiser)
        run.rewind()
        denoiser.gradient_checkpointing = checkpointing
        whole = footprint.bytes_for(options.photos, checkpointing=checkpointing)
        yield run.take_step, {"held": held, "foretold": resident + whole}


@contextmanager
def diffusers_example(
    options: Namespace, *, latents_kept: bool = False
) -> Iterator[tuple[Step, dict[str, Any]]]:
    """The step of diffusers' Custom Diffusion example, on diffusers' own classes.

    As there: the VAE encodes in each step (not where `latents_kept`), the whole token table has
    gradients and averages, K and V of every cross-attention are float32 copies. The weights are
    random, of Stable Diffusion 1.5's shapes: no figure depends on their values.
    """
    unet, tower, vae = diffusers_models()
    held = memory_now()
    table = tower.get_input_embeddings().weight.requires_grad_()
    trained = [table, *custom_diffusion_layers(unet)]
    optimizer = torch.optim.AdamW(trained, lr=1e-5 * options.photos, weight_decay=1e-2)
    pictures = random_pictures(2 * options.photos, options.pixels)
    pictures = pictures.movedim(-1, 1).to(device()) * 2 - 1
    tokens = torch.full((len(pictures), 77), END, device=device())
    tokens[:, : len(TOKENS)] = torch.tensor(TOKENS)
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=device()).square()
    alphas = (1 - alphas).cumprod(0)
    autocast = partial(torch.autocast, "cuda", torch.bfloat16, enabled=device().type == "cuda")

    @torch.no_grad()
    def encode() -> Tensor:
        with autocast():
            return vae.encode(pictures).latent_dist.sample() * 0.18215

    kept = encode() if latents_kept else None
    if latents_kept:
        vae.to("cpu")

    def step() -> None:
        with autocast():
            latents = encode() if kept is None else kept
            noise = torch.randn_like(latents)
            timesteps = torch.randint(1000, (len(latents),), device=latents.device)
            scale = alphas[timesteps].view(-1, 1, 1, 1)
            noisy = scale.sqrt() * latents + (1 - scale).sqrt() * noise
            answer = unet(noisy, timesteps, tower(tokens)[0]).sample.float()
        halves = zip(answer.chunk(2), noise.chunk(2), strict=True)
        photo, prior = (F.mse_loss(predicted, target) for predicted, target in halves)
        (photo + prior).backward()
        assert table.grad is not None
        table.grad[torch.arange(len(table)) != SKS] = 0
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    yield step, {"held": held}


def diffusers_models() -> tuple[Any, Any, Any]:
    """UNet, text tower and VAE of Stable Diffusion 1.5's shapes; only the tower is in float32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    wide: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "eos_token_id": END}
    deep: dict[str, Any] = {"num_hidden_layers": 12, "num_attention_heads": 12}
    vae: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    half = torch.float32 if device().type == "cpu" else torch.float16
    models: Any = (
        (UNet2DConditionModel(sample_size=64, cross_attention_dim=768), half),
        (CLIPTextModel(CLIPTextConfig(**wide, **deep)), torch.float32),
        (AutoencoderKL(**vae), half),
    )
    unet, tower, encoder = (
        model.to(device(), kind).requires_grad_(requires_grad=False) for model, kind in models
    )
    return unet, tower, encoder


def custom_diffusion_layers(unet: Any) -> list[Tensor]:
    """Put diffusers' own processors into the UNet -> their float32 K and V matrices."""
    from diffusers.models import attention_processor as diffusers

    processors, trained = {}, []
    for name in unet.attn_processors:
        if not name.endswith("attn2.processor"):
            processors[name] = diffusers.AttnProcessor2_0()
            continue
        layer = unet.get_submodule(name.removesuffix(".processor"))
        processor = diffusers.CustomDiffusionAttnProcessor2_0(
            train_kv=True,
            train_q_out=False,
            hidden_size=layer.inner_dim,
            cross_attention_dim=layer.cross_attention_dim,
        ).to(device())
        trained += processor.parameters()
        processors[name] = processor
    unet.set_attn_processor(processors)
    return trained


@contextmanager
def train_lora(options: Namespace) -> Iterator[tuple[Step, dict[str, Any]]]:
    """ComfyUI's own Train LoRA node. Its step cannot be had alone: the difference of two runs, long
    enough for the loading of a checkpoint, which varies, not to matter.
    """
    from comfy_extras.nodes_train import TrainLoraNode

    model, clip, vae = loaded(options.checkpoint)
    latents = latent_encoder(vae)(random_pictures(2 * options.photos, options.pixels))
    settings = {
        "model": model, "latents": {"samples": latents}, "positive": encoded(clip, PROMPT)[0],
        "batch_size": 2 * options.photos, "grad_accumulation_steps": 1,
        "learning_rate": 1e-5, "rank": 16, "optimizer": "AdamW", "loss_function": "MSE",
        "seed": SEED, "training_dtype": "fp32" if device().type == "cpu" else "bf16",
        "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": False, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
    }  # fmt: skip
    del clip, vae
    model_management.unload_all_models()

    def seconds_of(steps: int) -> float:
        named = {name: [value] for name, value in (settings | {"steps": steps}).items()}
        return timed(lambda: TrainLoraNode.execute(**named))[0]

    more = 40 if device().type == "cuda" else 2

    def step() -> float:
        seconds = (seconds_of(1 + more) - seconds_of(1)) / more
        if seconds <= 0:
            raise RuntimeError("Train LoRA: its loading varied more than its steps took; again.")
        return seconds

    yield step, {"steps": 2 + more}


RIVALS: dict[str, Callable[[Namespace], Rival]] = {
    "DETEX": ours,
    "DETEX, gradient checkpointing": partial(ours, checkpointing=True),
    "Custom Diffusion, ours": partial(ours, config=CustomDiffusionConfig()),
    "Custom Diffusion, diffusers": diffusers_example,
    "diffusers, latents kept": partial(diffusers_example, latents_kept=True),
    "Train LoRA, no checkpointing": train_lora,
}


def main() -> None:
    answers = take_stdout()
    name, checkpoint, pixels, photos = sys.argv[1:]
    options = Namespace(checkpoint=checkpoint, pixels=int(pixels), photos=int(photos))
    with RIVALS[name](options) as (step, facts):
        flops = operations(step) / facts.get("steps", 1)  # warms up, too

        def answer(question: str) -> dict[str, Any]:
            if question == "facts":
                return facts | {"flops": flops, "rate": matrix_rate()}
            reset_peak()
            seconds, own = timed(step)
            return {"seconds": own or seconds, "peak": peak()}

        serve(answer, answers)


if __name__ == "__main__":
    main()
