"""Files of random weights for trials beside other packs: a checkpoint, theirs, and a concept.

Keys and shapes are those of the published files; what they draw is noise. They are the same on
every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .checkpoints import enter_host, uniform, write_checkpoint

enter_host()

from comfy.t2i_adapter.adapter import Adapter_light
from comfy.utils import unet_to_diffusers

from detex_pack.detex.concept.file import BaseModel, Concept, concept_bytes
from detex_pack.detex.host.families import SD1
from detex_pack.detex.prompt.grammar import Named

Shapes = Mapping[str, tuple[int, ...]]
CHECKPOINT, CONCEPT = "random_sd15.safetensors", "random_dog.safetensors"
IP_ADAPTER, EMBEDS = "random_sd15.safetensors", ("random_image.ipadpt", "random_none.ipadpt")
MOTION, T2I = "random_motion.safetensors", "random_t2i.safetensors"
WIDTH, VISION, FRAMES = 768, 1024, 24  # of the text, of CLIP-H, most frames of a motion module
UNET = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
DOWN, UP, MIDDLE = (320, 640, 1280), (1280, 640, 320), 1280  # channels with cross-attention


def write_files(base: Path) -> None:
    """Into the folders of ComfyUI's base folder; what is there already stays."""
    adapter = Adapter_light(cin=64, channels=[320, 640, 1280, 1280], nums_rb=4).state_dict()
    t2i_shapes = {key: tuple(weight.shape) for key, weight in adapter.items()}
    models, given = base / "models", base / "input"
    writers: dict[Path, Callable[[Path], None]] = {
        models / "checkpoints" / CHECKPOINT: lambda path: write_checkpoint(path, "sd15"),
        models / "ipadapter" / IP_ADAPTER: partial(write_weights, ip_adapter_shapes()),
        models / "animatediff_models" / MOTION: partial(write_weights, motion_shapes()),
        models / "controlnet" / T2I: partial(write_weights, t2i_shapes),
        models / "detex" / CONCEPT: write_concept,
        **{given / name: write_embeds for name in EMBEDS},
    }
    for path, write in writers.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write(path)


def write_weights(shapes: Shapes, path: Path) -> None:
    save_file(weights(shapes), path)


def write_embeds(path: Path) -> None:
    """Features of a picture, as IPAdapter_plus saves them."""
    torch.save(tensor_of(path.name, (1, 1, VISION)).float(), path)


def write_concept(path: Path) -> None:
    path.write_bytes(concept_bytes(random_concept()))


def weights(shapes: Shapes) -> dict[str, Tensor]:
    """A tensor for each key, drawn from a generator of its own; norms do nothing."""
    return {key: tensor_of(key, shape) for key, shape in shapes.items()}


def tensor_of(key: str, shape: tuple[int, ...]) -> Tensor:
    if "norm" in key and len(shape) == 1:
        return torch.full(shape, 1.0 if key.endswith("weight") else 0.0).half()
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    inputs = torch.Size(shape[1:]).numel()
    return uniform(torch.Size(shape), 0.5 * inputs**-0.5, generator)


def attention_channels() -> list[int]:
    """Of the sixteen cross-attentions of Stable Diffusion 1.5, in the order of an IP-Adapter's."""
    down, up = ([c for c in channels for _ in range(n)] for channels, n in ((DOWN, 2), (UP, 3)))
    return [*down, *up, MIDDLE]


def ip_adapter_shapes() -> dict[str, tuple[int, ...]]:
    """ip-adapter_sd15: four image words, a K and a V for each cross-attention."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_proj.proj.weight": (4 * WIDTH, VISION),
        "image_proj.proj.bias": (4 * WIDTH,),
        "image_proj.norm.weight": (WIDTH,),
        "image_proj.norm.bias": (WIDTH,),
    }
    for number, channels in enumerate(attention_channels()):
        for part in ("k", "v"):
            shapes[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] = (channels, WIDTH)
    return shapes


def motion_shapes() -> dict[str, tuple[int, ...]]:
    """A motion module of AnimateDiff's first version, the one that also changes the group norms."""
    shapes = {}
    for side, channels, count in (("down", (*DOWN, 1280), 2), ("up", (1280, *UP), 3)):
        for block, width in enumerate(channels):
            for number in range(count):
                stem = f"{side}_blocks.{block}.motion_modules.{number}.temporal_transformer"
                shapes |= {f"{stem}.{key}": shape for key, shape in transformer(width).items()}
    return shapes


def transformer(width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one temporal transformer."""
    block = "transformer_blocks.0"
    layers: dict[str, tuple[int, ...]] = {"norm": (width,)}
    shapes: dict[str, tuple[int, ...]] = {
        f"{block}.ff.net.0.proj.weight": (8 * width, width),
        f"{block}.ff.net.0.proj.bias": (8 * width,),
    }
    layers |= {f"{block}.norms.{number}": (width,) for number in range(2)}
    layers |= {f"{block}.ff_norm": (width,), f"{block}.ff.net.2": (width, 4 * width)}
    layers |= dict.fromkeys(("proj_in", "proj_out"), (width, width))
    for number in range(2):
        attention = f"{block}.attention_blocks.{number}"
        shapes |= {f"{attention}.to_{part}.weight": (width, width) for part in "qkv"}
        shapes[f"{attention}.pos_encoder.pe"] = (1, FRAMES, width)
        layers[f"{attention}.to_out.0"] = (width, width)
    shapes |= {f"{name}.weight": shape for name, shape in layers.items()}
    return shapes | {f"{name}.bias": (width,) for name in layers}


def random_concept() -> Concept:
    """Stands for a training: words and K, V deltas of a size that is seen in the picture."""
    text = [stem.removesuffix(".weight") for stem in unet_to_diffusers({**UNET}).values()]
    paths = [path for path in text if path.endswith(("attn2.to_k", "attn2.to_v"))]
    shapes = {path: (channels_of(path), WIDTH) for path in paths}
    words = {word: {"l": weights({word: (1, WIDTH)})[word].float()} for word in ("V", "P1", "B1")}
    return Concept(
        words=words,
        deltas={path: 0.2 * delta.float() for path, delta in weights(shapes).items()},
        named=(Named("V", "dog", "pose", (1,)),),
        method="DETEX",
        base=BaseModel(SD1.name, "0" * 16, "l", "eps", UNET),
        thumbnails=torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
    )


def channels_of(path: str) -> int:
    """ "input_blocks.4.1.…" -> 640."""
    side, number = path.split(".")[:2]
    if side == "middle_block":
        return MIDDLE
    return DOWN[(int(number) - 1) // 3] if side == "input_blocks" else UP[(int(number) - 3) // 3]
