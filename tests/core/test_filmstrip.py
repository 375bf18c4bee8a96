"""The filmstrip: which steps it shows, and in which order."""

import pytest
import torch

from detex_pack.detex.canvas import filmstrip as strips
from detex_pack.detex.canvas.filmstrip import filmstrip, small, spread


def samples(*steps: int) -> dict[int, dict[str, torch.Tensor]]:
    """At step s every picture is of the grey s."""
    return {s: small({"[V]": torch.full((8, 8, 3), s / 255)}) for s in steps}


def test_sheet_has_a_column_for_each_step_in_their_order():
    sheet = filmstrip(samples(200, 100))
    row = (sheet[0, -20, :, 0] * 255).round().int().tolist()
    assert row.index(100) < row.index(200)
    assert sheet.shape[0] == 1 and sheet.shape[2] > 2 * strips.CELL


def test_sheet_has_a_row_for_each_caption():
    one = filmstrip(samples(50, 100))
    both = {step: {**kept, "[V] in water": kept["[V]"]} for step, kept in samples(50, 100).items()}
    assert filmstrip(both).shape[1] > one.shape[1] + strips.CELL


@pytest.mark.parametrize("count", [1, 2, 10, 11, 400])
def test_many_steps_are_thinned_out_evenly_with_both_ends(count: int):
    steps = list(range(0, 50 * count, 50))
    shown = spread(steps)
    assert shown[0] == steps[0] and shown[-1] == steps[-1]
    assert len(shown) == len(set(shown)) == min(count, 10)


def test_training_without_samples_says_so_in_place_of_them():
    sheet = filmstrip({})
    assert sheet.shape[0] == 1 and sheet.std() > 0


def test_large_pictures_are_kept_small():
    (kept,) = small({"[V]": torch.rand(1024, 512, 3)}).values()
    assert kept.shape == (256, 128, 3) and kept.dtype == torch.uint8
