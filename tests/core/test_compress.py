"""Method 6.1, item 7: the low-rank form of a delta."""

import pytest
import torch

from detex_pack.detex.compress import low_rank


@pytest.fixture
def delta() -> torch.Tensor:
    return torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def test_whole_share_is_exact(delta: torch.Tensor):
    up, down = low_rank(delta, 1.0)
    assert up.shape == (12, 8) and down.shape == (8, 8)
    assert torch.allclose(up @ down, delta, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_error_is_the_root_of_the_dropped_squares(delta: torch.Tensor, share: float):
    up, down = low_rank(delta, share)
    dropped = torch.linalg.svdvals(delta)[up.shape[1] :]
    error = (delta - up @ down).norm()
    assert error.item() == pytest.approx(dropped.square().sum().sqrt().item(), abs=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_kept_values_stay_within_the_share_and_the_next_would_not(
    delta: torch.Tensor, share: float
):
    sigma = torch.linalg.svdvals(delta)
    kept = low_rank(delta, share)[0].shape[1]
    assert sigma[:kept].sum() <= share * sigma.sum() < sigma[: kept + 1].sum()


def test_one_value_is_kept_however_small_the_share(delta: torch.Tensor):
    up, down = low_rank(delta, 1e-6)
    assert up.shape == (12, 1) and down.shape == (1, 8)


def test_delta_of_zeros_stays_zero():
    up, down = low_rank(torch.zeros(4, 3), 0.6)
    assert up.shape == (4, 1) and not (up @ down).any()


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_senseless_share_is_refused(delta: torch.Tensor, share: float):
    with pytest.raises(ValueError, match="must lie above 0 and up to 1"):
        low_rank(delta, share)
