"""The loss functions: numbers by hand, gradients by finite differences."""

import itertools

import pytest
import torch
from torch import Tensor

from detex_pack.detex.unet.attention import AttentionTap, attention_probs
from detex_pack.detex.unet.losses import (
    EPS,
    attention_loss,
    diffusion_loss,
    map_loss,
    scaled_map,
    weighted_total,
)

NORMS = ("mse", "l1", "fro")
MAPS = ("max", "minmax", "raw")  # max_detach is checked on its own: its peak is held still
HEADS, GRID, TOKENS = 2, (3, 4), 5


def four_channels(value: float, cells: tuple[int, int] = (1, 2)) -> Tensor:
    return torch.full((1, 4, *cells), value)


def test_diffusion_loss_is_the_mean_square_over_channels_and_valid_cells():
    output = torch.zeros(1, 4, 1, 2)
    output[0, :, 0, 0] = torch.tensor([2.0, 2.0, 0.0, 0.0])  # mean square (4 + 4) / 4 = 2
    output[0, :, 0, 1] = 100.0  # not valid
    valid = torch.tensor([[[1.0, 0.0]]])
    loss = diffusion_loss(output, torch.zeros_like(output), valid)
    torch.testing.assert_close(loss, torch.tensor([2.0]))


def test_adobe_reduction_is_the_channel_count_times_the_mean():
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(2, 3, 4, 5, 5, generator=generator)
    valid = (torch.rand(3, 5, 5, generator=generator) > 0.3).float()
    adobe = diffusion_loss(output, target, valid, "adobe")
    torch.testing.assert_close(adobe, 4 * diffusion_loss(output, target, valid))


@pytest.mark.parametrize("reduction", ["mean", "adobe"])
def test_invalid_cells_have_no_gradient(reduction: str):
    output = four_channels(1.0).requires_grad_()
    valid = torch.tensor([[[1.0, 0.0]]])
    diffusion_loss(output, four_channels(0.0), valid, reduction).sum().backward()
    assert output.grad is not None
    assert torch.all(output.grad[..., 0] != 0)
    assert torch.all(output.grad[..., 1] == 0)


def test_sample_without_any_valid_cell_costs_nothing():
    loss = diffusion_loss(four_channels(1.0), four_channels(0.0), torch.zeros(1, 1, 2))
    assert loss.item() == 0


def test_each_sample_has_its_own_loss():
    output = torch.cat([four_channels(1.0), four_channels(3.0)])
    loss = diffusion_loss(output, torch.zeros_like(output), torch.ones(2, 1, 2))
    torch.testing.assert_close(loss, torch.tensor([1.0, 9.0]))


def test_map_blind_to_half_the_subject_costs_a_quarter():
    probs = torch.tensor([[[0.02, 0.0], [0.0, 0.0]]])  # max-scaled: one cell of two is hit
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])  # (0 + 1 + 0 + 0) / 4
    loss = map_loss(probs, target, torch.ones(1, 2, 2))
    torch.testing.assert_close(loss, torch.tensor([0.25]), atol=1e-4, rtol=0)


