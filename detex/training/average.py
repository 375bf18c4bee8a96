"""The average of what is learned over the last steps: single steps leave noise in the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BEGINNING = 10  # the average reaches back over a tenth of the first steps


class Average:
    """An exponential moving average of a module's parameters, beside them (Polyak and Juditsky,
    1992, average all steps alike; here the older ones fade).

    The newest step counts 1 / steps, and near the start more, for the first weights say nothing.
    """

    def __init__(self, module: nn.Module, steps: int):
        self.module, self.steps = module, steps
        self.values = self.copied()

    def copied(self) -> dict[str, Tensor]:
        """The module's own parameters at this moment."""
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Take in the weights after so many steps."""
        share = max(1 / self.steps, BEGINNING / (BEGINNING + step))
        for name, parameter in self.module.named_parameters():
            self.values[name].lerp_(parameter, share)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Put an earlier average back."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def settle(self) -> None:
        """Give the module the average for good."""
        self.give(self.values)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the module the average, and its own parameters back afterwards, to the bit."""
        own = self.copied()
        self.settle()
        try:
            yield
        finally:
            self.give(own)

    @torch.no_grad()
    def give(self, values: Mapping[str, Tensor]) -> None:
        """Write these into the module's parameters."""
        for name, parameter in self.module.named_parameters():
            parameter.copy_(values[name])
