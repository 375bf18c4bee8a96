"""What a training takes of a graphics card, by the preflight's own account."""

import pytest
import torch

from detex_pack.benchmarks.speed import memory
from detex_pack.detex.training.memory import SavedBytes


def test_fake_card_counts_what_autocast_keeps():
    """A linear layer keeps its input in half precision, and a copy of weights in float32."""
    with memory.as_on_a_card(), memory.autocast():
        layer = torch.nn.Linear(64, 32, device="cuda").requires_grad_(requires_grad=False)
        hidden = torch.zeros(8, 64, device="cuda", requires_grad=True)
        saved = SavedBytes(layer)
        with saved.counting():
            layer(hidden)
    assert saved.kept == 2 * 64 * 32


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pixels", "card"), [("sd15", 512, 8), ("sdxl", 1024, 16)])
def test_training_fits_the_cards_that_users_have(name: str, pixels: int, card: int):
    found = memory.planned(name, pixels)
    assert found["cards"][card]["fits"]
    assert found["cards"][card]["gb"] < card - memory.SPENT
