"""Method 6.1, item 7: the low-rank form of a delta."""

import pytest
import torch

from detex_pack.detex.concept.compress import LowRankForms, low_rank
from detex_pack.detex.unet.deltas import LowRank


@pytest.fixture
def delta() -> torch.Tensor:
    return torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def test_whole_share_is_exact(delta: torch.Tensor):
    up, down = low_rank(delta, 1.0)
    assert up.shape == (12, 8) and down.shape == (8, 8)
    assert torch.equal(up @ down, delta)
    up, down = low_rank(delta.T, 1.0)
    assert up.shape == (8, 8) and torch.equal(up @ down, delta.T)


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


def test_sizes_are_those_of_the_low_rank_forms(delta: torch.Tensor):
    deltas = {"a": delta, "b": 2 * delta[:, :5]}
    (size,) = LowRankForms(deltas).sizes([0.6])
    pairs = {name: low_rank(matrix, 0.6) for name, matrix in deltas.items()}
    ranks = [len(down) for _, down in pairs.values()]
    assert size.ranks == (min(ranks), max(ranks))
    assert size.size == sum(4 * (up.numel() + down.numel()) for up, down in pairs.values())
    lost = sum((deltas[n] - up @ down).square().sum() for n, (up, down) in pairs.items())
    whole = sum(matrix.square().sum() for matrix in deltas.values())
    assert size.error == pytest.approx((lost / whole).sqrt().item(), rel=1e-4)


def test_share_of_one_stands_for_the_full_matrices(delta: torch.Tensor):
    (size,) = LowRankForms({"a": delta}).sizes([1.0])
    assert size == (1.0, None, 4 * 12 * 8, 0.0)


def test_share_of_one_stands_for_the_factors_of_low_rank_deltas(delta: torch.Tensor):
    factors = LowRank(delta[:, :3], delta[:3])
    (size,) = LowRankForms({"a": factors}).sizes([1.0])
    assert size == (1.0, (3, 3), 4 * 3 * (12 + 8), 0.0)


def test_sizes_fall_and_errors_grow_as_the_share_falls(delta: torch.Tensor):
    sizes = LowRankForms({"a": delta}).sizes([0.3, 0.9, 0.6])
    assert [size.share for size in sizes] == [0.9, 0.6, 0.3]
    assert sizes[0].size > sizes[1].size > sizes[2].size
    assert sizes[0].error < sizes[1].error < sizes[2].error


def test_zeros_lose_nothing():
    (size,) = LowRankForms({"a": torch.zeros(4, 3)}).sizes([0.6])
    assert size.error == 0


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_senseless_share_is_refused_for_all_matrices(delta: torch.Tensor, share: float):
    forms = LowRankForms({"a": delta})
    for form in (lambda: forms.factors(share), lambda: forms.sizes([share])):
        with pytest.raises(ValueError, match="must lie above 0 and up to 1"):
            form()