def test_map_loss_looks_at_valid_cells_only():
    probs = torch.tensor([[[0.04, 0.0], [0.02, 0.02]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    valid = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])  # (0 + 1 + 0.25) / 3
    loss = map_loss(probs, target, valid)
    torch.testing.assert_close(loss, torch.tensor([1.25 / 3]), atol=1e-4, rtol=0)


def test_l1_norm_is_the_mean_distance():
    probs = torch.tensor([[[0.04, 0.0], [0.01, 0.0]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])  # (0 + 1 + 0.25 + 0) / 4
    loss = map_loss(probs, target, torch.ones(1, 2, 2), norm="l1")
    torch.testing.assert_close(loss, torch.tensor([1.25 / 4]), atol=1e-4, rtol=0)


def test_fro_norm_is_the_root_of_the_sum_of_squares():
    probs = torch.tensor([[[0.04, 0.0], [0.03, 0.0]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])  # sqrt(0 + 1 + 0.5625 + 0) = 1.25
    loss = map_loss(probs, target, torch.ones(1, 2, 2), norm="fro")
    torch.testing.assert_close(loss, torch.tensor([1.25]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("how", "norm"), itertools.product(("max", "max_detach", "minmax"), NORMS))
def test_map_equal_to_its_target_costs_nothing(how: str, norm: str):
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    loss = map_loss(0.03 * target, target, torch.ones(1, 2, 2), how, norm)
    assert loss.item() < 1e-4  # EPS / 0.03, the guard against a dead map


def test_max_scaled_loss_does_not_care_how_much_attention_there_is():
    probs = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    target = (probs > 0.5).float()
    faint, strong = (map_loss(s * probs, target, torch.ones(2, 3, 3)) for s in (0.1, 1.0))
    torch.testing.assert_close(faint, strong, atol=1e-4, rtol=0)


def test_raw_map_loss_does_care():
    probs = torch.full((1, 2, 2), 0.1)
    target, valid = torch.ones(1, 2, 2), torch.ones(1, 2, 2)
    faint, strong = (map_loss(s * probs, target, valid, how="raw").item() for s in (1, 5))
    assert faint == pytest.approx(0.81)
    assert strong == pytest.approx(0.25)


def test_minmax_map_spans_zero_to_one():
    scaled = scaled_map(torch.tensor([[[0.2, 0.3], [0.4, 0.6]]]), "minmax")
    expected = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    torch.testing.assert_close(scaled, expected, atol=1e-4, rtol=0)


def test_dead_map_stays_finite():
    assert torch.isfinite(map_loss(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 2)))


def test_gradient_of_the_max_scaled_square_is_the_one_worked_out_on_paper():
    # d/da_j = (2/n) (r_j / M - [j is the maximum] sum_k r_k a_k / M^2), r = a/M - m
    probs = torch.tensor([[[0.2, 0.1], [0.4, 0.3]]], requires_grad=True)
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    map_loss(probs, target, torch.ones(1, 2, 2)).sum().backward()
    # M = 0.4; a/M = .5 .25 1 .75; r = -.5 .25 0 .75; sum r a = -.1 + .025 + 0 + .225 = .15
    expected = 0.5 * torch.tensor([[[-0.5 / 0.4, 0.25 / 0.4], [-0.15 / 0.16, 0.75 / 0.4]]])
    torch.testing.assert_close(probs.grad, expected, atol=1e-4, rtol=0)


def tapped_loss(q: Tensor, k: Tensor, how: str, norm: str) -> Tensor:
    """L_CA of two samples as in training: layer maps -> tap -> [P] and [B] terms -> scalar."""
    tap = AttentionTap(grid=GRID, rows=2)
    tap.add(attention_probs(q, k, HEADS))
    tap.add(attention_probs(q.flip(1), k, HEADS))
    subject = torch.zeros(2, *GRID, dtype=q.dtype)
    subject[:, 1:, 1:3] = 1
    valid = torch.ones_like(subject)
    valid[1, 0] = 0
    pose = map_loss(tap.token_map(torch.tensor([2, 3])), subject, valid, how, norm)
    background = map_loss(tap.token_map(torch.tensor([4, 1])), 1 - subject, valid, how, norm)
    return attention_loss(pose, background)


def random_qk() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, GRID[0] * GRID[1], HEADS * 3, generator=generator, dtype=torch.float64)
    k = torch.randn(2, TOKENS, HEADS * 3, generator=generator, dtype=torch.float64)
    return q, k


@pytest.mark.parametrize("side", ["q", "k"])
@pytest.mark.parametrize(("how", "norm"), itertools.product(MAPS, NORMS))
def test_attention_loss_gradient_agrees_with_finite_differences(how: str, norm: str, side: str):
    tensors = dict(zip("qk", random_qk(), strict=True))
    moved = tensors[side].clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        tapped_loss(**(tensors | {side: moved}), how=how, norm=norm), moved
    )
    direction = torch.randn(moved.shape, generator=torch.Generator().manual_seed(4)).double()

    def at(distance: float) -> float:
        return tapped_loss(
            **(tensors | {side: tensors[side] + distance * direction}), how=how, norm=norm
        ).item()

    step = 1e-5
    measured = (at(step) - at(-step)) / (2 * step)
    assert (slope * direction).sum().item() == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_detached_peak_gets_no_gradient_of_its_own(norm: str):
    probs = torch.rand(1, *GRID, generator=torch.Generator().manual_seed(5)).double() + 0.05
    target = (probs > 0.6).double()
    live = probs.clone().requires_grad_()
    map_loss(live, target, torch.ones_like(probs), "max_detach", norm).sum().backward()
    held = probs.clone().requires_grad_()  # the same formula with the peak as a constant
    scaled = held / (probs.max() + EPS)
    map_loss(scaled, target, torch.ones_like(probs), "raw", norm).sum().backward()
    torch.testing.assert_close(live.grad, held.grad, atol=1e-12, rtol=0)


def test_attention_loss_is_the_mean_over_samples_of_both_terms():
    loss = attention_loss(torch.tensor([0.2, 0.4]), torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(loss, torch.tensor(0.6))  # (0.8 + 0.4) / 2


def test_total_weighs_each_term_by_name():
    terms = {"prior": torch.tensor(2.0), "diffusion": torch.tensor(1.0)}
    total = weighted_total(terms, {"diffusion": 1.0, "prior": 0.5, "attention": 7.0})
    torch.testing.assert_close(total, torch.tensor(2.0))  # 0.5 * 2 + 1
