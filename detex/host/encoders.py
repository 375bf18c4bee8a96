"""Encoders for scores from what is wired: a CLIP_VISION, and a CLIP as its text side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import torch
from comfy.clip_vision import ClipVisionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..evaluate.encoder import Encoder, Read, Reader, See, weights_hash
from ..evaluate.folder_encoder import folder_encoder
from ..evaluate.live_scores import Judge
from ..evaluate.masked import subject_alone
from ..methods.base import NEW_PLACE
from ..photos.photos import Looks, Subject
from ..prompt.grammar import plain_caption, training_prompt
from .images import CLIP_KIND, has_room
from .towers import towers_of

KINDS = {CLIP_KIND: "CLIP", "dinov2": "DINO", "dinov3": "DINO"}
FAMILIES = {CLIP_KIND: "CLIP", "dinov2": "DINOv2", "dinov3": "DINOv3"}
SIZES = {768: "B", 1024: "L", 1280: "H", 1536: "g", 1664: "bigG"}  # by width, as papers name them
PICTURES_AT_ONCE = 16
BIG_TOWER = ("conditioner.embedders.1.",)  # where a checkpoint of XL keeps tower "g"
PROJECTION = "text_projection"  # in the keys of a file that has one


def vision_encoder(clip_vision: ClipVisionModel, reader: Reader | None = None) -> Encoder:
    """Whatever the host loads as CLIP_VISION that has one feature a picture: CLIP's projected
    embedding, DINO's class token. Pictures are scaled to its size by the shorter side, cut to the
    middle square and normalised as the host does it.

    Raises ValueError for other kinds, such as SigLIP.
    """
    kind = getattr(clip_vision, "model_type", CLIP_KIND)
    if kind not in KINDS:
        raise ValueError(
            f"The CLIP_VISION wired here is of the kind {kind}, which ComfyUI gives no single "
            "feature of a picture for. Wire CLIP ViT-L/14, ViT-H/14 or DINOv2."
        )

    label = f"{vision_name(kind, clip_vision)} {weights_hash(clip_vision.model)}"
    return Encoder(KINDS[kind], label, seeing(clip_vision), reader)


def seeing(clip_vision: ClipVisionModel) -> See:
    """Its one feature a picture, [N, F] float32 on the CPU, of pictures [H, W, 3] of any sizes."""

    @torch.inference_mode()
    def see(pictures: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [
                clip_vision.encode_image(batch)["image_embeds"].float().cpu()
                for batch in same_sized(pictures)
            ]
        )

    return see


def looks_of(
    clip_vision: ClipVisionModel, photos: Sequence[Tensor], masks: Sequence[Tensor] | None
) -> Looks:
    """What samples are compared with while a training runs: photos [H, W, 3], the subject on white
    where there are masks, as in `fg_ref`. Then nothing is seen where the encoder has no room.
    """
    see, names = seeing(clip_vision), [f"photo {i + 1}" for i in range(len(photos))]

    def see_in_training(pictures: Tensor) -> Tensor | None:
        needed = clip_vision.patcher.model_size()
        return see([*pictures]) if has_room(needed, clip_vision.load_device) else None

    alone = photos if masks is None else subject_alone(photos, masks, names)
    return Looks(see(alone), see_in_training)


def same_sized(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Neighbours of one size as batches [B, H, W, 3], in the order of the list."""
    batches: list[list[Tensor]] = []
    for picture in pictures:
        last = batches[-1] if batches else []
        if last and last[0].shape == picture.shape and len(last) < PICTURES_AT_ONCE:
            last.append(picture)
        else:
            batches.append([picture])
    return [torch.stack(batch).float() for batch in batches]


def vision_name(kind: str, clip_vision: ClipVisionModel) -> str:
    """ "CLIP ViT-L/14", "DINOv2 ViT-g/14 518 px"; of another width "CLIP 128/8 64 px"."""
    config: Mapping[str, Any] = getattr(clip_vision, "config", {})
    width, patch = config.get("hidden_size", 0), config.get("patch_size", "?")
    size = f"ViT-{SIZES[width]}" if width in SIZES else str(width)
    side = getattr(clip_vision, "image_size", 224)
    return f"{FAMILIES[kind]} {size}/{patch}" + (f" {side} px" if side != 224 else "")


def text_reader(clip: comfy.sd.CLIP, width: int) -> Reader | str:
    """The text tower as `text_side`, named by the hash of its weights."""
    side = text_side(clip, width)
    if isinstance(side, str):
        return side
    tower, read = side
    return Reader(f"text {weights_hash(tower.transformer)}", read)


