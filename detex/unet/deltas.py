"""What DETEX and Custom Diffusion train of the UNet: additions to K and V of cross-attention."""

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Shapes: TypeAlias = dict[str, tuple[int, int]]  # "….attn2.to_k" -> (out, in)


class LowRank(NamedTuple):
    """A matrix [out, in] as scale * up @ down."""

    up: Tensor  # [out, r]
    down: Tensor  # [r, in]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def factors(self) -> tuple[Tensor, Tensor]:
        """up [out, r], the scale within it, and down [r, in]."""
        return self.scale * self.up, self.down


Delta: TypeAlias = Tensor | LowRank  # [out, in]


def as_matrix(delta: Delta) -> Tensor:
    """[out, in]"""
    return delta.scale * delta.up @ delta.down if isinstance(delta, LowRank) else delta


def times(delta: Delta, cond: Tensor) -> Tensor:
    """delta [out, in] on each token: cond [B, T, in] -> [B, T, out], in the delta's precision, or
    autocast's.
    """
    if isinstance(delta, LowRank):
        return delta.scale * linear(linear(cond.to(delta.down.dtype), delta.down), delta.up)
    return linear(cond.to(delta.dtype), delta)


class KVDeltas(nn.Module):
    """One float32 matrix [out, in] for each attn2.to_k and to_v, zero at the start.

    W = W0 + delta is never formed in training: a layer answers W0 c + delta c (bypass form), summed
    in float32 and rounded once, so a step of 1e-5 is lost neither in a half-precision weight nor in
    a half-precision W0 c. 19,169,280 parameters for SD 1.x.
    """

    def __init__(self, shapes: Shapes, device: str = "cpu"):
        super().__init__()
        self.names = tuple(shapes)
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes.values()
        )

    def named(self) -> dict[str, nn.Parameter]:
        return dict(zip(self.names, self.matrices, strict=True))

    def export(self) -> dict[str, Tensor]:
        """The deltas on the CPU, detached and contiguous, for the concept file."""
        return {name: on_cpu(p) for name, p in self.named().items()}


class LowRankDeltas(nn.Module):
    """up @ down for each attn2.to_k and to_v, zero at the start because `up` is.

    At rank 16 these are 7,249,920 parameters for Stable Diffusion XL, whose matrices have
    340,787,200. The scale sqrt(in / r) lets the first step of Adam move the product as far as it
    moves a full matrix. That holds for the first step alone: along a constant gradient the product
    is slower at first (by eleven times), and after 600 steps it has moved some four times as far.
    """

    def __init__(self, shapes: Shapes, rank: int, generator: torch.Generator, device: str = "cpu"):
        super().__init__()
        self.names = tuple(shapes)
        self.ups, self.downs, self.scales = nn.ParameterList(), nn.ParameterList(), []
        for outputs, inputs in shapes.values():
            r = min(rank, outputs, inputs)
            down = torch.randn(r, inputs, generator=generator) / math.sqrt(inputs)
            self.ups.append(nn.Parameter(torch.zeros(outputs, r, device=device)))
            self.downs.append(nn.Parameter(down.to(device)))
            self.scales.append(math.sqrt(inputs / r))

    def named(self) -> dict[str, LowRank]:
        parts = zip(self.names, self.ups, self.downs, self.scales, strict=True)
        return {name: LowRank(up, down, scale) for name, up, down, scale in parts}

    def export(self) -> dict[str, LowRank]:
        """As `KVDeltas.export`, the scale within `up`."""
        pairs = {name: delta.factors() for name, delta in self.named().items()}
        return {name: LowRank(on_cpu(up), on_cpu(down)) for name, (up, down) in pairs.items()}


Deltas: TypeAlias = KVDeltas | LowRankDeltas


def make_deltas(
    shapes: Shapes, rank: int | None, generator: torch.Generator, device: str
) -> Deltas:
    """Low-rank ones, or full matrices where `rank` is None; only the former draw numbers."""
    if rank is None:
        return KVDeltas(shapes, device)
    return LowRankDeltas(shapes, rank, generator, device)


def on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


@torch.no_grad()
def _rounded_off(output: Tensor, cond: Tensor, weight: Tensor) -> Tensor:
    """What half precision has lost of W0 cond; gradients flow through `output` itself, so that no
    float32 copy of W0 is kept for them.
    """
    with torch.autocast(cond.device.type, enabled=False):
        return linear(cond.float(), weight.float()) - output.float()


def add_delta(
    output: Tensor,
    cond: Tensor,
    delta: Delta,
    *,
    detach_start_token: bool,
    weight: Tensor | None = None,
) -> Tensor:
    """K or V with its delta: output [B, T, out] = W0 cond, cond [B, T, in], delta [out, in].

    weight: W0 [out, in], where `output` may be of half precision: on that grid a delta of 1e-3 W0
    changes hardly a number, so the sum is taken in float32 and rounded once.
    Custom Diffusion detaches the start token: its feature is the same for every prompt, the empty
    one too, so a gradient through it would move all prompts at once.
    """
    precision = output.dtype
    if weight is not None and precision != torch.float32:
        output = output.float() + _rounded_off(output, cond, weight)
    output = (output + times(delta, cond).to(output.dtype)).to(precision)
    if detach_start_token:
        output = torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
    return output
