"""How much memory a training step takes, and how to make it fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MARGIN = 1.1  # what is estimated, times this, must be free


class SavedBytes:
    """Counts the storages that autograd keeps for the backward pass, each once.

    `frozen` modules' own weights are there anyway and do not count. A part of the forward pass can
    be counted apart: what gradient checkpointing would not keep.
    """

    def __init__(self, *frozen: nn.Module):
        tensors = [t for module in frozen for t in (*module.parameters(), *module.buffers())]
        self._frozen = {t.untyped_storage().data_ptr() for t in tensors}
        self._outside: dict[int, int] = {}  # storage -> bytes
        self._blocks: list[dict[int, int]] = []
        self._current = self._outside

    @contextmanager
    def counting(self) -> Iterator["SavedBytes"]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _as_it_is):
            yield self

    @contextmanager
    def block(self, *inputs: Tensor) -> Iterator[None]:
        """What is kept inside would be computed again from `inputs`, which would be kept."""
        for tensor in inputs:
            self._count(tensor, self._outside)
        self._current = {}
        self._blocks.append(self._current)
        try:
            yield
        finally:
            self._current = self._outside

    @property
    def kept(self) -> int:
        """Bytes kept without gradient checkpointing."""
        inside = {key: size for block in self._blocks for key, size in block.items()}
        return sum(({**self._outside, **inside}).values())

    @property
    def checkpointed(self) -> int:
        """Bytes kept with it: what lies outside of the blocks, and the largest of them."""
        largest = max((sum(block.values()) for block in self._blocks), default=0)
        return sum(self._outside.values()) + largest

    def _pack(self, tensor: Tensor) -> Tensor:
        self._count(tensor, self._current)
        return tensor

    def _count(self, tensor: Tensor, where: dict[int, int]) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._frozen:
            where[storage.data_ptr()] = storage.nbytes()


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Line:
    """Bytes that grow with the photos in a pass."""

    start: float
    slope: float

    @classmethod
    def through(cls, one: float, two: float) -> "Line":
        """From the bytes of a pass of one photo and of two."""
        return cls(2 * one - two, two - one)

    def at(self, photos: int) -> float:
        return self.start + self.slope * photos


@dataclass(frozen=True)
class Footprint:
    """Bytes of training beside the models' own weights; each photo with its prior image."""

    fixed: int  # gradients, the optimizer's averages
    plain: Line
    checkpointed: Line

    def bytes_for(self, photos: int, *, checkpointing: bool) -> float:
        """The most that a step holds, of passes of so many photos."""
        return self.fixed + (self.checkpointed if checkpointing else self.plain).at(photos)


def optimizer_bytes(parameters: list[nn.Parameter]) -> int:
    """A gradient and AdamW's two averages of each parameter."""
    return sum(3 * p.numel() * p.element_size() for p in parameters)


@dataclass(frozen=True)
class Plan:
    """How a step is computed."""

    parts: int  # passes a step
    checkpointing: bool
    needs: float  # bytes
    whole: float  # bytes of one pass without checkpointing
    free: float
    photos: int

    @property
    def fits(self) -> bool:
        return self.needs * MARGIN <= self.free

    def __str__(self) -> str:
        how = way(self.parts, checkpointing=self.checkpointing)
        needs, free = _gigabytes(self.needs), _gigabytes(self.free)
        told = f"Memory: about {needs} for each step in {how}; {free} are free."
        if self.needs < self.whole:
            told += f" All {self.photos} photos in one pass would take {_gigabytes(self.whole)}."
        if not self.fits:
            told += (
                " That may not be enough: lower the resolution in Subject Images, or set lambda_pr "
                "to 0, which leaves the prior images out."
            )
        return told


def make_plan(footprint: Footprint, photos: int, free: float) -> Plan:
    """The fastest way that fits: fewest passes; then gradient checkpointing, which computes a third
    more. Where nothing fits, the smallest.
    """
    whole = footprint.bytes_for(photos, checkpointing=False)
    plans = [
        Plan(parts, checkpointing, needs, whole, free, photos)
        for checkpointing in (False, True)
        for parts in _halvings(photos)
        for needs in [footprint.bytes_for(-(-photos // parts), checkpointing=checkpointing)]
    ]
    fitting = [plan for plan in plans if plan.fits]
    return fitting[0] if fitting else min(plans, key=lambda plan: plan.needs)


def _halvings(photos: int) -> list[int]:
    parts = [1]
    while parts[-1] < photos:
        parts.append(min(2 * parts[-1], photos))
    return parts


def way(parts: int, *, checkpointing: bool) -> str:
    """How a step is computed, in words."""
    how = "one pass" if parts == 1 else f"{parts} passes"
    return how + (" with gradient checkpointing" if checkpointing else "")


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GB"
