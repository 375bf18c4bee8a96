"""Writes the trained parts as one .safetensors in half precision, and takes them out again."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as as_bytes

from detex_pack.detex.concept.files import replace_file
from detex_pack.detex.host.demo_model import DEMO_MODEL_PATH, FORMAT, load_demo_model

from . import denoiser, vae, vision
from .common import device, save
from .worlds import Run

_ROW_SEED = 61
_TABLE = "text_model.embeddings.token_embedding.weight"

log = logging.getLogger(__name__)


def export(run: Run, path: Path) -> None:
    """Writes the averaged weights of all checkpoints to `path`."""
    pair, figures = denoiser.trained(run)
    held = denoiser.cached(run)
    scale = 1 / (held["std"] * vae.LATENT_SCALE)  # times SD1's scale, latents have unit size
    autoencoder = _rescaled(vae.trained(run), held["mean"], scale)
    parts = {"unet": pair.unet, "vae": autoencoder, "vision": vision.trained(run)}
    weights = {f"{p}.{name}": v for p, m in parts.items() for name, v in m.state_dict().items()}
    tower = pair.clip.cond_stage_model.clip_l.transformer
    table = tower.state_dict()[_TABLE]
    for name, value in tower.state_dict().items():
        if name not in (_TABLE, "text_projection.weight"):
            weights[f"text.clip_l.transformer.{name}"] = value
    halves = {k: v.detach().cpu().half().contiguous() for k, v in weights.items()}
    halves["rows"] = table.detach().cpu().half()
    halves["row_ids"] = pair.tokens.rows.int()
    configs = {
        "unet": denoiser.UNET_CONFIG,
        "text": denoiser.TEXT_CONFIG,
        "vae": vae.CONFIG,
        "vision": vision.CONFIG,
        "row_seed": _ROW_SEED,
        "preview": _preview_factors(run, autoencoder),
        "training": {"steps": figures["step"], "batch": figures["batch"]}
        | {"minutes": round(figures["seconds"] / 60, 1)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, as_bytes(halves, {"format": FORMAT, "configs": json.dumps(configs)}))
    log.info("wrote %s, %.1f MB, %s", path, path.stat().st_size / 1e6, configs["training"])


@torch.no_grad()
def unpack(run: Run, path: Path = DEMO_MODEL_PATH) -> None:
    """Turns the exported weights into checkpoints, so that training goes on in a fresh clone.

    The optimisers start anew; steps and seconds count on. Cache the latents afterwards.
    """
    with safe_open(path, framework="pt") as file:
        figures = json.loads(file.metadata()["configs"])["training"]
        rows = dict(zip(file.get_tensor("row_ids").tolist(), file.get_tensor("rows"), strict=True))
    demo = load_demo_model(path)
    seconds = 60 * figures["minutes"]
    spent = {"seconds": seconds, "step": figures["steps"], "batch": figures["batch"]}

    autoencoder = vae.build()
    autoencoder.load_state_dict(demo.vae.first_stage_model.state_dict(), strict=False)
    unit = torch.ones(4, device=device())
    _rescaled(autoencoder, 0 * unit, vae.LATENT_SCALE * unit)  # as while it trains
    values = [p.detach() for p in autoencoder.parameters()]
    state = {"model": autoencoder.state_dict(), "average": values, "seconds": 0.0, "step": 0}
    save(run.file(vae.CHECKPOINT), state)

    pair = denoiser.build(run.world)
    pair.unet.load_state_dict(demo.model.model.diffusion_model.state_dict())
    tower = demo.clip.cond_stage_model.clip_l.transformer.text_model.state_dict()
    table = pair.tower.embeddings.token_embedding.weight.detach().clone()
    for place, row in enumerate(pair.tokens.rows.tolist()):
        if row in rows:  # a word that captions use since then starts anew
            table[place] = rows[row].float()
    tower["embeddings.token_embedding.weight"] = table
    pair.tower.load_state_dict(tower)
    values = [p.detach() for p in pair.parameters()]
    save(run.file(denoiser.CHECKPOINT), {"model": values, "average": values, **spent})

    encoder = demo.clip_vision.model.state_dict()
    save(run.file(vision.CHECKPOINT), {"model": encoder, "seconds": 0.0, "step": 0})
    log.info("unpacked %s into %s", path, run.folder)


@torch.no_grad()
def _rescaled(model: torch.nn.Module, mean: torch.Tensor, scale: torch.Tensor) -> torch.nn.Module:
    """The same VAE with latents less `mean` [4] and times `scale` [4]."""
    outwards, inwards = model.quant_conv, model.post_quant_conv
    outwards.weight[:4] *= scale[:, None, None, None]
    outwards.bias[:4] = (outwards.bias[:4] - mean) * scale
    inwards.bias += inwards.weight[:, :, 0, 0] @ mean
    inwards.weight /= scale[None, :, None, None]
    return model


@torch.no_grad()
def _preview_factors(run: Run, model: torch.nn.Module) -> dict[str, Any]:
    """The best linear picture of a latent, as the host's previews use it."""
    scenes = run.world.any_scenes(64, torch.Generator().manual_seed(71))
    x = vae.as_input(run.world.render(scenes)[0])
    z = (model.encode(x) * vae.LATENT_SCALE).permute(0, 2, 3, 1).reshape(-1, 4)
    small = torch.nn.functional.avg_pool2d(x, 4).permute(0, 2, 3, 1).reshape(-1, 3)
    known = torch.cat((z, torch.ones(len(z), 1, device=z.device)), 1)
    fit = torch.linalg.lstsq(known, small).solution.cpu()
    return {"factors": fit[:4].tolist(), "bias": fit[4].tolist()}
