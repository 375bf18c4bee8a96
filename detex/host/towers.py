"""The text towers of ComfyUI's CLIP: their names and widths, and a walk that gradients survive."""

from collections.abc import Iterable, Sequence
from typing import Any

import comfy.sd
import comfy.sdxl_clip
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn

from ..unet.transfer import to_device


def towers_of(clip: comfy.sd.CLIP) -> dict[str, Any]:
    """ComfyUI's text towers by name, in the order in which their features stand side by side: "l"
    for SD 1.x, "h" for SD 2.x, "l" and "g" for SDXL.

    Raises ValueError for CLIPs of other kinds.
    """
    model: Any = clip.cond_stage_model
    is_sdxl = isinstance(model, comfy.sdxl_clip.SDXLClipModel)
    names = ("l", "g") if is_sdxl else (getattr(model, "clip_name", None),)
    towers = {str(name): getattr(model, f"clip_{name}", None) for name in names}
    if any(not hasattr(getattr(t, "transformer", None), "text_model") for t in towers.values()):
        raise ValueError(
            "DETEX words need a CLIP of Stable Diffusion 1.x, 2.x or XL; the one wired here is a "
            f"{type(model).__name__}. Wire the CLIP output of Load Checkpoint."
        )
    return towers


def tower_of(clip: comfy.sd.CLIP) -> str:
    """The names of the CLIP's text towers in one: "l", "h" or "l+g". Raises as `towers_of`."""
    return "+".join(towers_of(clip))


def last_layer(clip: comfy.sd.CLIP, layer: int | None) -> int:
    """The layer, counted from the end, at which a CLIP stops that is told `layer`, or nothing."""
    if layer is not None:
        return layer
    kind, index, *_ = next(iter(towers_of(clip).values())).options_default
    return -1 if kind == "last" else index


def widths_of(clip: comfy.sd.CLIP) -> list[int]:
    """Of each text tower's features, and of its part of a word."""
    tables = (tower.transformer.get_input_embeddings() for tower in towers_of(clip).values())
    return [table.weight.shape[1] for table in tables]


def split_word(clip: comfy.sd.CLIP, word: str, vector: Tensor) -> dict[str, Tensor]:
    """A word's vector [..., C] as each tower's part of it. Raises ValueError for another width.

    ComfyUI drops a vector that does not fit with a line in the log; here it is an error.
    """
    towers, widths = towers_of(clip), widths_of(clip)
    if vector.shape[-1] != sum(widths):
        raise ValueError(
            f"The learned word [{word}] has {vector.shape[-1]} numbers, but this CLIP reads "
            f"{sum(widths)}: the concept was trained on another model family. Wire the CLIP of the "
            "checkpoint it belongs to."
        )
    return dict(zip(towers, vector.split(widths, dim=-1), strict=True))


class Tower:
    """One text tower of a private CLIP copy, walked so that gradients reach its input.

    ComfyUI's CLIPLayer adds in place, which autograd refuses (comfy/clip_model.py); the same
    modules are called here with out-of-place additions.
    """

    def __init__(self, model: Any, *, pools: bool):
        self.model, self.pools = model, pools
        self.text_model = model.transformer.text_model
        self.table = model.transformer.get_input_embeddings()
        self.width = self.table.weight.shape[1]

    @property
    def walked(self) -> list[nn.Module]:
        """The modules that the walk reads. What else a tower has, such as CLIP-L's projection, may
        be missing in the checkpoint, and ComfyUI then leaves it uninitialised.
        """
        projection = [self.model.transformer.text_projection] if self.pools else []
        return [self.text_model, *projection]

    def embed(
        self, ids: Sequence[Sequence[int]], slots: Sequence[tuple[int, int, Tensor]]
    ) -> Tensor:
        """Tokens [B, T] at their positions, with each slot's (row, column, vector) in its place."""
        device = self.table.weight.device
        hidden = self.table(
            to_device(torch.tensor(ids), device), out_dtype=torch.float32
        )  # [B, T, C]
        if slots:
            rows, columns, vectors = zip(*slots, strict=True)
            index = (
                to_device(torch.tensor(rows), device),
                to_device(torch.tensor(columns), device),
            )
            hidden = hidden.index_put(index, torch.stack(vectors).to(hidden))
        return hidden + self.text_model.embeddings.position_embedding.weight.to(hidden)

    def encode(self, hidden: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded tokens [B, T, C] -> features [B, T, C], and the prompts as a whole [B, D], taken
        at their end tokens, `ends` [B]; D is 0 where the tower does not `pool`.
        """
        layers, used = self.text_model.encoder.layers, len(self.text_model.encoder.layers)
        norm = self.text_model.final_layer_norm
        inner = self.model.layer == "hidden"
        if inner:
            used = range(used)[self.model.layer_idx] + 1
        hidden = walk(layers[:used], hidden)
        bare = inner and not self.model.layer_norm_hidden_state
        features = hidden if bare else norm(hidden)
        if not self.pools:
            return features, features[:, 0, :0]
        last = norm(walk(layers[used:], hidden))
        whole = last[torch.arange(len(last), device=last.device), ends]
        return features, self.model.transformer.text_projection(whole)


def walk(layers: Iterable[Any], hidden: Tensor) -> Tensor:
    """Through these layers under the causal mask: [B, T, C] -> [B, T, C]."""
    length = hidden.shape[1]
    low = -torch.finfo(hidden.dtype).max
    mask = torch.full((length, length), low, device=hidden.device).triu(1)
    for layer in layers:
        hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), mask, attention_pytorch)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return hidden
