"""How much memory a training step takes, and how to make it fit."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..canvas.units import gigabytes

MARGIN = 1.1  # what is estimated, times this, must be free
NO_BACKWARD = "A pass whose memory is counted has no backward pass."


class SavedBytes:
    """Counts the storages that autograd would keep for the backward pass, each once.

    Nothing is kept: the pass needs no more memory than without gradients, and has no backward.
    `frozen` modules' own weights are there anyway and do not count. A part of the forward pass can
    be counted apart: what gradient checkpointing would not keep.
    """

    def __init__(self, *frozen: nn.Module):
        tensors = [t for module in frozen for t in (*module.parameters(), *module.buffers())]
        self._frozen = {ref.cdata for ref in map(_reference, tensors)}
        self._outside: dict[int, int] = {}  # storage -> bytes
        self._inputs: dict[int, int] = {}  # of blocks
        self._blocks: list[dict[int, int]] = []
        self._current = self._outside
        self._references: list[StorageWeakRef] = []  # while they live, no storage has another's key

    @contextmanager
    def counting(self) -> Iterator["SavedBytes"]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _nothing):
            yield self

    @contextmanager
    def block(self, *inputs: Tensor) -> Iterator[None]:
        """What is kept inside would be computed again from `inputs`, which would be kept."""
        for tensor in inputs:
            self._count(tensor, self._inputs)
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
        return sum((self._outside | inside).values())

    @property
    def checkpointed(self) -> int:
        """Bytes kept with it: what lies outside of the blocks, and the largest of them."""
        always = self._outside | self._inputs
        inside = [sum(s for k, s in block.items() if k not in always) for block in self._blocks]
        return sum(always.values()) + max(inside, default=0)

    def _pack(self, tensor: Tensor) -> None:
        self._count(tensor, self._current)

    def _count(self, tensor: Tensor, where: dict[int, int]) -> None:
        reference = _reference(tensor)
        if reference.cdata not in self._frozen:
            self._references.append(reference)
            where[reference.cdata] = tensor.untyped_storage().nbytes()


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _nothing(_packed: None) -> Tensor:
    raise RuntimeError(NO_BACKWARD)


@dataclass(frozen=True)
class LinearCost:
    """Bytes that grow with the photos in a pass."""

    start: float
    slope: float

    @classmethod
    def through(cls, one: float, two: float) -> "LinearCost":
        """From the bytes of a pass of one photo and of two."""
        return cls(2 * one - two, two - one)

    def at(self, photos: int) -> float:
        return self.start + self.slope * photos


@dataclass(frozen=True)
class Footprint:
    """Bytes of training beside the models' own weights; each photo with its prior image."""

    fixed: int  # gradients, the optimizer's averages
    plain: LinearCost
    checkpointed: LinearCost

    @classmethod
    def through(cls, fixed: int, one: SavedBytes, two: SavedBytes) -> "Footprint":
        """From a pass of one photo and one of two."""
        return cls(
            fixed=fixed,
            plain=LinearCost.through(one.kept, two.kept),
            checkpointed=LinearCost.through(one.checkpointed, two.checkpointed),
        )

    def bytes_for(self, photos: int, *, checkpointing: bool) -> float:
        """The most that a step holds, of passes of so many photos."""
        return self.fixed + (self.checkpointed if checkpointing else self.plain).at(photos)


def optimiser_bytes(optimisers: Iterable[torch.optim.Optimizer]) -> int:
    """A gradient and AdamW's two averages of each parameter, less the averages that are there."""
    total = 0
    for optimiser in optimisers:
        learned = [p for group in optimiser.param_groups for p in group["params"]]
        there = [t for state in optimiser.state.values() for t in state.values() if t.ndim]
        total += 3 * bytes_of(learned) - bytes_of(there)
    return total


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@dataclass(frozen=True)
class Plan:
    """How a step is computed."""

    passes: int  # of a step
    checkpointing: bool
    needs: float  # bytes
    whole: float  # bytes of one pass without checkpointing
    free: float

    @property
    def fits(self) -> bool:
        return self.needs * MARGIN <= self.free

    def __str__(self) -> str:
        how = describe_passes(self.passes, checkpointing=self.checkpointing)
        needs, free = gigabytes(self.needs), gigabytes(self.free)
        told = f"Memory: about {needs} for each step in {how}; {free} are free."
        if self.needs < self.whole:
            whole = gigabytes(self.whole)
            told += f" One pass without gradient checkpointing would take {whole}."
        if not self.fits:
            told += (
                " That may not be enough: lower the resolution of the photos, or leave the "
                "prior images out (lambda_pr 0)."
            )
        return told


def make_plan(footprint: Footprint, photos: int, free: float, least: int = 1) -> Plan:
    """The fastest plan that fits, of at least `least` passes: the fewest passes; then with gradient
    checkpointing, which computes the forward pass again. Where nothing fits, the smallest.
    """
    whole = footprint.bytes_for(photos, checkpointing=False)
    plans = [
        Plan(passes, checkpointing, needs, whole, free)
        for checkpointing in (False, True)
        for passes in _halvings(photos)
        if passes >= min(least, photos)
        for needs in [footprint.bytes_for(-(-photos // passes), checkpointing=checkpointing)]
    ]
    fitting = [plan for plan in plans if plan.fits]
    return fitting[0] if fitting else min(plans, key=lambda plan: plan.needs)


def _halvings(photos: int) -> list[int]:
    parts = [1]
    while parts[-1] < photos:
        parts.append(min(2 * parts[-1], photos))
    return parts


def describe_passes(passes: int, *, checkpointing: bool) -> str:
    """How a step is computed, in words."""
    how = "one pass" if passes == 1 else f"{passes} passes"
    return how + (" with gradient checkpointing" if checkpointing else "")
