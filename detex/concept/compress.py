"""Low-rank forms of the K, V deltas, as Custom Diffusion's code compresses them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..unet.deltas import Delta, LowRank


class LoraSize(NamedTuple):
    """What a LoRA of this share costs and loses."""

    share: float
    ranks: tuple[int, int] | None  # the smallest and the largest of its matrices; None: full ones
    size: int  # bytes of its float32 tensors
    error: float  # |deltas - LoRA| / |deltas|, Frobenius, over all matrices together


class Svd(NamedTuple):
    """delta = u · diag(sigma) · v; n is the rank of a low-rank delta."""

    u: Tensor  # [O, n]
    sigma: Tensor  # [n], falling
    v: Tensor  # [n, I]


class LowRankForms:
    """The `low_rank` of all deltas at any share; each matrix is decomposed once, when needed."""

    def __init__(self, deltas: Mapping[str, Delta]):
        self.deltas = deltas

    @cached_property
    def svds(self) -> dict[str, Svd]:
        return {name: svd(delta) for name, delta in self.deltas.items()}

    def factors(self, share: float) -> dict[str, tuple[Tensor, Tensor]]:
        """up [O, r], down [r, I] of each delta, see `low_rank`."""
        check_share(share)
        if share == 1:
            return {name: exact_factors(delta) for name, delta in self.deltas.items()}
        return {name: leading(parts, share) for name, parts in self.svds.items()}

    def sizes(self, shares: Iterable[float]) -> list[LoraSize]:
        """Rank, size and error of the LoRA of these factors at each share, largest first.

        Share 1 stands for the deltas as they are. Raises ValueError as `low_rank`.
        """
        return [self._size(share) for share in sorted(set(shares), reverse=True)]

    def _size(self, share: float) -> LoraSize:
        check_share(share)
        if share == 1:
            numbers = sum(map(parameter_count, self.deltas.values()))
            return LoraSize(share, ranks_as_trained(self.deltas.values()), 4 * numbers, 0)
        spectra = {name: parts.sigma for name, parts in self.svds.items()}
        ranks = {name: rank_of(sigma, share) for name, sigma in spectra.items()}
        numbers = sum(rank * sum(self.deltas[name].shape) for name, rank in ranks.items())
        squares = {name: sigma.double().square() for name, sigma in spectra.items()}
        lost = sum(float(s[ranks[name] :].sum()) for name, s in squares.items())
        whole = sum(float(s.sum()) for s in squares.values())
        error = (lost / whole) ** 0.5 if whole else 0.0
        return LoraSize(share, (min(ranks.values()), max(ranks.values())), 4 * numbers, error)


def low_rank(delta: Delta, share: float) -> tuple[Tensor, Tensor]:
    """The leading part of the singular value decomposition: up [O, r], down [r, I].

    delta [O, I]; share in (0, 1]: as many singular values are kept as sum up to no more than this
    share of all, and at least one. The error |delta - up down| (Frobenius) is the root of the sum
    of the dropped values' squares. At share 1 one of the two is the identity, so nothing is lost.
    Raises ValueError for a share outside (0, 1].
    """
    return LowRankForms({"": delta}).factors(share)[""]


def leading(parts: Svd, share: float) -> tuple[Tensor, Tensor]:
    u, sigma, v = parts
    rank = rank_of(sigma, share)
    return (u[:, :rank] * sigma[:rank]).contiguous(), v[:rank].contiguous()


def exact_factors(delta: Delta) -> tuple[Tensor, Tensor]:
    """up [O, r], down [r, I] without a rounding: a matrix is multiplied by the unit matrix."""
    if isinstance(delta, LowRank):
        up, down = delta.factors()
        return up.contiguous(), down.contiguous()
    one = torch.eye(min(delta.shape), device=delta.device)
    whole = delta.float().contiguous()
    return (one, whole) if delta.shape[0] < delta.shape[1] else (whole, one)


def svd(delta: Delta) -> Svd:
    if not isinstance(delta, LowRank):
        return Svd(*torch.linalg.svd(delta.float(), full_matrices=False))
    basis, (rows,) = common_basis([delta])
    u, sigma, v = torch.linalg.svd(rows, full_matrices=False)
    return Svd((basis @ u).float(), sigma.float(), v.float())


def common_basis(deltas: Sequence[LowRank]) -> tuple[Tensor, list[Tensor]]:
    """An orthonormal basis [O, n] of all that low-rank deltas answer with, and each delta's
    coordinates [n, I] in it, float64: delta = basis @ coordinates.
    """
    ups, downs = zip(*(delta.factors() for delta in deltas), strict=True)
    basis, triangle = torch.linalg.qr(torch.cat(ups, dim=1).double())
    parts = triangle.split([len(down) for down in downs], dim=1)
    return basis, [part @ down.double() for part, down in zip(parts, downs, strict=True)]


def check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"The share of a LoRA must lie above 0 and up to 1, got {share}.")


def rank_of(sigma: Tensor, share: float) -> int:
    """How many of the falling singular values [n] are kept."""
    sums = sigma.double().cumsum(0)
    return max(1, int(((sums <= share * sums[-1]) & (sigma > 0)).sum()))


def ranks_as_trained(deltas: Collection[Delta]) -> tuple[int, int] | None:
    """The smallest and the largest rank of low-rank deltas; None where there are full matrices."""
    ranks = [delta.up.shape[1] for delta in deltas if isinstance(delta, LowRank)]
    return (min(ranks), max(ranks)) if len(ranks) == len(deltas) else None


def parameter_count(delta: Delta) -> int:
    """How many it takes to write it down."""
    if isinstance(delta, LowRank):
        return delta.up.numel() + delta.down.numel()
    return delta.numel()
