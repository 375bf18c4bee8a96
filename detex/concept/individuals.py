"""Individuals of a distribution: new codes after the law of the photos' codes, folded into deltas.

A distribution is a concept with codes. Its `deltas` are the anchor, which all pictures have; its
`varied` deltas are added where a picture has a code c, each direction times its number of c. An
individual is a concept with one code folded in, and no codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..unet.deltas import Delta, LowRank
from .file import Concept

SHRINKAGE = 0.2  # of the covariance towards its diagonal: few photos tell little of the rest
MOST_DIVERSE = 2.0


@dataclass(frozen=True)
class Law:
    """How the codes of a set are spread."""

    mean: Tensor  # [r], float64
    covariance: Tensor  # [r, r], float64

    def draw(self, count: int, diversity: float, seed: int) -> Tensor:
        """New codes [count, r], float32: N(mean, diversity^2 covariance). Towards diversity 0 the
        mean goes to 0, too: the anchor.

        The first codes of a seed are the same, however many are drawn.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp(min=0).sqrt()  # root root^T = covariance
        generator = torch.Generator().manual_seed(seed)
        rows = [
            torch.randn(len(self.mean), generator=generator, dtype=torch.float64)
            for _ in range(count)
        ]
        normal = torch.stack(rows)
        codes = min(diversity, 1.0) * self.mean + diversity * normal @ root.T
        return codes.float()


def law_of(codes: Tensor) -> Law:
    """Mean and shrunken covariance of codes [N, r]."""
    exact = codes.double()
    covariance = torch.cov(exact.T).reshape(codes.shape[1], codes.shape[1])
    diagonal = torch.diag(covariance.diagonal())
    return Law(exact.mean(dim=0), (1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal)


def drawn_codes(distribution: Concept, count: int, diversity: float, seed: int) -> Tensor:
    """[count, r] after the photos' law. Raises ValueError for a diversity out of range."""
    if not 0 <= diversity <= MOST_DIVERSE:
        raise ValueError(
            f"The diversity is {diversity:g}; it lies between 0, which is the anchor, and "
            f"{MOST_DIVERSE:g}. At 1 individuals vary as the pictures do."
        )
    return law_of(codes_of(distribution)).draw(count, diversity, seed)


def mixed_codes(distribution: Concept, first: int, second: int, count: int) -> Tensor:
    """[count, r] on the line between the codes of two pictures, by their numbers: of one code the
    middle, of several both ends and what lies between. second 0: the first alone.

    Raises ValueError for numbers of no picture.
    """
    codes = codes_of(distribution)
    for number in (first, second):
        if not 0 <= number <= len(codes):
            raise ValueError(
                f"There is no picture {number}: this distribution was learned from {len(codes)}. "
                f"Choose numbers from 1 to {len(codes)}; the preview of Varied Images shows them."
            )
    one, other = codes[first - 1], codes[(second or first) - 1]
    shares = torch.linspace(0, 1, count) if count > 1 else torch.full((1,), 0.5)
    return torch.lerp(one, other, shares[:, None])


def codes_of(distribution: Concept) -> Tensor:
    """The photos' codes [N, r]. Raises ValueError where there are none, or nothing varies yet."""
    if distribution.codes is None:
        raise ValueError(
            "This concept is one individual and no distribution. Wire the distribution of "
            "Dis²Booth Train."
        )
    if not any(up.any() for up, _ in factors_of(distribution.varied).values()):
        raise ValueError(
            "This distribution has not learned how its individuals vary: its Delta LoRA is as it "
            "began. Train for more steps; with the schedules alternate and sequential, for more "
            "than warm_up."
        )
    return distribution.codes


def factors_of(deltas: Mapping[str, Delta]) -> dict[str, tuple[Tensor, Tensor]]:
    """up and down of all that are of low rank, as those of a distribution are."""
    return {name: d.factors() for name, d in deltas.items() if isinstance(d, LowRank)}


def individual(distribution: Concept, code: Tensor) -> Concept:
    """The concept of one code [r]; of the code 0 it is the anchor alone."""
    varied = {
        name: LowRank((up * code.to(up)).contiguous(), down)  # up diag(c), down
        for name, (up, down) in factors_of(distribution.varied).items()
    }
    return replace(
        distribution,
        varied=varied if code.any() else {},
        codes=None,
        config={**distribution.config, "code": [round(float(number), 6) for number in code]},
    )


def summed(concept: Concept) -> Mapping[str, Delta]:
    """The deltas of an individual as one LoRA a layer: the ranks of both add up."""
    if not concept.varied:
        return concept.deltas
    anchor, varied = factors_of(concept.deltas), factors_of(concept.varied)
    both = {name: tuple(zip(pair, varied[name], strict=True)) for name, pair in anchor.items()}
    return {
        name: LowRank(torch.cat(ups, dim=1).contiguous(), torch.cat(downs).contiguous())
        for name, (ups, downs) in both.items()
    }


def at_strength(concept: Concept, strength: float) -> Concept:
    """What varies times `strength`; the rest is for who applies it."""
    if strength == 1 or not concept.varied:
        return concept
    scaled = {
        name: LowRank(strength * up, down)
        for name, (up, down) in factors_of(concept.varied).items()
    }
    return replace(concept, varied=scaled if strength else {})


def check_individual(concept: Concept) -> None:
    """Raise ValueError for a distribution, which is no concept that can be drawn with."""
    if concept.codes is not None:
        raise ValueError(
            "This is a distribution of many individuals, not one concept. Wire it into Draw "
            "Individuals, and use the concepts that come out of it."
        )
