"""The worlds that a base model can be trained on, and where its files lie meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from detex_pack.detex.toyland import world as toyland
from detex_pack.detex.toys import world as toys

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs"


class World(Protocol):
    """The modules `detex.toys.world` and `detex.toyland.world`."""

    NAME: str
    WORDS: tuple[str, ...]  # of its captions
    HEADS: Mapping[str, int]  # what the judge tells of a picture
    CELL_KINDS: tuple[int, ...]  # kinds of each thing that the guide tells of a cell
    KNOWN: tuple[int, ...]  # widths of `known`
    GOALS: Mapping[str, float]  # least shares of the gate
    CLEAR: tuple[str, ...]  # unnamed parts of which the judge must be sure

    def sample_scenes(self, count: int, generator: torch.Generator) -> Any: ...
    def any_scenes(self, count: int, generator: torch.Generator) -> Any: ...
    def render(self, scenes: Any) -> tuple[torch.Tensor, torch.Tensor]: ...
    def write_captions(self, scenes: Any, generator: torch.Generator) -> list[str]: ...
    def told_toy(self, scenes: Any) -> torch.Tensor: ...
    def colour_shares(self, scenes: Any) -> torch.Tensor: ...
    def cell_kinds(self, scenes: Any) -> tuple[torch.Tensor, ...]: ...
    def factors(self, scenes: Any) -> dict[str, torch.Tensor]: ...
    def gate_captions(self, scenes: Any) -> list[str]: ...
    def gate_shares(self, seen: dict[str, torch.Tensor], scenes: Any) -> dict[str, float]: ...
    def subject_photos(self, number: int, count: int, seed: int) -> tuple[torch.Tensor, ...]: ...
    def subject_answers(self, number: int) -> tuple[dict[str, int], dict[str, int]]: ...
    def known(self, scenes: Any) -> tuple[torch.Tensor, ...]: ...


WORLDS: dict[str, World] = {each.NAME: each for each in (toys, toyland)}


@dataclass(frozen=True)
class Run:
    """A base model in the making: its world, and the folder of its checkpoints and sheets."""

    world: World
    folder: Path

    @classmethod
    def of(cls, name: str, folder: Path | None = None) -> Run:
        """The run of this world, in `runs/` where no folder is given."""
        return cls(WORLDS[name], folder or RUNS / name)

    def file(self, name: str) -> Path:
        """A file of the run."""
        return self.folder / name
