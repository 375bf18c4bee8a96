"""Low-rank forms of the K, V deltas, as Custom Diffusion's code compresses them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LoraSize(NamedTuple):
    """What a LoRA of this share costs and loses."""

    share: float
    ranks: tuple[int, int]  # the smallest and the largest of its matrices
    size: int  # bytes of its float32 tensors
    error: float  # |deltas - LoRA| / |deltas|, Frobenius, over all matrices together


def low_rank(delta: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The leading part of the singular value decomposition: up [O, r], down [r, I].

    delta [O, I]; share in (0, 1]: as many singular values are kept as sum up to no more than this
    share of all, and at least one. The error |delta - up down| (Frobenius) is the root of the sum
    of the dropped values' squares. At share 1 one of the two is the identity, so nothing is lost.
    Raises ValueError for a share outside (0, 1].
    """
    check_share(share)
    if share == 1:
        wide = delta.shape[0] < delta.shape[1]
        one = torch.eye(min(delta.shape), device=delta.device)
        whole = delta.float().contiguous()
        return (one, whole) if wide else (whole, one)
    u, sigma, v = torch.linalg.svd(delta.float(), full_matrices=False)
    rank = rank_of(sigma, share)
    return (u[:, :rank] * sigma[:rank]).contiguous(), v[:rank].contiguous()


def check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"The share of a LoRA must lie above 0 and up to 1, got {share}.")


def rank_of(sigma: Tensor, share: float) -> int:
    """How many of the falling singular values [n] are kept."""
    sums = sigma.double().cumsum(0)
    return max(1, int(((sums <= share * sums[-1]) & (sigma > 0)).sum()))


def lora_sizes(deltas: Mapping[str, Tensor], shares: Iterable[float]) -> list[LoraSize]:
    """Rank, size and error of the LoRA that `low_rank` makes at each share, largest first.

    Share 1 stands for the full deltas, without factors. Raises ValueError as `low_rank`.
    """
    shapes = [(delta.shape[0], delta.shape[1]) for delta in deltas.values()]
    spectra = [torch.linalg.svdvals(delta.float()) for delta in deltas.values()]
    return [_size(shapes, spectra, share) for share in sorted(set(shares), reverse=True)]


def _size(shapes: Sequence[tuple[int, int]], spectra: Sequence[Tensor], share: float) -> LoraSize:
    check_share(share)
    if share == 1:
        full = [min(shape) for shape in shapes]
        return LoraSize(share, (min(full), max(full)), sum(4 * o * i for o, i in shapes), 0.0)
    ranks = [rank_of(sigma, share) for sigma in spectra]
    numbers = sum(rank * (o + i) for rank, (o, i) in zip(ranks, shapes, strict=True))
    squares = [sigma.double().square() for sigma in spectra]
    lost = sum(float(s[rank:].sum()) for s, rank in zip(squares, ranks, strict=True))
    whole = sum(float(s.sum()) for s in squares)
    error = (lost / whole) ** 0.5 if whole else 0.0
    return LoraSize(share, (min(ranks), max(ranks)), 4 * numbers, error)
