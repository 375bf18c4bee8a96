"""Low-rank forms of the K, V deltas, as Custom Diffusion's code compresses them."""

import torch
from torch import Tensor


def low_rank(delta: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The leading part of the singular value decomposition: up [O, r], down [r, I].

    delta [O, I]; share in (0, 1]: as many singular values are kept as sum up to no more than this
    share of all, and at least one; 1 keeps all. The error |delta - up down| (Frobenius) is the root
    of the sum of the dropped values' squares.
    Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"The share of a LoRA must lie above 0 and up to 1, got {share}.")
    u, sigma, v = torch.linalg.svd(delta.float(), full_matrices=False)
    if share == 1 or not sigma.sum():
        kept = len(sigma) if share == 1 else 1
    else:
        kept = max(1, int((sigma.double().cumsum(0) <= share * sigma.double().sum()).sum()))
    return (u[:, :kept] * sigma[:kept]).contiguous(), v[:kept].contiguous()
