"""The average of the last steps' weights."""

import pytest
import torch
from torch import nn

from detex_pack.detex.training.average import BEGINNING, Average
from detex_pack.detex.training.config import TrainConfig


@pytest.fixture
def module() -> nn.Linear:
    made = nn.Linear(1, 1)
    fill(made, 0.0)
    return made


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def value(module: nn.Module) -> float:
    return next(iter(module.parameters())).item()


def test_newest_step_counts_one_part_of_so_many_late_and_more_at_first(module: nn.Linear):
    average = Average(module, 50)
    fill(module, 1.0)
    average.add(1)
    assert average.values["weight"].item() == pytest.approx(BEGINNING / (BEGINNING + 1))
    average = Average(module, 50)
    fill(module, 2.0)
    average.add(600)
    assert average.values["weight"].item() == pytest.approx(1 + 1 / 50)


def test_steady_weights_are_their_own_average_to_the_bit(module: nn.Linear):
    fill(module, 0.1)
    average = Average(module, 7)
    for step in range(1, 100):
        average.add(step)
    assert average.values["weight"].item() == value(module)


def test_module_has_the_average_while_it_is_in_place_and_its_own_after(module: nn.Linear):
    average = Average(module, 50)
    fill(module, 0.3)
    own = value(module)
    with pytest.raises(RuntimeError, match="within"), average.in_place():
        assert value(module) == 0.0
        raise RuntimeError("within")
    assert value(module) == own
    average.settle()
    assert value(module) == 0.0


def test_fewer_steps_than_one_are_refused():
    with pytest.raises(ValueError, match="averaged_steps must be at least 1.*got 0"):
        TrainConfig(averaged_steps=0)
