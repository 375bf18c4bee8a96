"""Two LoRAs in a layer: one for every picture, one that the code of each picture scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from .deltas import Deltas, Layer, LowRank


@dataclass
class RowCodes:
    """The codes of the rows that the UNet was asked about last.

    They stay until it is asked again: gradient checkpointing computes layers a second time in the
    backward pass, and must find the same codes.
    """

    rows: Tensor | None = None  # [B, r]; None: no picture has a code

    def set(self, codes: Tensor | None, device: torch.device | str) -> None:
        self.rows = None if codes is None else codes.to(device)


class CodedDelta(NamedTuple):
    """up_A down_A + up_D diag(c) down_D, of the code c of each row; c = 0 is the anchor alone."""

    anchor: LowRank
    varied: LowRank  # as many directions as a code has numbers
    codes: RowCodes

    def apply(self, cond: Tensor) -> Tensor:
        """[B, T, in] -> [B, T, out], B as many as there are codes."""
        if self.codes.rows is None:
            return self.anchor.apply(cond)
        (up, down), (up_varied, down_varied) = self.anchor.factors(), self.varied.factors()
        downs, ups = torch.cat([down, down_varied]), torch.cat([up, up_varied], dim=1)
        rows = self.codes.rows.to(downs.dtype)
        gates = torch.cat([rows.new_ones(len(rows), len(down)), rows], dim=1)
        return linear(linear(cond.to(downs.dtype), downs) * gates[:, None], ups)


class CodedDeltas:
    """The anchor and what varies around it, of the same layers."""

    def __init__(self, anchor: Deltas, varied: Deltas, codes: RowCodes):
        self.anchor, self.varied, self.codes = anchor, varied, codes

    def of_layers(self) -> Sequence[tuple[Layer, CodedDelta]]:
        pairs = zip(self.anchor.of_layers(), self.varied.of_layers(), strict=True)
        return [
            (layer, CodedDelta(anchor, varied, self.codes))  # type: ignore[arg-type]
            for (layer, anchor), (_, varied) in pairs
        ]
