"""Prior images: what the untrained model makes of the class word, kept on disk."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as model_management
import comfy.sample
import comfy.sd
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ..canvas.pictures import as_image, as_picture
from . import paths
from .copies import check_foreign, injected
from .digest import hash_patcher, hash_tensor
from .families import check_text_to_image, fingerprint

log = logging.getLogger("detex")
FOLDER = "detex_prior"  # below ComfyUI's output folder


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """How the pictures are made (DETEX section 4.1: 50 DDIM steps, guidance 6)."""

    prompt: str
    resolution: int = 512  # pixels
    steps: int = 50
    cfg: float = 6.0
    sampler_name: str = "ddim"
    scheduler: str = "ddim_uniform"
    seed: int = 0  # picture k has the seed + k


def prior_folder(
    model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, config: PriorConfig
) -> Path:
    """Where the pictures of these models and settings lie; other ones have another folder."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    digest.update(f"{fingerprint(model)} {clip.layer_idx}".encode())
    for patcher in (model, clip.patcher, vae.patcher):
        hash_patcher(digest, patcher)
    sampling: Any = model.get_model_object("model_sampling")
    hash_tensor(digest, sampling.sigmas)
    name = f"{paths.plain_name(config.prompt)[:40]}_{digest.hexdigest()[:12]}".lstrip("_")
    return Path(folder_paths.get_output_directory()) / FOLDER / name


def picture_path(folder: Path, number: int) -> Path:
    return folder / f"{number + 1:05d}.png"


def read_picture(path: Path, resolution: int) -> Tensor | None:
    """[S, S, 3] in [0, 1]; None where the file is missing, broken or of another size."""
    try:
        with Image.open(path) as image:
            picture = as_image(image.convert("RGB"))
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError, ValueError) as error:
        log.warning("%s is broken and will be made again (%s)", path, error)
        return None
    return picture if picture.shape[:2] == (resolution, resolution) else None


def write_picture(path: Path, picture: Tensor) -> None:
    """Write [S, S, 3] as PNG in one step; what lies there by now was found broken."""
    content = io.BytesIO()
    as_picture(picture).save(content, "PNG")
    if paths.is_taken(path):
        path.unlink()
    try:
        paths.write_new(path, content.getvalue())
    except FileExistsError:  # another ComfyUI was faster with the very same picture
        log.info("%s was written by another process", path)


def found_pictures(folder: Path, count: int) -> int:
    """How many of `count` are on disk."""
    return sum(picture_path(folder, number).is_file() for number in range(count))


def chunks_of(missing: Sequence[int], count: int, size: int) -> list[range]:
    """The batches that hold a missing picture. They are cut the same way whatever is missing, so
    that a resumed set equals one made in one go.
    """
    starts = sorted({number // size * size for number in missing})
    return [range(start, min(start + size, count)) for start in starts]


Report = Callable[[int, int, Tensor | None], None]  # done, of all, the newest picture [S, S, 3]


def prior_pictures(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    vae: comfy.sd.VAE,
    config: PriorConfig,
    count: int,
    batch_size: int,
    report: Report,
    *,
    positive: list | None = None,
    folder: Path | None = None,
) -> tuple[Tensor, Path, int]:
    """All `count` pictures [N, S, S, 3]; only what is missing on disk is made.

    positive: the prompt's CONDITIONING, where it has learned words; it then needs a folder of its
    own, as the words are in no hash here.

    Each batch is on disk before the next one starts: a cancel or crash loses one batch.
    -> the pictures, their folder, how many were made.
    """
    check_text_to_image(model)
    for patcher, socket in ((model, "MODEL"), (clip.patcher, "CLIP")):
        check_foreign(injected(patcher), socket)  # DETEX Train refuses them, too
    folder = folder or prior_folder(model, clip, vae, config)
    found = [read_picture(picture_path(folder, k), config.resolution) for k in range(count)]
    pictures: dict[int, Tensor] = {k: p for k, p in enumerate(found) if p is not None}
    missing = [k for k in range(count) if k not in pictures]
    if missing:
        plain, empty = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for text in ("" if positive else config.prompt, "")
        )
        conditioning = [positive or plain, empty]
    for numbers in chunks_of(missing, count, batch_size):
        done = len(pictures)
        progress = {"done": done * config.steps, "all": count * config.steps}
        latents = sample_chunk(model, conditioning, config, numbers, report, progress)
        made = decode(vae, latents, config.resolution)
        for number, picture in zip(numbers, made, strict=True):
            if number not in pictures:
                write_picture(picture_path(folder, number), picture)
                pictures[number] = as_image(as_picture(picture))
        report(len(pictures) * config.steps, progress["all"], pictures[numbers[-1]])
    return torch.stack([pictures[k] for k in range(count)]), folder, len(missing)


def sample_chunk(
    model: ModelPatcher,
    conditioning: Sequence[list],
    config: PriorConfig,
    numbers: range,
    report: Report,
    progress: Mapping[str, int],
) -> Tensor:
    """Latents of the pictures `numbers`, by ComfyUI's sampler, each from its own seed."""
    model_management.throw_exception_if_processing_interrupted()
    latent_format: Any = model.get_model_object("latent_format")
    side = config.resolution // getattr(latent_format, "spacial_downscale_ratio", 8)
    shape = (1, latent_format.latent_channels, side, side)
    noise = torch.cat(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(config.seed + k))
            for k in numbers
        ]
    )

    def on_step(step: int, *_: Any) -> None:
        report(progress["done"] + (step + 1) * len(numbers), progress["all"], None)

    return comfy.sample.sample(
        model,
        noise,
        config.steps,
        config.cfg,
        config.sampler_name,
        config.scheduler,
        conditioning[0],
        conditioning[1],
        torch.zeros_like(noise),
        callback=on_step,
        disable_pbar=True,
        seed=config.seed + numbers[0],
    )


def decode(vae: comfy.sd.VAE, latents: Tensor, resolution: int) -> Tensor:
    """Latents -> pictures [B, S, S, 3]. Raises ValueError for a VAE of another kind or for NaN."""
    pictures = vae.decode(latents)
    if pictures.shape[1:3] != (resolution, resolution):
        raise ValueError(
            f"The VAE made pictures of {pictures.shape[2]}x{pictures.shape[1]} pixels where "
            f"{resolution}x{resolution} were asked for. Wire the VAE of this checkpoint, and make "
            "the resolution a multiple of 64."
        )
    if not torch.isfinite(pictures).all():
        raise ValueError(
            "The pictures are NaN. Start ComfyUI with --fp32-vae, or with --force-fp32 where the "
            "MODEL is the cause."
        )
    return pictures[..., :3].float().cpu()
