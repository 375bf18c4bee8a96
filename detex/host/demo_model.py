"""The pack's own small text-to-image model, built from ComfyUI's classes.

One .safetensors holds everything: `unet.`, `text.`, `vae.` and `vision.` weights in half
precision, the token rows that the training captions used, and the configurations as metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import torch
from comfy.supported_models_base import ClipTarget
from safetensors import SafetensorError, safe_open

DEMO_MODEL_PATH = Path(__file__).resolve().parents[1] / "toys" / "base_model.safetensors"
FORMAT = "detex-demo-model-1"

Config = Mapping[str, Any]
Weights = dict[str, torch.Tensor]

_TABLE = "clip_l.transformer.text_model.embeddings.token_embedding.weight"
_PROJECTION = "clip_l.transformer.text_projection.weight"
_VOCABULARY = 49408


@dataclass(frozen=True)
class DemoModel:
    """What a checkpoint loader would hand out, and the image encoder beside it."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    clip_vision: comfy.clip_vision.ClipVisionModel


class DemoLatent(comfy.latent_formats.SD15):
    """SD1's latent scale on latents of a quarter of the picture's side."""

    spacial_downscale_ratio = 4

    def __init__(self) -> None:
        super().__init__()
        self.taesd_decoder_name = None


class DemoSD15(comfy.supported_models.SD15):
    """SD1's layout at a size that trains on a desk."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}  # noqa: RUF012
    latent_format = DemoLatent


def load_demo_model(path: Path | str = DEMO_MODEL_PATH) -> DemoModel:
    """Loads the demo model as host objects, ready for the stock nodes.

    Raises FileNotFoundError or ValueError, saying what to do, where the file is not usable.
    """
    path = str(path)
    weights, configs = _read(path)
    return DemoModel(
        model=_model(path, weights, configs),
        clip=_load_clip(path, weights, configs),
        vae=build_vae(configs["vae"], _part(weights, "vae.")),
        clip_vision=build_vision(configs["vision"], _part(weights, "vision.")),
    )


def build_unet(
    config: Config,
    weights: Weights,
    disable_dynamic: bool = False,  # noqa: FBT001, FBT002
) -> comfy.model_patcher.ModelPatcher:
    """A host MODEL around the given UNet weights; none for a model still to be trained."""
    device = comfy.model_management.get_torch_device()
    offload = comfy.model_management.unet_offload_device()
    settings = DemoSD15(dict(config))
    settings.set_inference_dtype(torch.float32, None)
    model = settings.get_model({}, "", offload)
    patcher = _patcher_class(disable_dynamic=disable_dynamic)(
        model, load_device=device, offload_device=offload
    )
    if weights:
        model.load_model_weights(dict(weights), "", assign=patcher.is_dynamic())
    return patcher


def build_clip(
    config: Config,
    weights: Weights,
    disable_dynamic: bool = False,  # noqa: FBT001, FBT002
) -> comfy.sd.CLIP:
    """A host CLIP around the given text weights; none for a model still to be trained."""
    options = {"clip_l_model_config": dict(config), "dtype": torch.float32}
    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=_embedding_folders(),
        state_dict=dict(weights),
        model_options=options,
        disable_dynamic=disable_dynamic,
    )
    clip.tokenizer.clip_l.embedding_size = config["hidden_size"]
    return clip


def build_vae(config: Config, weights: Weights) -> comfy.sd.VAE:
    """A host VAE around the given AutoencoderKL weights."""
    settings = {"params": dict(config["params"])}
    vae = comfy.sd.VAE(sd=dict(weights), config=settings, dtype=torch.float32)
    vae.downscale_ratio = vae.upscale_ratio = config["downscale_ratio"]
    return vae


def build_vision(config: Config, weights: Weights) -> comfy.clip_vision.ClipVisionModel:
    """A host CLIP_VISION around the given weights; none for a model still to be trained."""
    with TemporaryDirectory() as folder:  # older hosts read a file, newer ones a dictionary too
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(dict(config)), encoding="utf-8")
        vision = comfy.clip_vision.ClipVisionModel(str(file))
    if weights:
        vision.load_sd(dict(weights))
    return vision


def grow_token_table(rows: torch.Tensor, ids: torch.Tensor, seed: int) -> torch.Tensor:
    """The full token table: the stored rows [N,C] at `ids` [N], noise of their size elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(_VOCABULARY, rows.shape[1], generator=generator)
    table *= rows.square().mean().sqrt()
    table[ids.long()] = rows
    return table


def _patcher_class(*, disable_dynamic: bool) -> type[comfy.model_patcher.ModelPatcher]:
    if disable_dynamic:
        return comfy.model_patcher.ModelPatcher
    return comfy.model_patcher.CoreModelPatcher


def _embedding_folders() -> list[str]:
    """Where `embedding:name` looks, as for every other CLIP of this host."""
    import folder_paths  # noqa: PLC0415  (reads the command line when imported)

    return folder_paths.get_folder_paths("embeddings")


def _load_unet(path: str, *, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return _model(path, *_read(path), disable_dynamic=disable_dynamic)


def _model(
    path: str, weights: Weights, configs: Config, *, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    unet = _part(weights, "unet.")
    patcher = build_unet(configs["unet"], unet, disable_dynamic=disable_dynamic)
    latent = patcher.model.latent_format
    latent.latent_rgb_factors = configs["preview"]["factors"]
    latent.latent_rgb_factors_bias = configs["preview"]["bias"]
    return _with_source(patcher, _load_unet, path)


def _load_text(path: str, *, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    weights, configs = _read(path)
    return _load_clip(path, weights, configs, disable_dynamic=disable_dynamic).patcher


def _load_clip(
    path: str,
    weights: Weights,
    configs: Config,
    disable_dynamic: bool = False,  # noqa: FBT001, FBT002
) -> comfy.sd.CLIP:
    text = _part(weights, "text.")
    text[_TABLE] = grow_token_table(weights["rows"], weights["row_ids"], configs["row_seed"])
    text[_PROJECTION] = torch.eye(configs["text"]["hidden_size"])
    clip = build_clip(configs["text"], text, disable_dynamic=disable_dynamic)
    _with_source(clip.patcher, _load_text, path)
    return clip


def _with_source(
    patcher: comfy.model_patcher.ModelPatcher, loader: Any, path: str
) -> comfy.model_patcher.ModelPatcher:
    """Tells the host how to load the same weights afresh, as its own loaders do."""
    patcher.cached_patcher_init = (loader, (path,))
    return patcher


def _part(weights: Weights, prefix: str) -> Weights:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _read(path: str) -> tuple[Weights, Config]:
    """Every tensor in float32 (ids as they are) and the configurations."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"The demo model is missing: {path}. Reinstall the pack, or train it with "
            "`python -m pretraining.base_model`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): reinstall the pack.") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no DETEX demo model ({FORMAT}): reinstall the pack.")
    floats = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    return floats, json.loads(metadata["configs"])
