"""Every loss as a pure function; nothing else."""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6
# A Gaussian that DisenDiff's code writes as exp(-(x / (2 * 0.5))^2): of deviation 0.707, not 0.5.
TAPS = (0.21194156, 0.57611688, 0.21194156)  # 1, e, 1 over their sum


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


def scaled_map(probs: Tensor, how: str, eps: float = EPS) -> Tensor:
    """Bring a token's attention map [B, h, w] to [0, 1].

    A raw map is a few percent everywhere, since the start token takes most of the mass: a loss on
    it only says "grab more". Divided by its own maximum, the map says where, not how much.
    """
    peak = probs.amax(dim=(1, 2), keepdim=True)
    if how == "max":
        return probs / (peak + eps)
    if how == "max_detach":
        return probs / (peak.detach() + eps)
    if how == "minmax":
        low = probs.amin(dim=(1, 2), keepdim=True)
        return (probs - low) / (peak - low + eps)
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


def keep_loss(added: Sequence[Tensor], features: Tensor) -> Tensor:
    """How much the deltas change prompts that have none of the learned words: the mean square of
    what they add to K and V, in units of the text features' own -> scalar. Not in the paper.

    added: delta f of each layer, [M, out]; features f [M, C] of the prompts' tokens.
    """
    changes = torch.stack([one.square().mean() for one in added])
    return changes.mean() / features.square().mean()


def smoothed(maps: Tensor) -> Tensor:
    """Maps [B, h, w], each cell with its neighbours; the border sees what it mirrors."""
    taps = torch.tensor(TAPS, dtype=maps.dtype, device=maps.device)
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, torch.outer(taps, taps)[None, None])[:, 0]


def suppressed(maps: Tensor) -> Tensor:
    """DisenDiff's suppression of maps [B, h, w] in [0, 1]: smoothed, then squared, so that small
    patches and faint cells fade.
    """
    return smoothed(maps).square()


def soft_iou(first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
    """(sum ab + 1) / (sum a + sum b - sum ab + 1) over the valid cells, all [B, h, w] -> [B]."""
    both = (first * second * valid).sum(dim=(1, 2))
    either = ((first + second) * valid).sum(dim=(1, 2)) - both
    return (both + 1) / (either + 1)


def binding_loss(words: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
    """L_bind of DisenDiff: each modifier's map on its class's, which holds still.

    words, classes [B, M, h, w] of M concepts, in [0, 1]; valid [B, h, w], 0 or 1 -> [B], the sum of
    1 - IoU over the concepts.
    """
    pairs = zip(words.unbind(1), classes.detach().unbind(1), strict=True)
    return torch.stack([1 - soft_iou(word, kind, valid) for word, kind in pairs]).sum(dim=0)


def separation_loss(classes: Tensor, others: Tensor, valid: Tensor) -> Tensor:
    """L_s&s of DisenDiff: each class's map off those of the others; both sides move.

    classes, others [B, M, h, w] in [0, 1], the same where there are no masks; valid [B, h, w], 0 or
    1 -> [B], the mean IoU over the pairs of concepts, 0 for one concept.
    """
    pairs = list(itertools.permutations(range(classes.shape[1]), 2))
    if not pairs:
        return torch.zeros_like(valid[:, 0, 0])
    return torch.stack([soft_iou(classes[:, i], others[:, j], valid) for i, j in pairs]).mean(dim=0)


def contextual_loss(features: Tensor, others: Tensor, bandwidth: float = 0.5) -> Tensor:
    """-log CX of Mechrez et al. (arXiv 1803.02077, Eq. (2)-(5)): for each feature of the other
    picture, is there one like it anywhere in this one? Where it is does not matter.

    features, others [B, L, C] of two pictures, the others held still -> [B].
    """
    precise = torch.promote_types(features.dtype, torch.float32)
    features, others = features.to(precise), others.detach().to(precise)
    centre = others.mean(dim=1, keepdim=True)
    cosines = F.normalize(features - centre, dim=-1) @ F.normalize(others - centre, dim=-1).mT
    distance = (1 - cosines) / 2  # [B, L of features, L of others]
    relative = distance / (distance.amin(dim=2, keepdim=True) + 1e-5)
    similar = ((1 - relative) / bandwidth).softmax(dim=2)
    return -similar.amax(dim=1).mean(dim=1).log()


def code_scale_loss(codes: Tensor) -> Tensor:
    """(|c|^2 / r - 1)^2: codes [B, r] of about unit size, around which new ones can be drawn
    -> [B].
    """
    return (codes.square().mean(dim=1) - 1).square()


def shared_direction_loss(first: Tensor, second: Tensor) -> Tensor:
    """How much two low-rank maps read of the same: the squared cosines between the rows of their
    `down`, [r, in] and [s, in], summed and over s -> scalar.
    """
    cosines = F.normalize(first, dim=1) @ F.normalize(second, dim=1).mT
    return cosines.square().sum() / len(second)


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """DETEX Eq. (5): the one place where terms are weighed."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
