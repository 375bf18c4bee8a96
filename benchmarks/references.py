"""The identities to learn, and reference photos whose background and position are confounded."""

from __future__ import annotations

import hashlib

import torch

from detex_pack.detex.toys.render import render
from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    NOISE_WIDTH,
    POSITIONS,
    SUBJECTS,
    Identity,
    Scenes,
    held_out_identities,
    indices,
    place,
)
from detex_pack.detex.toys.subjects import RATE_SUBJECTS, DemoSubject, home_and_away

_OTHER_BACKGROUNDS = 5  # beside the home background; two or more stay unseen, for edits
_OTHER_POSITIONS = 3  # beside the home position; one stays unseen
_TUNING_FURTHER = 4


def reported_identities(count: int) -> tuple[Identity, ...]:
    """The first `count` identities that reports may use: no setting was chosen on them. The base
    model's gate looks at Custom Diffusion on some of them (pretraining/gate.py).
    """
    own = tuple(s for i, s in enumerate(SUBJECTS) if i not in RATE_SUBJECTS)
    return _first(own + _further()[_TUNING_FURTHER:], count)


def tuning_identities(count: int) -> tuple[Identity, ...]:
    """The first `count` identities that settings are chosen on; none of them is reported."""
    own = tuple(SUBJECTS[i] for i in RATE_SUBJECTS)
    return _first(own + _further()[:_TUNING_FURTHER], count)


def _further() -> tuple[Identity, ...]:
    return held_out_identities()[len(SUBJECTS) :]


def _first(identities: tuple[Identity, ...], count: int) -> tuple[Identity, ...]:
    if not 1 <= count <= len(identities):
        raise ValueError(f"There are 1 to {len(identities)} such subjects, not {count}.")
    return identities[:count]


def reference_scenes(identity: Identity, count: int, rho: float, seed: int) -> Scenes:
    """Factors of `count` photos; a share rho of them has one background and one position.

    At least one photo has them, and at least one has neither unless rho is 1 or it is the only
    one. The other photos take other backgrounds and positions in turn.
    Raises ValueError for a senseless count or rho.
    """
    if count < 1:
        raise ValueError(f"A subject needs at least 1 photo, not {count}.")
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is a share between 0 and 1, not {rho}.")
    digest = hashlib.sha256(f"{identity} {seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
    home = count if rho == 1 else max(1, min(int(count * rho + 0.5), count - 1))
    position = home_and_away(len(POSITIONS), count, generator, home, _OTHER_POSITIONS)
    radius = 12.5 + 5.0 * torch.rand(count, generator=generator)
    return Scenes(
        **{name: torch.full((count,), index) for name, index in indices(identity).items()},
        background=home_and_away(len(BACKGROUNDS), count, generator, home, _OTHER_BACKGROUNDS),
        position=position,
        centre=place(position, radius, generator),
        radius=radius,
        angle=(torch.rand(count, generator=generator) * 2 - 1) * 0.5,
        noise=torch.rand(count, NOISE_WIDTH, generator=generator),
    )


def reference_photos(identity: Identity, count: int, rho: float, seed: int) -> DemoSubject:
    """The photos themselves with their exact masks."""
    scenes = reference_scenes(identity, count, rho, seed)
    return DemoSubject(*render(scenes), identity[0], scenes)
