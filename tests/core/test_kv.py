"""K and V deltas, in bypass form."""

import pytest
import torch
from torch import nn

from detex_pack.detex.kv import KVDeltas, add_delta

SHAPES = {"a.attn2.to_k": (6, 4), "a.attn2.to_v": (6, 4)}


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


def test_deltas_start_at_zero_as_float32():
    for matrix in KVDeltas(SHAPES).named().values():
        assert matrix.dtype is torch.float32
        assert not matrix.any()


def test_deltas_carry_the_names_they_were_made_with():
    assert {n: tuple(p.shape) for n, p in KVDeltas(SHAPES).named().items()} == SHAPES


def test_export_is_a_copy():
    deltas = KVDeltas(SHAPES)
    exported = deltas.export()
    with torch.no_grad():
        deltas.matrices[0].fill_(1)
    assert not exported["a.attn2.to_k"].any()
