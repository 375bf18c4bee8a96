"""How hard it is to tell two concepts apart by their words."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

ALIKE = 0.8  # ball and ball have 0.91 to 0.99 in the demo model, ball and cup 0.1
RIDGE = 1e-2  # of the captions' covariance, relative to its mean eigenvalue


class Alike(NamedTuple):
    """Two concepts that a merge can hardly give different keys and values."""

    one: int
    other: int
    overlap: float


def alike(features: Sequence[Tensor], neutral: Tensor) -> tuple[Alike, ...]:
    """The pairs of concepts whose words lie for the most part in the other's span.

    features: of each concept's short captions [k_j, C]; neutral: of other captions [n, C].
    """
    whitened = _whitened(features, neutral)
    pairs = combinations(range(len(features)), 2)
    measured = (Alike(i, j, overlap(whitened[i], whitened[j])) for i, j in pairs)
    return tuple(pair for pair in measured if pair.overlap > ALIKE)


def overlap(one: Tensor, other: Tensor) -> float:
    """The share of each one's energy in the span of the other's rows [k, C], the larger of both."""

    def inside(rows: Tensor, span: Tensor) -> float:
        basis = torch.linalg.qr(span.mT).Q  # [C, k]
        return ((rows @ basis).square().sum() / rows.square().sum()).item()

    return max(inside(one, other), inside(other, one))


def _whitened(features: Sequence[Tensor], neutral: Tensor) -> list[Tensor]:
    """With what all captions have in common scaled down: it tells nothing apart."""
    gram = neutral.double().mT @ neutral.double()
    ridge = RIDGE * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    scale = torch.linalg.cholesky(torch.linalg.inv(gram + ridge))
    return [rows.double() @ scale for rows in features]
