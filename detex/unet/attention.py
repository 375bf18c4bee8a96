"""Cross-attention maps: computing them, and collecting them while a UNet runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .transfer import to_device


def attention_probs(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(D)) in float32 at least: [B, L, H*D], [B, T, H*D] -> [B, H, L, T]."""
    precise = torch.promote_types(q.dtype, torch.float32)
    q = q.unflatten(-1, (heads, -1)).transpose(1, 2).to(precise)  # [B, H, L, D]
    k = k.unflatten(-1, (heads, -1)).transpose(1, 2).to(precise)  # [B, H, T, D]
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)


def attend(probs: Tensor, v: Tensor) -> Tensor:
    """probs [B, H, L, T], v [B, T, H*D] -> [B, L, H*D], in v's dtype."""
    v_heads = v.unflatten(-1, (probs.shape[1], -1)).transpose(1, 2)  # [B, H, T, D]
    return (probs.to(v.dtype) @ v_heads).transpose(1, 2).flatten(2)


@dataclass
class AttentionTap:
    """The maps of one training forward: the first `rows` samples, layers on `grid` (h, w)."""

    grid: tuple[int, int]
    rows: int
    _sum: Tensor | None = field(default=None, repr=False)  # [rows, L, T]
    layers: int = 0
    _closed: bool = field(default=False, repr=False)

    def close(self) -> None:
        """The forward pass is over: gradient checkpointing runs layers again, not to be counted."""
        self._closed = True

    def add(self, probs: Tensor) -> None:
        """probs [rows, H, L, T] of one layer; heads are averaged here."""
        if self._closed:
            return
        maps = probs.mean(dim=1)
        self._sum = maps if self._sum is None else self._sum + maps
        self.layers += 1

    def token_map(self, positions: Tensor) -> Tensor:
        """Mean over heads and layers of one token a sample: positions [rows] -> [rows, h, w].

        Raises RuntimeError where no layer of the UNet has this grid.
        """
        if self._sum is None:
            raise RuntimeError(
                f"No cross-attention layer works on a {self.grid[0]}x{self.grid[1]} grid, so the "
                "attention loss has no map. Use a resolution that is a multiple of 64, or set the "
                "weight of this loss to 0."
            )
        index = (
            to_device(positions, self._sum.device).view(-1, 1, 1).expand(-1, self._sum.shape[1], 1)
        )
        return (self._sum / self.layers).gather(2, index)[:, :, 0].unflatten(1, self.grid)


@dataclass
class AttentionMaps:
    """Maps of chosen words, summed over a sampling run; emptied when the next run starts."""

    words: tuple[str, ...]
    _sums: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    _counts: dict[tuple[int, int], list[int]] = field(default_factory=dict, repr=False)
    _sampled: bool = field(default=False, repr=False)

    def reset(self) -> None:
        """A sampling run starts."""
        self._sampled = True
        self._sums.clear()
        self._counts.clear()

    def add(
        self,
        maps: Tensor,
        grid: tuple[int, int],
        images: Sequence[int] | None = None,
        count: int | None = None,
    ) -> None:
        """maps [b, words, L] of one layer of one step: of all images, or of these of `count`. Of
        another number of images in all, they replace.
        """
        total = len(maps) if count is None else count
        shape = torch.Size((total, *maps.shape[1:]))
        if grid not in self._sums or self._sums[grid].shape != shape:
            self._sums[grid], self._counts[grid] = maps.new_zeros(shape), [0] * total
        self._sums[grid][slice(None) if images is None else list(images)] += maps
        for image in range(total) if images is None else images:
            self._counts[grid][image] += 1

    def heat_maps(self) -> Tensor:
        """[words, B, h, w] in [0, 1] on the finest grid: each layer's grid weighs the same.

        Raises ValueError where nothing was captured.
        """
        if not self._sums and self._sampled:
            raise ValueError(
                "The sampler ran, but never computed the watched words. It may have been stopped, "
                "or the prompt's time range holds none of its steps. Sample again, with the whole "
                "range."
            )
        if not self._sums:
            raise ValueError(
                "No attention was captured. Wire the MODEL of Capture Attention into the sampler, "
                "and the sampled image into this node, so that sampling comes first."
            )
        finest = max(self._sums, key=lambda grid: grid[0] * grid[1])
        total = torch.zeros(())
        for grid, summed in self._sums.items():
            counts = torch.tensor(self._counts[grid]).clamp(min=1)[:, None, None]
            maps = (summed.float().cpu() / counts).unflatten(2, grid)
            total = total + torch.nn.functional.interpolate(
                maps, size=finest, mode="bilinear", align_corners=False
            )
        heat = total.transpose(0, 1)  # [words, B, h, w]
        return heat / heat.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12)
