"""Activations of the UNet's output blocks, collected while it runs."""

from dataclasses import dataclass, field

from torch import Tensor

LEAST_SIDE = 8  # cells


def quarter_grid(latents: Tensor) -> tuple[int, int]:
    """A quarter of the side of latents [B, 4, h, w]: 16 x 16 of 64 x 64. Half of it where that
    would have fewer than `LEAST_SIDE` cells.
    """
    h, w = latents.shape[-2:]
    part = 4 if min(h, w) // 4 >= LEAST_SIDE else 2
    return h // part, w // part


@dataclass
class FeatureTap:
    """What reaches the output blocks that work on `grid` (h, w), of one forward pass: of the first
    `rows` samples.
    """

    grid: tuple[int, int]
    rows: int
    found: list[Tensor] = field(default_factory=list, repr=False)  # [rows, C, h, w], one a block
    _closed: bool = field(default=False, repr=False)

    def close(self) -> None:
        """The forward pass is over: gradient checkpointing may run blocks again, not to count."""
        self._closed = True

    def add(self, activations: Tensor) -> None:
        """[B, C, h, w] of one block."""
        if not self._closed and tuple(activations.shape[-2:]) == self.grid:
            self.found.append(activations[: self.rows])

    def features(self) -> list[Tensor]:
        """[rows, L, C] of each block. Raises RuntimeError where no output block has this grid."""
        if not self.found:
            raise RuntimeError(
                f"No output block works on a {self.grid[0]}x{self.grid[1]} grid, so the contextual "
                "loss has no features. Use a resolution that is a multiple of 64, or set the "
                "weight of this loss to 0."
            )
        return [activations.flatten(2).mT for activations in self.found]
