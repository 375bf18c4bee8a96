"""What a step keeps, and the plan that makes it fit."""

import pytest
import torch
from torch import nn

from detex_pack.detex.training.memory import (
    Footprint,
    LinearCost,
    SavedBytes,
    make_plan,
    optimiser_bytes,
)

GB = 2**30


def test_each_storage_counts_once_and_weights_do_not():
    layer = nn.Linear(4, 4, bias=False).requires_grad_(requires_grad=False)
    x = torch.ones(2, 4, requires_grad=True)
    saved = SavedBytes(layer)
    with saved.counting():
        y = layer(x).exp()  # keeps its result: 8 numbers
        (y * y).sum()  # keeps y twice
    assert saved.kept == 8 * 4


def test_parts_of_the_pass_are_told_apart():
    x = torch.ones(8, requires_grad=True)
    saved = SavedBytes()
    with saved.counting():
        outside = x.exp()  # 32 bytes, also what goes into the first block
        with saved.block(outside):
            first = outside.exp().exp()  # 64 bytes
        with saved.block(first):
            first.exp()  # 32 bytes, and its input, which is the result before
    assert saved.kept == 32 + 64 + 32
    assert saved.checkpointed == (32 + 32) + 32  # the two inputs, and what a block adds to them


def test_checkpointing_without_blocks_saves_nothing():
    saved = SavedBytes()
    with saved.counting():
        torch.ones(8, requires_grad=True).exp()
    assert saved.checkpointed == saved.kept == 32


def test_equal_tensors_one_after_another_count_each():
    saved = SavedBytes()
    with saved.counting():
        x = torch.ones(8, requires_grad=True)
        for _ in range(5):  # each is freed before the next, whose address may be the same
            with saved.block(x * 1):
                (x * 2).exp()
    assert saved.kept == 5 * 32
    assert saved.checkpointed == 5 * 32 + 32


def test_optimizer_keeps_three_numbers_a_parameter_less_what_is_there():
    weight = nn.Parameter(torch.zeros(5))
    optimizer = torch.optim.AdamW([weight])
    assert optimiser_bytes([optimizer]) == 3 * 5 * 4
    weight.sum().backward()
    optimizer.step()
    assert optimiser_bytes([optimizer]) == 5 * 4


# one GB that every pass takes and one more a photo; a half and a quarter with checkpointing
FOOTPRINT = Footprint(
    0, LinearCost.through(2 * GB, 3 * GB), LinearCost.through(0.75 * GB, 1.0 * GB)
)


@pytest.mark.parametrize(
    ("free", "parts", "checkpointing"),
    [
        (5.5, 1, False),  # 5 GB and a tenth
        (5.4, 2, False),
        (3.2, 4, False),
        (2.1, 1, True),
        (1.6, 2, True),
        (1.0, 4, True),
    ],
)
def test_fewest_passes_come_first_then_checkpointing(free: float, parts: int, checkpointing: bool):
    plan = make_plan(FOOTPRINT, 4, free * GB)
    assert (plan.passes, plan.checkpointing, plan.fits) == (parts, checkpointing, True)


def test_where_nothing_fits_the_smallest_is_tried_and_the_cure_is_named():
    plan = make_plan(FOOTPRINT, 4, 0.5 * GB)
    assert (plan.passes, plan.checkpointing, plan.fits) == (4, True, False)
    assert str(plan) == (
        "Memory: about 0.8 GB for each step in 4 passes with gradient checkpointing; 0.5 GB are "
        "free. One pass without gradient checkpointing would take 5.0 GB. That may not be enough: "
        "lower the resolution of the photos, or leave the prior images out (lambda_pr 0)."
    )


def test_what_fits_whole_is_said_in_one_line():
    told = str(make_plan(FOOTPRINT, 4, 24 * GB))
    assert told == "Memory: about 5.0 GB for each step in one pass; 24.0 GB are free."


def test_three_photos_are_halved_to_passes_of_two_and_of_one():
    needs = [make_plan(FOOTPRINT, 3, free * GB).passes for free in (4.5, 3.4, 2.3)]
    assert needs == [1, 2, 3]


def test_a_run_that_needed_more_passes_keeps_them():
    plan = make_plan(FOOTPRINT, 4, 24 * GB, least=2)
    assert (plan.passes, plan.checkpointing) == (2, False)
