"""The loss functions: numbers by hand, gradients by finite differences."""

import itertools

import pytest
import torch
from torch import Tensor

from detex_pack.detex.unet.attention import AttentionTap, attention_probs
from detex_pack.detex.unet.losses import (
    EPS,
    TAPS,
    attention_loss,
    binding_loss,
    diffusion_loss,
    keep_loss,
    map_loss,
    scaled_map,
    separation_loss,
    smoothed,
    soft_iou,
    suppressed,
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


def test_keep_loss_is_the_mean_square_of_what_is_added_in_units_of_the_features_own():
    features = torch.tensor([[3.0, 1.0], [1.0, 3.0]])  # mean square 5
    added = [torch.full((2, 4), 1.0), torch.tensor([[0.0, 6.0], [0.0, 0.0]])]  # 1 and 9
    torch.testing.assert_close(keep_loss(added, features), torch.tensor(1.0))  # (1 + 9) / 2 / 5


def test_keep_loss_counts_a_layer_as_much_as_another_whatever_their_widths():
    features = torch.ones(3, 2)
    narrow, wide = torch.full((3, 1), 2.0), torch.zeros(3, 100)
    torch.testing.assert_close(keep_loss([narrow, wide], features), torch.tensor(2.0))


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


def test_taps_are_those_of_disendiffs_code():
    # exp(-(x / (2 * 0.5))^2) at -1, 0, 1 is 1/e, 1, 1/e; over their sum
    e = torch.e
    assert TAPS == pytest.approx((1 / (e + 2), e / (e + 2), 1 / (e + 2)), abs=1e-8)
    assert [round(tap, 4) for tap in TAPS] == [0.2119, 0.5761, 0.2119]


def test_one_cell_is_smoothed_into_the_taps_product():
    spot = torch.zeros(1, 5, 5)
    spot[0, 2, 2] = 1
    near = smoothed(spot)[0]
    assert near[2, 2].item() == pytest.approx(0.5761**2, abs=1e-4)  # .3319
    assert near[2, 1].item() == near[1, 2].item() == pytest.approx(0.5761 * 0.2119, abs=1e-4)
    assert near[1, 1].item() == pytest.approx(0.2119**2, abs=1e-4)  # .0449
    assert near.sum().item() == pytest.approx(1) and near[0].eq(0).all()


def test_border_sees_what_it_mirrors():
    ramp = torch.tensor([[[0.0, 1.0, 0.0]] * 3])
    # at the left edge the column to the left is that to the right: 0 + 2 x .2119
    assert smoothed(ramp)[0, :, 0].tolist() == pytest.approx([2 * 0.2119] * 3, abs=1e-4)
    assert smoothed(torch.ones(2, 4, 4)).allclose(torch.ones(2, 4, 4))


def test_suppression_smooths_then_squares():
    spot = torch.zeros(1, 5, 5)
    spot[0, 2, 2] = 1
    fades = suppressed(spot)[0]
    assert fades[2, 2].item() == pytest.approx(0.5761**4, abs=1e-4)  # .1101
    assert fades[1, 1].item() == pytest.approx(0.2119**4, abs=1e-4)
    assert suppressed(torch.ones(1, 4, 4)).allclose(torch.ones(1, 4, 4))  # a whole region stays


def plane(*cells: float) -> Tensor:
    """[1, 2, 2]"""
    return torch.tensor(cells, dtype=torch.float32).view(1, 2, 2)


ALL = torch.ones(1, 2, 2)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (plane(1, 1, 0, 0), plane(1, 1, 0, 0), 1.0),  # (2 + 1) / (2 + 1)
        (plane(1, 1, 0, 0), plane(0, 1, 0, 1), 2 / 4),  # (1 + 1) / (3 + 1)
        (plane(1, 1, 0, 0), plane(0, 0, 1, 1), 1 / 5),  # (0 + 1) / (4 + 1)
        (plane(0, 0, 0, 0), plane(0, 0, 0, 0), 1.0),
        # sum ab = .25, sums 1.5 and .5: (.25 + 1) / (2 - .25 + 1)
        (plane(0.5, 1, 0, 0), plane(0.5, 0, 0, 0), 1.25 / 2.75),
    ],
)
def test_soft_iou_is_worked_out_by_hand(first: Tensor, second: Tensor, expected: float):
    assert soft_iou(first, second, ALL).item() == pytest.approx(expected)
    assert soft_iou(second, first, ALL).item() == pytest.approx(expected)


def test_a_faint_map_is_not_even_like_itself():
    """(sum aa + 1) / (2 sum a - sum aa + 1) is 1 for binary maps alone."""
    faint = plane(0.5, 0.5, 0, 0)  # (.5 + 1) / (2 - .5 + 1)
    assert soft_iou(faint, faint, ALL).item() == pytest.approx(1.5 / 2.5)


