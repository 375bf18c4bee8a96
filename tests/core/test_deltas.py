"""K and V deltas, in bypass form."""

import pytest
import torch
from torch import nn

from detex_pack.detex.unet.deltas import (
    Delta,
    Deltas,
    Layer,
    LowRank,
    add_delta,
    as_matrix,
    text_layers,
)

LAYERS = (Layer("a.attn2.to_k", 6, 4, True), Layer("a.attn2.to_v", 6, 4, True))


def weights() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    cond = torch.randn(2, 3, 4, generator=generator)  # [B, T, in]
    base, delta = torch.randn(2, 6, 4, generator=generator)
    return cond, base, delta


def test_bypass_equals_the_summed_weight():
    cond, base, delta = weights()
    k = add_delta(nn.functional.linear(cond, base), cond, delta, detach_start_token=False)
    torch.testing.assert_close(k, nn.functional.linear(cond, base + delta), atol=1e-6, rtol=0)


def test_zero_delta_changes_no_bit():
    cond, base, delta = weights()
    k = nn.functional.linear(cond, base)
    assert torch.equal(add_delta(k, cond, torch.zeros_like(delta), detach_start_token=True), k)


def test_detaching_the_start_token_leaves_the_value_alone():
    cond, base, delta = weights()
    k = nn.functional.linear(cond, base)
    cut, whole = (add_delta(k, cond, delta, detach_start_token=flag) for flag in (True, False))
    assert torch.equal(cut, whole)


@pytest.mark.parametrize(("detach", "moved"), [(True, False), (False, True)])
def test_start_token_alone_trains_the_delta_only_when_not_detached(detach: bool, moved: bool):
    cond, base, delta = weights()
    cond = cond[:, :1].requires_grad_()  # a context of the start token only
    delta = delta.requires_grad_()
    k = add_delta(nn.functional.linear(cond, base), cond, delta, detach_start_token=detach)
    (k.square().sum() + 0 * delta.sum()).backward()
    assert bool(delta.grad.any()) is moved


def test_start_token_sends_no_gradient_to_the_text_either():
    cond, base, delta = weights()
    cond = cond.requires_grad_()
    k = add_delta(nn.functional.linear(cond, base), cond, delta, detach_start_token=True)
    k.square().sum().backward()
    assert not cond.grad[:, 0].any()
    assert cond.grad[:, 1:].all()


def test_half_precision_layer_keeps_its_dtype_and_the_delta_its_own():
    cond, base, delta = weights()
    delta = delta.requires_grad_()
    k = nn.functional.linear(cond.bfloat16(), base.bfloat16())
    k = add_delta(k, cond.bfloat16(), delta, detach_start_token=True)
    k.float().sum().backward()
    assert (k.dtype, delta.grad.dtype) == (torch.bfloat16, torch.float32)


def full(layers: tuple[Layer, ...] = LAYERS) -> Deltas:
    return Deltas(layers, None, torch.Generator())


def named(deltas: Deltas) -> dict[str, Delta]:
    return {layer.path: delta for layer, delta in deltas.of_layers()}


def test_deltas_start_at_zero_as_float32():
    for matrix in named(full()).values():
        assert matrix.dtype is torch.float32
        assert not matrix.any()


def test_deltas_carry_the_names_they_were_made_with():
    found = {path: tuple(delta.shape) for path, delta in named(full()).items()}
    assert found == {layer.path: (layer.out, layer.inp) for layer in LAYERS}


def test_export_is_a_copy():
    deltas = full()
    exported = deltas.export()
    with torch.no_grad():
        deltas.ups[0].fill_(1)
    assert not exported["a.attn2.to_k"].any()


def low_rank(rank: int = 2, seed: int = 0, layers=LAYERS, **settings) -> Deltas:
    return Deltas(layers, rank, torch.Generator().manual_seed(seed), **settings)


def test_low_rank_bypass_equals_that_of_its_matrix():
    cond, base, _ = weights()
    k = nn.functional.linear(cond, base)
    delta = LowRank(torch.randn(6, 2), torch.randn(2, 4), 1.5)
    ours, theirs = (
        add_delta(k, cond, d, detach_start_token=False) for d in (delta, as_matrix(delta))
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(as_matrix(delta), 1.5 * delta.up @ delta.down)


def test_low_rank_deltas_start_at_zero_and_can_leave_it():
    deltas = low_rank()
    for delta in named(deltas).values():
        assert not as_matrix(delta).any()
        as_matrix(delta).sum().backward()
    assert all(up.grad.any() for up in deltas.ups)


def test_rank_is_no_larger_than_the_matrix():
    assert {len(delta.down) for delta in named(low_rank(rank=16)).values()} == {4}


def test_first_step_moves_a_low_rank_delta_as_far_as_a_full_one():
    # Adam moves each number of `up` by the rate, up or down: the product, by rate * scale * sum of
    # r terms +-down, whose root mean square is scale * sqrt(r / in) = 1
    layers, moved = (Layer("k", 256, 512, True),), []
    for deltas in (full(layers), low_rank(16, layers=layers)):
        optimizer = torch.optim.Adam(deltas.parameters(), lr=1e-3)
        target = torch.randn(256, 512, generator=torch.Generator().manual_seed(1))
        (as_matrix(named(deltas)["k"]) * target).sum().backward()
        optimizer.step()
        moved.append(as_matrix(named(deltas)["k"]).square().mean().sqrt().item())
    assert moved == pytest.approx([1e-3, 1e-3], rel=0.1)


def test_low_rank_export_is_a_copy_with_the_scale_within():
    deltas = low_rank()
    with torch.no_grad():
        deltas.ups[0].fill_(1)
    live, filed = named(deltas)["a.attn2.to_k"], deltas.export()["a.attn2.to_k"]
    assert filed.scale == 1
    torch.testing.assert_close(as_matrix(filed), as_matrix(live))
    with torch.no_grad():
        deltas.ups[0].zero_()
    assert as_matrix(filed).any()


def test_low_rank_deltas_are_those_of_their_seed():
    downs = [low_rank(seed=seed).downs[0] for seed in (1, 1, 2)]
    assert torch.equal(downs[0], downs[1])
    assert not torch.equal(downs[0], downs[2])


def test_full_deltas_draw_no_number():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    Deltas(LAYERS, None, generator)
    assert torch.equal(generator.get_state(), before)
    Deltas(LAYERS, 2, generator)
    assert not torch.equal(generator.get_state(), before)


def test_unscaled_low_rank_is_lora_of_alpha_rank():
    deltas = low_rank(scaled=False)
    with torch.no_grad():
        deltas.ups[0].fill_(0.5)
    up, down = deltas.ups[0], deltas.downs[0]
    assert torch.equal(as_matrix(named(deltas)["a.attn2.to_k"]), up @ down)
    assert down.abs().max() <= 4**-0.5  # uniform within 1 / sqrt(in)


def test_text_layers_are_those_that_read_text():
    query = Layer("a.attn2.to_q", 6, 6, False)
    assert text_layers((query, *LAYERS)) == LAYERS
