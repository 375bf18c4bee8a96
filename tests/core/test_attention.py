"""Attention maps: computing and collecting them. ComfyUI's layers are in tests/host."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detex_pack.detex.unet.attention import AttentionMaps, AttentionTap, attend, attention_probs

HEADS = 2


def random_qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, HEADS * 4, generator=generator)
    k, v = torch.randn(2, 2, 5, HEADS * 4, generator=generator)
    return q, k, v


def test_probabilities_sum_to_one_over_the_tokens():
    q, k, _ = random_qkv()
    torch.testing.assert_close(attention_probs(q, k, HEADS).sum(-1), torch.ones(2, HEADS, 6))


def test_probabilities_by_hand():
    q = torch.tensor([[[2.0]]])  # one head of width 1: logits 2 ln 3 / 2 and 0
    k = torch.tensor([[[0.5493061443340549], [0.0]]])  # ln(3) / 2
    probs = attention_probs(q, k, heads=1)
    torch.testing.assert_close(probs, torch.tensor([[[[0.75, 0.25]]]]))


def test_open_softmax_equals_torchs_own_attention():
    q, k, v = random_qkv()
    out = attend(attention_probs(q, k, HEADS), v)
    split = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    stock = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, stock, atol=1e-6, rtol=0)


def test_half_precision_attention_is_computed_in_float32_and_handed_back_as_it_came():
    q, k, v = (t.bfloat16() for t in random_qkv())
    probs = attention_probs(q, k, HEADS)
    assert (probs.dtype, attend(probs, v).dtype) == (torch.float32, torch.bfloat16)


def one_hot_probs(tokens: list[int], of: int = 3) -> Tensor:
    """[1, 1, L, T]: each position looks at one token."""
    return F.one_hot(torch.tensor(tokens), of).float()[None, None]


def test_token_map_picks_each_samples_own_position():
    tap = AttentionTap(grid=(1, 2), rows=2)
    tap.add(torch.cat([one_hot_probs([0, 1]), one_hot_probs([2, 2])]))
    maps = tap.token_map(torch.tensor([1, 2]))
    assert maps.tolist() == [[[0, 1]], [[1, 1]]]


def test_token_map_is_the_mean_over_heads_and_layers():
    tap = AttentionTap(grid=(1, 2), rows=1)
    tap.add(torch.cat([one_hot_probs([1, 1]), one_hot_probs([1, 0])], dim=1))  # two heads
    tap.add(torch.cat([one_hot_probs([0, 0]), one_hot_probs([0, 0])], dim=1))
    assert tap.token_map(torch.tensor([1])).tolist() == [[[0.5, 0.25]]]  # 2 of 4, 1 of 4


def test_token_map_has_the_layout_of_the_grid():
    tap = AttentionTap(grid=(2, 3), rows=1)
    tap.add(one_hot_probs([0, 0, 0, 1, 0, 0]))  # row-major: second row, first column
    assert tap.token_map(torch.tensor([1])).tolist() == [[[0, 0, 0], [1, 0, 0]]]


def test_token_map_lets_gradients_through():
    probs = one_hot_probs([0, 1]).requires_grad_()
    tap = AttentionTap(grid=(1, 2), rows=1)
    tap.add(probs)
    tap.token_map(torch.tensor([1])).sum().backward()
    assert probs.grad.tolist() == [[[[0, 1, 0], [0, 1, 0]]]]


def test_grid_that_no_layer_has_is_an_error_with_a_remedy():
    with pytest.raises(RuntimeError, match=r"No cross-attention layer works on a 8x8 grid.*to 0"):
        AttentionTap(grid=(8, 8), rows=1).token_map(torch.tensor([1]))


def test_heat_maps_of_an_unused_capture_say_how_to_wire_it():
    with pytest.raises(ValueError, match="Wire the MODEL of Capture Attention into the sampler"):
        AttentionMaps(("dog",)).heat_maps()


def test_heat_map_peaks_at_one_for_each_word_and_image():
    maps = AttentionMaps(("dog", "cat"))
    maps.add(torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(0)), (2, 4))
    heat = maps.heat_maps()
    assert heat.shape == (2, 3, 2, 4)
    torch.testing.assert_close(heat.amax(dim=(2, 3)), torch.ones(2, 3))


def test_heat_map_does_not_depend_on_how_often_a_grid_was_seen():
    fine, coarse = torch.tensor([[[4.0, 0, 0, 0]]]), torch.tensor([[[0.0, 4.0]]])

    def heat(fine_times: int) -> Tensor:
        maps = AttentionMaps(("dog",))
        for _ in range(fine_times):
            maps.add(fine, (1, 4))
        maps.add(coarse, (1, 2))
        return maps.heat_maps()

    torch.testing.assert_close(heat(1), heat(3))


def test_heat_map_adds_grids_by_hand():
    maps = AttentionMaps(("dog",))
    maps.add(torch.tensor([[[1.0, 0.0]]]), (1, 2))
    maps.add(torch.tensor([[[0.5]]]), (1, 1))  # spread over both cells: 1.5 and 0.5, over 1.5
    torch.testing.assert_close(maps.heat_maps(), torch.tensor([[[[1.0, 1 / 3]]]]))


def test_maps_of_another_batch_size_replace_the_older_ones():
    maps = AttentionMaps(("dog",))
    maps.add(torch.rand(1, 1, 4), (2, 2))
    later = torch.tensor([[[0.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 2.0]]])
    maps.add(later, (2, 2))
    expected = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert torch.equal(maps.heat_maps()[0], expected)


def test_reset_forgets_everything():
    maps = AttentionMaps(("dog",))
    maps.add(torch.tensor([[[1.0, 0.0]]]), (1, 2))
    maps.reset()
    maps.add(torch.tensor([[[0.0, 1.0]]]), (1, 2))
    assert maps.heat_maps().tolist() == [[[[0, 1]]]]


def test_images_of_overlapping_windows_have_the_mean_of_their_own_maps():
    maps = AttentionMaps(("dog",))
    for images, first, second in (
        ((0, 1), [1.0, 0.0], [0.5, 0.5]),
        ((1, 2), [1.0, 0.5], [0.0, 1.0]),
    ):
        maps.add(torch.tensor([[first], [second]]), (1, 2), images, 3)
    # image 1 is in both: (0.5, 0.5) and (1, 0.5), in the mean (0.75, 0.5), over 0.75
    expected = torch.tensor([[[[1.0, 0.0]], [[1.0, 2 / 3]], [[0.0, 1.0]]]])
    torch.testing.assert_close(maps.heat_maps(), expected)
