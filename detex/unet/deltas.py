"""What training adds to linear layers of the UNet: full matrices, or products of low rank."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Layer(NamedTuple):
    """A linear layer of the UNet that may be changed."""

    path: str  # "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    out: int
    inp: int
    text: bool  # its input is text: the K and V of cross-attention


def text_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The K and V of cross-attention, which Custom Diffusion and DETEX train."""
    return tuple(layer for layer in layers if layer.text)


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

    def apply(self, cond: Tensor) -> Tensor:
        return self.scale * linear(linear(cond.to(self.down.dtype), self.down), self.up)


class Product(Protocol):
    """An addition to a layer that is never a matrix of its own."""

    def apply(self, cond: Tensor) -> Tensor:
        """[B, T, in] -> [B, T, out]"""
        ...


Delta: TypeAlias = Tensor | LowRank  # [out, in]


class LayerDeltas(Protocol):
    """Additions to some layers, as a UNet takes them while it trains."""

    def of_layers(self) -> Sequence[tuple[Layer, Tensor | Product]]: ...


def as_matrix(delta: Delta) -> Tensor:
    """[out, in]"""
    return delta.scale * delta.up @ delta.down if isinstance(delta, LowRank) else delta


def apply_delta(delta: Tensor | Product, cond: Tensor) -> Tensor:
    """delta [out, in] on each token: cond [B, T, in] -> [B, T, out], in the delta's precision, or
    autocast's.
    """
    if isinstance(delta, Tensor):
        return linear(cond.to(delta.dtype), delta)
    return delta.apply(cond)


class Deltas(nn.Module):
    """An addition to each of some layers, zero at the start: `ups` are float32 matrices [out, in],
    or, with a rank, [out, r] beside `downs` [r, in].

    W = W0 + delta is never formed in training: a layer answers W0 x + delta x (bypass form), summed
    in float32 and rounded once, so a step of 1e-5 is lost neither in a half-precision weight nor in
    a half-precision W0 x. The K and V of SD 1.x have 19,169,280
    numbers; at rank 16 those of Stable Diffusion XL have 7,249,920 in place of 340,787,200.

    scaled: multiply the product by sqrt(in / r), so that the first step of Adam moves it as far as
    it moves a full matrix; along a constant gradient it is slower at first, and later faster (600
    steps: some four times as far). Otherwise it is as LoRA's files have it with alpha = rank
    (arXiv 2106.09685), `down` uniform within 1 / sqrt(in).
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        rank: int | None,
        generator: torch.Generator,
        device: str = "cpu",
        *,
        scaled: bool = True,
    ):
        super().__init__()
        self.layers = tuple(layers)
        self.ups, self.downs = nn.ParameterList(), nn.ParameterList()
        self.scales: list[float] = []
        for layer in self.layers:
            if rank is None:
                self.ups.append(nn.Parameter(torch.zeros(layer.out, layer.inp, device=device)))
                continue
            r = min(rank, layer.out, layer.inp)
            self.ups.append(nn.Parameter(torch.zeros(layer.out, r, device=device)))
            down = first_down(r, layer.inp, generator, normal=scaled)
            self.downs.append(nn.Parameter(down.to(device)))
            self.scales.append(math.sqrt(layer.inp / r) if scaled else 1.0)

    def of_layers(self) -> list[tuple[Layer, Delta]]:
        """Each layer with its delta."""
        if not self.scales:
            return list(zip(self.layers, self.ups, strict=True))
        products = map(LowRank, self.ups, self.downs, self.scales)
        return list(zip(self.layers, products, strict=True))

    def export(self) -> dict[str, Delta]:
        """The deltas by path, on the CPU, detached and contiguous; a scale is within `up`."""
        return {layer.path: exported(delta) for layer, delta in self.of_layers()}


def first_down(rank: int, inputs: int, generator: torch.Generator, *, normal: bool) -> Tensor:
    """[r, in]: normal of deviation 1 / sqrt(in), or uniform within it."""
    if normal:
        return torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs)
    return (2 * torch.rand(rank, inputs, generator=generator) - 1) / math.sqrt(inputs)


def exported(delta: Delta) -> Delta:
    if not isinstance(delta, LowRank):
        return on_cpu(delta)
    up, down = delta.factors()
    return LowRank(on_cpu(up), on_cpu(down))


def on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


@torch.no_grad()
def _rounded_off(output: Tensor, cond: Tensor, weight: Tensor) -> Tensor:
    """What half precision has lost of W0 cond; gradients flow through `output` itself, so that no
    float32 copy of W0 is kept for them.
    """
    with torch.autocast(cond.device.type, enabled=False):
        exact = linear(cond.to(output.dtype).float(), weight.to(output.dtype).float())
    return exact - output.float()


def add_delta(
    output: Tensor,
    cond: Tensor,
    delta: Tensor | Product,
    *,
    detach_start_token: bool,
    weight: Tensor | None = None,
) -> Tensor:
    """A layer's answer with its delta: output [B, T, out] = W0 cond, cond [B, T, in].

    weight: W0 [out, in], where `output` may be of half precision: on that grid a delta of 1e-3 W0
    changes hardly a number, so the sum is taken in float32 and rounded once.

    Custom Diffusion detaches the start token: its feature is the same for every prompt, the empty
    one too, so a gradient through it would move all prompts at once.
    """
    precision = output.dtype
    if weight is not None and precision != torch.float32:
        output = output.float() + _rounded_off(output, cond, weight)
    output = (output + apply_delta(delta, cond).to(output.dtype)).to(precision)
    if detach_start_token:
        output = torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
    return output
