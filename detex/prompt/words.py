"""The learned words: [V], [V2], and [P_i], [B_i] from attribute mappers or as free vectors."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn


class Attributes(Enum):
    """Where the words [P_i] and [B_i] come from."""

    MAPPERS = "mappers"  # two MLPs over the photos' CLIP features, DETEX Eq. (3)
    VECTORS = "vectors"  # one free vector per photo: the paper's ablation "w/o mapper"


RARE_ROWS = {"V": 42170, "P": 47629, "B": 43514}  # Custom Diffusion's initialiser tokens, by row


@dataclass(frozen=True)
class WordAnchors:
    """Where the words start in the token table. With two text towers, a row holds that of both
    tables, one after the other.
    """

    rows: Mapping[str, Tensor]  # [C] by role
    rms: Tensor  # [C] root mean square of the table that each coordinate belongs to


def linear(
    inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True
) -> nn.Linear:
    """nn.Linear with torch's default initialisation from a private generator."""
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


class AttributeMapper(nn.Module):
    """v_i = anchor + g * MLP(u_i): CLIP features to one word a photo (DETEX Eq. (3)).

    The paper says a three-layer MLP of 6.7 MB, no more. Ours has 768-768-768-768 for SD 1.x, a
    LayerNorm and LeakyReLU after each hidden layer, and g fixed so that the MLP adds a quarter
    of a token's size at the start: without these the words of similar photos start out equal.
    `plain` is the bare MLP, 1,771,776 parameters.
    """

    features: Tensor
    anchor: Tensor
    gain: Tensor

    def __init__(
        self,
        features: Tensor,  # [N, F], RMS 1
        anchor: Tensor,  # [C]
        rms: Tensor,  # [C]
        generator: torch.Generator,
        *,
        plain: bool = False,
    ):
        super().__init__()
        inputs, width = features.shape[1], anchor.shape[0]
        norm = nn.Identity if plain else lambda: nn.LayerNorm(width)
        self.layers = nn.Sequential(
            linear(inputs, width, generator),
            norm(),
            nn.LeakyReLU(0.01),
            linear(width, width, generator),
            norm(),
            nn.LeakyReLU(0.01),
            linear(width, width, generator, bias=plain),
        )
        self.register_buffer("features", features.clone())
        self.register_buffer("anchor", torch.zeros_like(anchor) if plain else anchor.clone())
        with torch.no_grad():
            start = self.layers(features).square().mean().sqrt().item()
        gain = torch.ones(width) if plain else 0.25 * rms / max(start, 1e-12)
        self.register_buffer("gain", gain.float(), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        """photos [B] indices -> vectors [B, C]."""
        return self.anchor + self.gain * self.layers(self.features[photos])


class FreeVectors(nn.Module):
    """One vector a photo. Each is a parameter of its own, so that AdamW leaves the vectors of
    photos outside the batch untouched; but for centered poses, which all move with their mean.
    """

    def __init__(self, count: int, anchor: Tensor):
        super().__init__()
        self.vectors = nn.ParameterList(nn.Parameter(anchor.clone()) for _ in range(count))

    def forward(self, photos: Tensor) -> list[Tensor]:
        """photos [B] indices -> B vectors [C]; not stacked: an unused one gets no gradient."""
        return [self.vectors[i] for i in photos.tolist()]


class Words(nn.Module):
    """All learned words: [V], those of `others` such as [V2], and of each of `count` photos [P_i]
    and [B_i] where `attributes` says where they come from.

    vectors: how many [V] is made of. `center_poses` moves the [P] words of two photos and more so
    that their mean is the anchor.
    """

    anchor: Tensor  # of [P]

    def __init__(
        self,
        count: int,
        anchors: WordAnchors,
        generator: torch.Generator,
        *,
        vectors: int = 1,
        others: Sequence[str] = (),
        attributes: Attributes | None = None,
        features: Tensor | None = None,  # [N, F], for the mappers
        plain: bool = False,
        center: bool = False,
        center_poses: bool = False,
    ):
        super().__init__()
        self.count, self.vectors = count, vectors
        self.centered = "P" if center_poses and count > 1 else None
        self.register_buffer("anchor", anchors.rows["P"].clone(), persistent=False)
        first = anchors.rows["V"]
        self.subject = nn.Parameter(first.clone() if vectors == 1 else first.repeat(vectors, 1))
        # in turn from the three rare tokens, as Custom Diffusion's code has them
        starts = zip(others, itertools.islice(itertools.cycle("VPB"), 1, None), strict=False)
        self.others = nn.ParameterDict(
            {word: nn.Parameter(anchors.rows[row].clone()) for word, row in starts}
        )
        self.attributes = nn.ModuleDict()
        for role in ("P", "B") if attributes else ():
            anchor = anchors.rows[role]
            if features is not None and attributes is Attributes.MAPPERS:
                unit = unit_features(features, center=center)
                mapper = AttributeMapper(unit, anchor, anchors.rms, generator, plain=plain)
                self.attributes[role] = mapper
            else:
                self.attributes[role] = FreeVectors(count, anchor)

    def of_photos(self, photos: Tensor) -> list[Mapping[str, Tensor]]:
        """The words of each sample: photos [B] -> [{"V": [C], "P": [C], "B": [C]}, ...]; a [V] of
        several vectors is [n, C].
        """
        vectors = {role: self._rows(role, photos) for role in self.attributes}
        return [
            {"V": self.subject, **self.others} | {role: rows[i] for role, rows in vectors.items()}
            for i in range(len(photos))
        ]

    def _rows(self, role: str, photos: Tensor) -> Sequence[Tensor] | Tensor:
        """The words of one role for these photos; where they are centered, less what the words of
        all photos have in common, so that [V] has to say it.
        """
        if role != self.centered:
            return self.attributes[role](photos)
        every = self._sources(role)
        return (every - every.mean(dim=0) + self.anchor)[photos]

    def _sources(self, role: str) -> Tensor:
        """[N, C], before they are centered."""
        every = torch.arange(self.count, device=self.subject.device)
        return torch.stack([*self.attributes[role](every)])

    def speed(self, role: str, generator: torch.Generator, step: float = 1e-4) -> float:
        """How far the words of a role move where each of their parameters takes a step of one size,
        as Adam's first does, in units of that size: what [V] itself moves.

        The gradient is random: one for all photos, or one for each where the words are centered and
        a common one moves nothing.
        """
        centered = role == self.centered
        rows, values = self._sources(role), list(self.attributes[role].parameters())
        pull = torch.randn(self.count if centered else 1, rows.shape[1], generator=generator)
        pull = (pull - pull.mean(dim=0) if centered else pull).to(rows)
        gradients = torch.autograd.grad((rows * pull).sum(), values)
        start = [value.detach().clone() for value in values]
        with torch.no_grad():
            for value, gradient in zip(values, gradients, strict=True):
                value.sub_(gradient.sign(), alpha=step)
            motion = self._sources(role) - rows
            for value, before in zip(values, start, strict=True):
                value.copy_(before)
        if centered:
            motion = motion - motion.mean(dim=0)
        return motion.square().mean().sqrt().item() / step

    @torch.no_grad()
    def export(self) -> dict[str, Tensor]:
        """{"V": [n, C], "P1": [1, C], ..., "BN": [1, C]}, on the CPU."""
        photos = torch.arange(self.count, device=self.subject.device)
        words = {"V": self.subject.reshape(-1, self.subject.shape[-1])}
        words |= {name: vector[None] for name, vector in self.others.items()}
        for role in self.attributes:
            rows = self._rows(role, photos)
            words |= {f"{role}{i + 1}": row[None] for i, row in enumerate(rows)}
        return {name: vector.detach().float().cpu().clone() for name, vector in words.items()}


def unit_features(features: Tensor, *, center: bool) -> Tensor:
    """Features [N, F] at RMS 1, less their mean where `center` (needs two photos)."""
    if center and len(features) > 1:
        features = features - features.mean(dim=0, keepdim=True)
    norm = features.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return features / norm * math.sqrt(features.shape[1])
