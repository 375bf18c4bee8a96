"""Files of random weights for trials beside other packs: a checkpoint, theirs, and a concept.

Keys and shapes are those of the published files; what they draw is noise. They are the same on
every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .checkpoints import LAYOUTS, SD15_UNET, shapes_of, tensor_of, write_checkpoint, write_weights
from .pack_host import enter_host

enter_host()

from comfy.t2i_adapter.adapter import Adapter_light

from detex_pack.detex.concept.file import BaseModel, Concept, concept_bytes
from detex_pack.detex.host.families import SD1
from detex_pack.detex.prompt.grammar import Named

Shapes = dict[str, torch.Size]
CHECKPOINT, CONCEPT = "random_sd15.safetensors", "random_dog.safetensors"
IP_ADAPTER, EMBEDS = "random_sd15.safetensors", ("random_image.ipadpt", "random_none.ipadpt")
MOTION, T2I = "random_motion.safetensors", "random_t2i.safetensors"
WIDTH, VISION, FRAMES = 768, 1024, 24  # of the text, of CLIP-H, most frames of a motion module
DOWN = (320, 640, 1280)  # channels with cross-attention
UP = DOWN[::-1]
SD15 = LAYOUTS["sd15"]
UNET = "model.diffusion_model."


def write_files(base: Path) -> None:
    """Into the folders of ComfyUI's base folder; what is there already stays."""
    adapter = Adapter_light(cin=64, channels=[320, 640, 1280, 1280], nums_rb=4).state_dict()
    t2i_shapes = {key: weight.shape for key, weight in adapter.items()}
    models, given = base / "models", base / "input"
    write = partial(write_weights, layout=SD15, seed=0)
    writers: dict[Path, Callable[[Path], Any]] = {
        models / "checkpoints" / CHECKPOINT: partial(write_checkpoint, name="sd15"),
        models / "ipadapter" / IP_ADAPTER: partial(write, shapes=ip_adapter_shapes()),
        models / "animatediff_models" / MOTION: partial(write, shapes=motion_shapes()),
        models / "controlnet" / T2I: partial(write, shapes=t2i_shapes),
        models / "detex" / CONCEPT: lambda path: path.write_bytes(concept_bytes(random_concept())),
        **{given / name: write_embeds for name in EMBEDS},
    }
    for path, write_one in writers.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_one(path)


def write_embeds(path: Path) -> None:
    """Features of a picture, as IPAdapter_plus saves them."""
    torch.save(noise(path.name, 1, 1, VISION), path)


def noise(key: str, *shape: int) -> torch.Tensor:
    """Float32, drawn from the key's own generator."""
    return tensor_of(key, torch.Size(shape), SD15, 0).float()


def ip_adapter_shapes() -> Shapes:
    """ip-adapter_sd15: four image words, a K and a V for each of the sixteen cross-attentions."""
    projection = {"proj.weight": (4 * WIDTH, VISION), "proj.bias": (4 * WIDTH,)}
    projection |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    shapes = {f"image_proj.{key}": torch.Size(shape) for key, shape in projection.items()}
    down, up = ([c for c in channels for _ in range(n)] for channels, n in ((DOWN, 2), (UP, 3)))
    for number, channels in enumerate([*down, *up, DOWN[-1]]):
        for part in ("k", "v"):
            key = f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"
            shapes[key] = torch.Size([channels, WIDTH])
    return shapes


def motion_shapes() -> Shapes:
    """A motion module of AnimateDiff's first version, the one that also changes the group norms."""
    shapes = {}
    for side, channels, count in (("down", (*DOWN, 1280), 2), ("up", (1280, *UP), 3)):
        for block, width in enumerate(channels):
            for number in range(count):
                stem = f"{side}_blocks.{block}.motion_modules.{number}.temporal_transformer"
                shapes |= {f"{stem}.{key}": shape for key, shape in transformer(width).items()}
    return shapes


def transformer(width: int) -> Shapes:
    """Shapes of one temporal transformer."""
    block, square = "transformer_blocks.0", (width, width)
    layers = {"norm": (width,), "proj_in": square, "proj_out": square}  # with weight and bias
    layers |= {f"{block}.ff_norm": (width,), f"{block}.ff.net.0.proj": (8 * width, width)}
    layers |= {f"{block}.ff.net.2": (width, 4 * width)}
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(2):
        attention = f"{block}.attention_blocks.{number}"
        layers |= {f"{block}.norms.{number}": (width,), f"{attention}.to_out.0": square}
        shapes |= {f"{attention}.to_{part}.weight": square for part in "qkv"}
        shapes[f"{attention}.pos_encoder.pe"] = (1, FRAMES, width)
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {key: torch.Size(shape) for key, shape in shapes.items()}


def random_concept() -> Concept:
    """Stands for a training: words and K, V deltas of a size that is seen in the picture."""
    deltas = {
        key.removeprefix(UNET).removesuffix(".weight"): 0.1 * noise(key, *shape)
        for key, shape in shapes_of(SD15).items()
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    layout = ("num_res_blocks", "channel_mult", "transformer_depth", "transformer_depth_output")
    unet = {key: SD15_UNET[key] for key in (*layout, "transformer_depth_middle")}
    return Concept(
        words={word: {"l": noise(word, 1, WIDTH)} for word in ("V", "P1", "B1")},
        deltas=deltas,
        named=(Named("V", "dog", "pose", (1,)),),
        method="DETEX",
        base=BaseModel(SD1.name, "0" * 16, "l", "eps", unet),
        thumbnails=torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
    )
