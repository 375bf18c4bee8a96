"""Checkpoint files of Stable Diffusion 1.5, 2.1 and XL with random weights, for tests of real size.

    python -m devtools.checkpoints FOLDER sd15 sd21 sdxl_short

Keys, shapes and half precision are those of the published files (ComfyUI's own conversion names
them), so every loader takes them; what they draw is noise. The weights are uniform, of a size that
keeps half precision finite, and the same on every machine. `sdxl_short` has one transformer a block
where ComfyUI need not count them to recognise SDXL: 1.3 of 2.6 billion parameters in the UNet.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pack_host import enter_host

enter_host()

import comfy.clip_model
import comfy.clip_vision
import comfy.ops
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.text_encoders.sd2_clip import SD2ClipModel

_models = comfy.supported_models
SD15_UNET: dict[str, Any] = {
    **_models.SD15.unet_config,
    **_models.SD15.unet_extra_config,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_spatial_transformer": True,
    "legacy": False,
}
SD21_UNET = SD15_UNET | _models.SD20.unet_config | _models.SD20.unet_extra_config
SDXL_UNET = {
    **SD21_UNET,
    **_models.SDXL.unet_config,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "num_classes": "sequential",
}
SDXL_SHORT_UNET = SDXL_UNET | {
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
POSITION_IDS = ".embeddings.position_ids"  # of the one kind of tensor that is not a weight
# The last layer of each branch that is added to a stream: small, or the streams would grow.
BRANCH_ENDS = ("out_layers.3", "to_out.0", "net.2", "proj_out", "out_proj", "fc2", "c_proj")


@dataclass(frozen=True)
class Layout:
    """A kind of checkpoint: ComfyUI's configuration, its UNet's settings and its text towers."""

    kind: Callable[[dict], Any]  # of comfy.supported_models
    unet: dict[str, Any]
    text: Callable[..., torch.nn.Module]
    clip_l: str | None = None  # where the position ids of CLIP-L are kept
    v_prediction: bool = False


SD15_TEXT = "cond_stage_model.transformer.text_model"
SDXL_TEXT = "conditioner.embedders.0.transformer.text_model"
_sdxl = comfy.sdxl_clip.SDXLClipModel
LAYOUTS = {
    "sd15": Layout(_models.SD15, SD15_UNET, comfy.sd1_clip.SD1ClipModel, SD15_TEXT),
    "sd21": Layout(_models.SD20, SD21_UNET, SD2ClipModel, v_prediction=True),
    "sdxl": Layout(_models.SDXL, SDXL_UNET, _sdxl, SDXL_TEXT),
    "sdxl_short": Layout(_models.SDXL, SDXL_SHORT_UNET, _sdxl, SDXL_TEXT),
}


def shapes_of(layout: Layout) -> dict[str, torch.Size]:
    """Key -> shape of every tensor in the file, in the order of the keys."""
    with torch.device("meta"):  # nothing takes memory, in the conversions neither
        config: Any = layout.kind(dict(layout.unet))
        unet = config.get_model({}, "", torch.device("meta")).diffusion_model
        text = layout.text(device="meta", dtype=torch.float32)
        vae = AutoencoderKL(ddconfig=VAE, embed_dim=4)
        weights = {
            **config.process_unet_state_dict_for_saving(unet.state_dict()),
            **config.process_clip_state_dict_for_saving(text.state_dict()),
            **config.process_vae_state_dict_for_saving(vae.state_dict()),
        }
    shapes = {key: weight.shape for key, weight in weights.items()}
    if layout.clip_l:
        shapes[layout.clip_l + POSITION_IDS] = torch.Size([1, 77])
    return dict(sorted(shapes.items()))


def tensor_of(key: str, shape: torch.Size, layout: Layout, seed: int) -> Tensor:
    """The tensor of a key, drawn from a generator of its own."""
    if key.endswith(POSITION_IDS):
        return torch.arange(77)[None]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {key}".encode()))
    if layout.v_prediction and key.endswith("output_blocks.11.1.transformer_blocks.0.norm1.bias"):
        return uniform(shape, 0.2, generator)  # by its spread ComfyUI knows v-prediction
    if len(shape) < 2:
        return torch.full(shape, 1.0 if key.endswith("weight") else 0.0).half()
    if "embedding" in key:
        return uniform(shape, 0.014, generator)
    small = 0.2 if any(f".{end}." in key for end in BRANCH_ENDS) else 1.0
    return uniform(shape, small * shape[1:].numel() ** -0.5, generator)


def uniform(shape: torch.Size, spread: float, generator: torch.Generator) -> Tensor:
    """Half precision, of mean 0 and this standard deviation."""
    high = 3**0.5 * spread
    return torch.empty(shape).uniform_(-high, high, generator=generator).half()


def write_checkpoint(path: Path, name: str, seed: int = 0) -> None:
    """Write the .safetensors of a layout."""
    layout = LAYOUTS[name]
    write_weights(path, shapes_of(layout), layout, seed)


def write_clip_vision(path: Path, seed: int = 0) -> None:
    """Write CLIP ViT-L/14's image encoder."""
    config = json.loads(
        (Path(comfy.clip_vision.__file__).parent / "clip_vision_config_vitl.json").read_text()
    )
    meta = torch.device("meta")
    kind = comfy.clip_model.CLIPVisionModelProjection
    vision = kind(config, torch.float32, meta, comfy.ops.manual_cast)
    shapes = {key: weight.shape for key, weight in sorted(vision.state_dict().items())}
    write_weights(path, shapes, LAYOUTS["sd15"], seed)


def write_weights(path: Path, shapes: dict[str, torch.Size], layout: Layout, seed: int) -> None:
    """Tensor by tensor: no more than one is in memory."""
    header, end = {}, 0
    for key, shape in shapes.items():
        whole = key.endswith(POSITION_IDS)
        start, end = end, end + shape.numel() * (8 if whole else 2)
        kind = "I64" if whole else "F16"
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, shape in shapes.items():
            file.write(tensor_of(key, shape, layout, seed).numpy().tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go; not into the repository")
    parser.add_argument("names", nargs="+", choices=list(LAYOUTS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        path = args.folder / f"random_{name}.safetensors"
        write_checkpoint(path, name, args.seed)
        print(f"{path}  {path.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