def test_soft_iou_looks_at_valid_cells_only():
    valid = plane(1, 1, 1, 0)
    first, second = plane(1, 0, 0, 1), plane(1, 1, 0, 1)  # (1 + 1) / (1 + 2 - 1 + 1)
    assert soft_iou(first, second, valid).item() == pytest.approx(2 / 3)


def concepts(*planes: Tensor) -> Tensor:
    """Planes [1, 2, 2] -> [1, M, 2, 2]"""
    return torch.stack(planes, dim=1)


LEFT, RIGHT, TOP = plane(1, 0, 1, 0), plane(0, 1, 0, 1), plane(1, 1, 0, 0)


def test_binding_is_the_sum_over_concepts_of_one_minus_the_iou():
    words, classes = concepts(LEFT, TOP), concepts(TOP, TOP)
    # left against top (1 + 1) / (3 + 1): 1/2 is missing; top against top: nothing
    assert binding_loss(words, classes, ALL).tolist() == pytest.approx([0.5])
    assert binding_loss(concepts(LEFT), concepts(RIGHT), ALL).tolist() == pytest.approx([4 / 5])


def test_binding_moves_the_modifier_and_leaves_the_class_alone():
    words = concepts(LEFT, TOP).requires_grad_()
    classes = concepts(TOP, RIGHT).requires_grad_()
    binding_loss(words, classes, ALL).sum().backward()
    assert words.grad is not None and words.grad.any()
    assert classes.grad is None


def test_separation_of_two_is_their_iou_and_moves_both():
    classes = concepts(LEFT, TOP).requires_grad_()
    loss = separation_loss(classes, classes, ALL)
    assert loss.tolist() == pytest.approx([0.5])
    loss.sum().backward()
    assert classes.grad is not None and all(classes.grad[0, i].any() for i in range(2))
    swapped = concepts(TOP, LEFT)
    assert torch.equal(separation_loss(swapped, swapped, ALL), loss)


def test_separation_of_three_is_the_mean_of_the_pairs_and_of_one_nothing():
    classes = concepts(LEFT, RIGHT, TOP)  # 1/5, 1/2, 1/2
    assert separation_loss(classes, classes, ALL).tolist() == pytest.approx([1.2 / 3])
    assert separation_loss(concepts(LEFT), concepts(LEFT), ALL).tolist() == [0]


def test_separation_from_masks_keeps_each_class_off_the_others_mask():
    classes, masks = concepts(TOP, RIGHT).requires_grad_(), concepts(LEFT, RIGHT)
    # top off the right mask (1 + 1) / (3 + 1); right off the left mask 1 / 5
    loss = separation_loss(classes, masks, ALL)
    assert loss.tolist() == pytest.approx([(0.5 + 0.2) / 2])
    loss.sum().backward()
    assert classes.grad is not None and all(classes.grad[0, i].any() for i in range(2))


def calibrated(q: Tensor, k: Tensor, term: str) -> Tensor:
    """DisenDiff's terms of two samples as in training: maps -> scaled, smoothed -> scalar."""
    tap = AttentionTap(grid=GRID, rows=2)
    tap.add(attention_probs(q, k, HEADS))
    valid = torch.ones(2, *GRID, dtype=q.dtype)
    valid[1, 0] = 0

    def maps(*tokens: int) -> Tensor:
        found = [scaled_map(tap.token_map(torch.tensor([t, t])), "minmax", 1e-8) for t in tokens]
        return torch.stack(found, dim=1)

    words = smoothed(maps(1, 3).flatten(0, 1)).unflatten(0, (2, 2))
    classes = suppressed(maps(2, 4).flatten(0, 1)).unflatten(0, (2, 2))
    if term == "bind":
        return binding_loss(words, torch.ones_like(classes) / 2, valid).mean()
    return separation_loss(classes, classes, valid).mean()


@pytest.mark.parametrize("side", ["q", "k"])
@pytest.mark.parametrize("term", ["bind", "separate"])
def test_calibrations_gradient_agrees_with_finite_differences(term: str, side: str):
    tensors = dict(zip("qk", random_qk(), strict=True))
    moved = tensors[side].clone().requires_grad_()
    (slope,) = torch.autograd.grad(calibrated(**(tensors | {side: moved}), term=term), moved)
    direction = torch.randn(moved.shape, generator=torch.Generator().manual_seed(4)).double()

    def at(distance: float) -> float:
        there = tensors[side] + distance * direction
        return calibrated(**(tensors | {side: there}), term=term).item()

    step = 1e-5
    measured = (at(step) - at(-step)) / (2 * step)
    assert (slope * direction).sum().item() == pytest.approx(measured, rel=1e-6)
