"""Every loss as a pure function; nothing else."""

from collections.abc import Mapping

import torch
from torch import Tensor

EPS = 1e-6


def diffusion_loss(
    output: Tensor, target: Tensor, valid: Tensor, reduction: str = "mean"
) -> Tensor:
    """Eq. (1) of DETEX over the valid cells, one value a sample.

    output, target [B, C, h, w]; valid [B, h, w] in [0, 1] -> [B].
    "adobe" divides by the valid cells alone, as Custom Diffusion's code does: C x the mean.
    """
    error = (output.float() - target.float()).square().mean(dim=1) * valid  # [B, h, w]
    mean = error.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=EPS)
    return mean * output.shape[1] if reduction == "adobe" else mean


def scaled_map(probs: Tensor, how: str) -> Tensor:
    """Bring a token's attention map [B, h, w] to [0, 1].

    A raw map is a few percent everywhere, since the start token takes most of the mass: a loss on
    it only says "grab more". Divided by its own maximum, the map says where, not how much.
    """
    peak = probs.amax(dim=(1, 2), keepdim=True)
    if how == "max":
        return probs / (peak + EPS)
    if how == "max_detach":
        return probs / (peak.detach() + EPS)
    if how == "minmax":
        low = probs.amin(dim=(1, 2), keepdim=True)
        return (probs - low) / (peak - low + EPS)
    return probs


def map_loss(
    probs: Tensor, target: Tensor, valid: Tensor, how: str = "max", norm: str = "mse"
) -> Tensor:
    """One term of DETEX Eq. (4): ||A - m||, one value a sample.

    probs, target, valid [B, h, w]; target and valid 0 or 1 -> [B]. The paper leaves the norm
    open; "mse" is the mean square over the valid cells.
    """
    precise = torch.promote_types(probs.dtype, torch.float32)
    residual = scaled_map(probs.to(precise), how) - target
    cells = valid.sum(dim=(1, 2)).clamp(min=1)
    if norm == "l1":
        return (valid * residual.abs()).sum(dim=(1, 2)) / cells
    squares = (valid * residual.square()).sum(dim=(1, 2))
    return (squares + EPS**2).sqrt() if norm == "fro" else squares / cells


def attention_loss(pose: Tensor, background: Tensor) -> Tensor:
    """L_CA of DETEX Eq. (4) from its terms [B], 0 where the prompt lacks the word -> scalar."""
    return (pose + background).mean()


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """DETEX Eq. (5): the one place where terms are weighed."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