def text_side(clip: comfy.sd.CLIP, width: int) -> tuple[Any, Read] | str:
    """The text tower of a CLIP whose projected features are as wide as those of the image encoder,
    and what it makes of captions; or, where it has no projection, a sentence that says so.

    The projection is trained together with the image encoder and no part of Stable Diffusion, so
    checkpoints of SD 1.x, and the "l" tower of XL, come without. Raises ValueError where no tower
    has that width.
    """
    towers = towers_of(clip)
    widths = {name: projection_width(tower) for name, tower in towers.items()}
    name = next((n for n, own in widths.items() if own == width), None)
    if name is None:
        told = ", ".join(f"{own} (tower {n})" for n, own in widths.items())
        raise ValueError(
            f"The CLIP_VISION gives features of {width} numbers, the CLIP of {told}: they are no "
            "pair. ViT-L/14 (768) goes with CLIP-L, ViT-H/14 (1024) with the CLIP of Stable "
            "Diffusion 2.x, ViT-bigG/14 (1280) with that of XL. Wire the right pair, or leave clip "
            "open and do without CLIP-T."
        )
    tower = towers[name]
    if not has_projection(clip, name):
        return (
            "CLIP-T is missing: the CLIP wired here has no text projection, as those of Stable "
            "Diffusion 1.x checkpoints. Wire Load CLIP with clip_l.safetensors (beside CLIP "
            "ViT-L/14), or the CLIP of a 2.x or XL checkpoint with its own image encoder."
        )

    @torch.inference_mode()
    def read(captions: Sequence[str]) -> Tensor:
        clip.load_model()
        clip.cond_stage_model.reset_clip_options()
        clip.cond_stage_model.set_clip_options({"execution_device": clip.patcher.load_device})
        features = [tower([caption_tokens(clip, name, text)])[1] for text in captions]
        return torch.cat(features).float().cpu()

    return tower, read


def caption_tokens(clip: comfy.sd.CLIP, tower: str, caption: str) -> list[int]:
    """The ids of a caption, without emphasis: as many as CLIP reads at once."""
    chunks = clip.tokenize(caption, disable_weights=True)[tower]
    return [int(token) for token, *_ in chunks[0]]


def projection_width(tower: Any) -> int:
    return tower.transformer.text_projection.out_features


def has_projection(clip: comfy.sd.CLIP, name: str) -> bool:
    """Whether the projection of this tower was in the file. Where it was not, ComfyUI leaves what
    happens to lie in memory; so the file is asked where it can be, and else the weights, whether
    they may be one.
    """
    weight = towers_of(clip)[name].transformer.text_projection.weight
    if weight is None or weight.is_meta or not torch.isfinite(weight).all():
        return False
    plain = weight.float().cpu()
    if not plain.any() or torch.equal(plain, torch.eye(len(plain))):
        return False
    keys = keys_of_files(clip)
    of_others = BIG_TOWER if name == "l" else ()
    return keys is None or any(PROJECTION in k and not k.startswith(of_others) for k in keys)


def keys_of_files(clip: comfy.sd.CLIP) -> list[str] | None:
    """All keys of the .safetensors that the host loaded the CLIP from; None where that is not
    known, as for a .ckpt.
    """
    _, made_with, *_ = clip.patcher.cached_patcher_init or (None, ((),))
    first = made_with[0] if made_with else ()
    files = [first] if isinstance(first, (str, Path)) else first
    if not isinstance(files, (list, tuple)) or not files:
        return None
    keys: list[str] = []
    for file in files:
        if not str(file).endswith((".safetensors", ".sft")) or not Path(file).is_file():
            return None
        try:
            with safe_open(str(file), framework="pt") as opened:
                keys += opened.keys()
        except SafetensorError:
            return None
    return keys


def judge_of(subject: Subject, clip: comfy.sd.CLIP) -> Judge | None:
    """What scores the live samples; None without an image encoder. The checkpoint's CLIP may be its
    text side, and is asked here, as it is not to be loaded while a training runs.
    """
    if subject.looks is None:
        return None
    named = subject.photos.named[0]
    asked = training_prompt(named.class_word, named.attribute, "V", place=NEW_PLACE)
    try:
        side = text_side(clip, subject.looks.photos.shape[1])
    except ValueError:  # no pair
        side = ""
    return Judge(subject.looks, None if isinstance(side, str) else side[1]([plain_caption(asked)]))


def wired_encoders(
    visions: Sequence[ClipVisionModel], clip: comfy.sd.CLIP | None, folders: str
) -> tuple[list[Encoder], str]:
    """Every encoder that a node is given, and a sentence where the captions' score will be missing.

    clip: the text side of the first CLIP among `visions`; folders: one a line, each with its own.
    Raises ValueError as the encoders do.
    """
    encoders = [vision_encoder(vision) for vision in visions]
    pairs = enumerate(zip(encoders, visions, strict=True))
    first = next(((i, vision) for i, (one, vision) in pairs if one.kind == "CLIP"), None)
    note = ""
    if clip is None:
        note = "CLIP-T is missing: no clip is wired."
    elif first is None:
        note = "CLIP-T is missing: clip is the text side of a CLIP, and no CLIP_VISION is one."
    else:
        place, vision = first
        reader = text_reader(clip, feature_width(vision))
        if isinstance(reader, str):
            note = reader
        else:
            encoders[place] = encoders[place]._replace(reader=reader)
    there = model_management.get_torch_device()
    encoders += [folder_encoder(line, there) for line in folders.splitlines() if line.strip()]
    return encoders, "" if any(one.reader for one in encoders) else note


def feature_width(clip_vision: ClipVisionModel) -> int:
    config: Mapping[str, Any] = clip_vision.config
    return config.get("projection_dim", config["hidden_size"])
