"""Encoders from a folder of weights as Hugging Face lays it out, for the papers' own numbers: CLIP
ViT-B/32 and DINO ViT-S/16, which ComfyUI does not load. Nothing is ever downloaded.

Preparation is that of the papers' evaluations: CLIP, shorter side to 224; DINO, shorter side to 256
(DreamBooth's and Custom Diffusion's scripts); then the middle square of 224.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoder import Encoder, Reader, weights_hash


class Preparation(NamedTuple):
    """How a picture becomes what an encoder reads."""

    shorter: int  # pixels, of the shorter side
    side: int  # of the square in its middle
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CLIP = Preparation(
    224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
DINO = Preparation(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DINO_MODELS = {"vit": "ViTModel", "dinov2": "Dinov2Model"}  # by the config's model_type
TEXTS_AT_ONCE = 32
PICTURES_AT_ONCE = 16


def folder_encoder(folder: Path | str, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in a folder with config.json, weights and, of CLIP, the tokenizer's files.

    Raises ValueError for a folder that is not there, is of another kind or holds other weights than
    its config says, ImportError where transformers is not installed.
    """
    path = Path(str(folder).strip().strip("\"'")).expanduser()
    kind = model_type(path)
    package = transformers()
    if kind == "clip":
        return clip_encoder(package, path, device)
    model = load_weights(package, DINO_MODELS[kind], path, device)
    patch, width = model.config.patch_size, model.config.hidden_size
    family = "DINOv2" if kind == "dinov2" else "DINO"
    label = f"{family} ViT {width}/{patch}, {path.name} {weights_hash(model)}"

    @torch.inference_mode()
    def see(pictures: Sequence[Tensor]) -> Tensor:
        batches = batches_of(pictures, DINO, device)
        return torch.cat([model(pixel_values=b).last_hidden_state[:, 0].cpu() for b in batches])

    return Encoder("DINO", label, see)


def clip_encoder(package: ModuleType, path: Path, device: torch.device | str) -> Encoder:
    """Both sides of a CLIP."""
    model = load_weights(package, "CLIPModel", path, device)
    check_tokenizer(path)  # without files transformers makes one that knows no word
    tokenizer = package.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    length = model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def see(pictures: Sequence[Tensor]) -> Tensor:
        side = model.config.vision_config.image_size
        batches = batches_of(pictures, CLIP._replace(shorter=side, side=side), device)
        pooled = [model.vision_model(pixel_values=batch).pooler_output for batch in batches]
        return torch.cat([model.visual_projection(features).cpu() for features in pooled])

    @torch.inference_mode()
    def read(captions: Sequence[str]) -> Tensor:
        features = []
        for start in range(0, len(captions), TEXTS_AT_ONCE):
            some = list(captions[start : start + TEXTS_AT_ONCE])
            tokens = tokenizer(
                some, padding=True, truncation=True, max_length=length, return_tensors="pt"
            ).to(device)
            pooled = model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            features.append(model.text_projection(pooled).cpu())
        return torch.cat(features)

    vision = model.config.vision_config
    name = f"CLIP ViT {vision.hidden_size}/{vision.patch_size}, {path.name}"
    label = f"{name} {weights_hash(nn.ModuleList([model.vision_model, model.visual_projection]))}"
    text = weights_hash(nn.ModuleList([model.text_model, model.text_projection]))
    return Encoder("CLIP", label, see, Reader(f"text {text}", read))


def check_tokenizer(path: Path) -> None:
    """Raise ValueError where the folder has no tokenizer."""
    sets = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    if not any(all((path / name).is_file() for name in names) for names in sets):
        raise ValueError(
            f"{path} has no tokenizer for its CLIP. Put tokenizer.json there, or vocab.json and "
            "merges.txt, from the place where the weights are from."
        )


def model_type(path: Path) -> str:
    """What config.json says. Raises ValueError for what is not one of ours."""
    file = path / "config.json"
    if not file.is_file():
        raise ValueError(
            f"There is no {file.name} in {path}. Name the folder that holds config.json and "
            "model.safetensors of CLIP ViT-B/32 (openai/clip-vit-base-patch32) or DINO ViT-S/16 "
            "(facebook/dino-vits16)."
        )
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({first_line(error)}): load it anew.") from error
    if kind != "clip" and kind not in DINO_MODELS:
        raise ValueError(
            f"{file} is of the kind {kind}; what can be read here is clip, vit and dinov2. Other "
            "encoders come in as CLIP_VISION where ComfyUI loads them."
        )
    return kind


def transformers() -> ModuleType:
    """The package, imported when it is needed. Raises ImportError with what to do without it."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"Encoders from a folder need the package transformers ({error}). Install it with\n"
            f'"{sys.executable}" -m pip install transformers\n'
            "and start ComfyUI again. Or do without it and wire a CLIP_VISION."
        ) from error


def load_weights(package: ModuleType, name: str, path: Path, device: torch.device | str) -> Any:
    """A model of this class in float32. Raises ValueError where the weights are not what the
    config says.
    """
    options = {"add_pooling_layer": False} if name == "ViTModel" else {}
    try:
        model, report = getattr(package, name).from_pretrained(
            str(path),
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The weights in {path} cannot be loaded ({first_line(error)}). They should be "
            "model.safetensors or pytorch_model.bin beside its config.json: load them anew."
        ) from error
    wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"The weights in {path} are not what its config.json says: {len(wrong)} are missing or "
            f"of another shape, such as {sorted(wrong)[0]}. Take config and weights from one place."
        )
    return model.eval().to(device)


def batches_of(
    pictures: Sequence[Tensor], how: Preparation, device: torch.device | str
) -> list[Tensor]:
    """Pictures [H, W, 3] in [0, 1] -> batches [B, 3, side, side], normalised."""
    ready = [prepared(picture, how) for picture in pictures]
    starts = range(0, len(ready), PICTURES_AT_ONCE)
    return [torch.stack(ready[i : i + PICTURES_AT_ONCE]).to(device) for i in starts]


def prepared(picture: Tensor, how: Preparation) -> Tensor:
    """[H, W, 3] in [0, 1] -> [3, side, side]: scaled bicubically, cut to the middle, rounded to 8
    bits as picture files are, normalised.
    """
    pixels = picture.float().movedim(-1, 0)[None]
    height, width = pixels.shape[-2:]
    scale = how.shorter / min(height, width)
    size = (round(height * scale), round(width * scale))
    if size != (height, width):
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    top, left = (size[0] - how.side) // 2, (size[1] - how.side) // 2
    pixels = pixels[0, :, top : top + how.side, left : left + how.side]
    pixels = (pixels.clamp(0, 1) * 255).round() / 255
    mean, std = torch.tensor(how.mean)[:, None, None], torch.tensor(how.std)[:, None, None]
    return (pixels - mean) / std


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
