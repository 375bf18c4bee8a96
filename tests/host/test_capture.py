"""Capture Attention: the image keeps every bit, and the maps are those of the chosen words."""

from collections.abc import Callable

import comfy.samplers
import comfy.sd
import comfy.supported_models
import nodes
import pytest
import tiny
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_custom_sampler import SamplerCustom
from torch import Tensor

from detex_pack.detex.host import attention as host_attention
from detex_pack.detex.host.attention import capture_attention
from detex_pack.detex.host.families import cross_attentions
from detex_pack.detex.host.text import word_positions
from detex_pack.detex.unet.attention import AttentionMaps, attention_probs
from detex_pack.nodes.attention import AttentionPreview, CaptureAttention

TEXT = "a red ball on (grass:1.3)"
WORDS = ("red ball", "grass")
SQUARE, WIDE, PAIR = (1, 8, 8), (1, 8, 14), (2, 10, 6)  # batch, h, w of the latents


def sample(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    shape: tuple[int, int, int] = SQUARE,
    text: str = TEXT,
    steps: int = 2,
    sampler: str = "euler",
) -> Tensor:
    """ComfyUI's own KSampler from start to end."""
    positive, negative = (nodes.CLIPTextEncode().encode(clip, t)[0] for t in (text, ""))
    batch, h, w = shape
    latent = {"samples": torch.zeros(batch, 4, h, w)}
    (out,) = nodes.common_ksampler(
        model, 3, steps, 4.0, sampler, "normal", positive, negative, latent
    )
    return out["samples"]


def captured(
    model: ModelPatcher, clip: comfy.sd.CLIP, words: tuple[str, ...] = WORDS, text: str = TEXT
) -> tuple[ModelPatcher, AttentionMaps]:
    positions = word_positions(clip, text, words)
    maps = AttentionMaps(tuple(positions))
    return capture_attention(model, maps, list(positions.values())), maps


@pytest.mark.parametrize("shape", [SQUARE, WIDE, PAIR], ids=["square", "wide", "two tall"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_sampled_image_keeps_every_bit(
    model: ModelPatcher, clip: comfy.sd.CLIP, shape: tuple, sampler: str
):
    plain = sample(model, clip, shape, sampler=sampler)
    assert torch.equal(sample(captured(model, clip)[0], clip, shape, sampler=sampler), plain)


def test_sampler_custom_is_captured_too(model: ModelPatcher, clip: comfy.sd.CLIP):
    positive, negative = (nodes.CLIPTextEncode().encode(clip, t)[0] for t in (TEXT, ""))
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
    patched, maps = captured(model, clip)

    def run(chosen: ModelPatcher) -> Tensor:
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        out = SamplerCustom.execute(
            chosen, True, 3, 4.0, positive, negative, sampler, sigmas, latent
        )
        return out.args[0]["samples"]

    assert torch.equal(run(patched), run(model))
    assert maps.heat_maps().shape == (2, 1, 8, 8)


@pytest.mark.parametrize("shape", [SQUARE, WIDE, PAIR], ids=["square", "wide", "two tall"])
def test_maps_have_a_plane_for_each_word_and_image(
    model: ModelPatcher, clip: comfy.sd.CLIP, shape: tuple
):
    patched, maps = captured(model, clip)
    sample(patched, clip, shape)
    assert maps.heat_maps().shape == (2, *shape)


def spied_maps(model: ModelPatcher, clip: comfy.sd.CLIP) -> Tensor:
    """Mean map of "red ball" over steps, layers and heads on the finest grid, gathered anew."""
    total: list[Tensor] = []

    def spy(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        if q.shape[1] == 64:
            rows = slice(0, 1) if options["cond_or_uncond"][0] == 0 else slice(1, 2)
            probs = attention_probs(q[rows], k[rows], options["n_heads"])
            total.append(probs.mean(dim=1)[0, :, 2:4].mean(dim=-1))  # start a red ball
        return optimized_attention(q, k, v, options["n_heads"])

    patched = model.clone()
    for layer in cross_attentions(model):
        patched.set_model_attn2_replace(spy, *layer.key)
    sample(patched, clip)
    return torch.stack(total).mean(dim=0).view(8, 8)


def test_map_is_the_mean_of_the_conditioned_attention_to_the_word(
    model: ModelPatcher, clip: comfy.sd.CLIP
):
    patched, maps = captured(model, clip, ("red ball",))
    sample(patched, clip)
    for grid in [g for g in maps._sums if g != (8, 8)]:  # the finest grid alone
        del maps._sums[grid]
    expected = spied_maps(model, clip)
    torch.testing.assert_close(maps.heat_maps()[0, 0], expected / expected.max(), atol=1e-5, rtol=0)


def test_images_of_a_batch_have_maps_of_their_own(model: ModelPatcher, clip: comfy.sd.CLIP):
    patched, maps = captured(model, clip)
    sample(patched, clip, PAIR)
    first, second = maps.heat_maps()[0]
    assert not torch.allclose(first, second, atol=1e-3)


def test_second_run_starts_with_empty_maps(model: ModelPatcher, clip: comfy.sd.CLIP):
    patched, maps = captured(model, clip)
    sample(patched, clip)
    once = maps.heat_maps()
    counts = dict(maps._counts)
    sample(patched, clip)
    assert torch.equal(maps.heat_maps(), once)
    assert dict(maps._counts) == counts


def test_run_at_another_size_leaves_no_map_of_the_old_size(
    model: ModelPatcher, clip: comfy.sd.CLIP
):
    patched, maps = captured(model, clip)
    sample(patched, clip, (1, 16, 16))
    sample(patched, clip, SQUARE)
    assert maps.heat_maps().shape == (2, 1, 8, 8)


def test_users_model_is_left_unpatched(model: ModelPatcher, clip: comfy.sd.CLIP):
    patched, maps = captured(model, clip)
    sample(patched, clip)
    maps.reset()
    sample(model, clip)
    assert "patches_replace" not in model.model_options["transformer_options"]
    assert not maps._sums


def counting_patch(calls: list) -> Callable:
    """Another pack's attn2 patch: it halves the attention."""

    def patch(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        calls.append(options["block"])
        return optimized_attention(q, k, v, options["n_heads"]) / 2

    return patch


@pytest.mark.parametrize("behind", [False, True], ids=["before the capture", "behind it"])
@pytest.mark.parametrize("key", [("input", 1), ("input", 1, 0), ("middle", 0, 0)])
def test_another_packs_patch_is_called_and_kept(
    model: ModelPatcher, clip: comfy.sd.CLIP, key: tuple, behind: bool
):
    calls: list = []

    def foreign(inner: ModelPatcher) -> ModelPatcher:
        patched = inner.clone()
        patched.set_model_attn2_replace(counting_patch(calls), *key)
        return patched

    expected = sample(foreign(model), clip)
    before = len(calls)
    watched, maps = captured(model if behind else foreign(model), clip)
    assert torch.equal(sample(foreign(watched) if behind else watched, clip), expected)
    assert len(calls) == 2 * before > 0
    assert not torch.equal(expected, sample(model, clip))
    assert maps.heat_maps().isfinite().all()


def their_block(block, x: Tensor, context=None, transformer_options: dict | None = None) -> Tensor:
    """A transformer block of another pack, as Advanced-ControlNet's: it calls what replaces the
    attention, and tells less of the layer than ComfyUI's block.
    """
    options = {**(transformer_options or {}), "n_heads": block.n_heads, "dim_head": block.d_head}
    x = x + block.attn1(block.norm1(x))
    n, layer = block.norm2(x), block.attn2
    key = (*options["block"], options["block_index"])
    replace = options.get("patches_replace", {}).get("attn2", {}).get(key)
    if replace:
        q, k, v = layer.to_q(n), layer.to_k(context), layer.to_v(context)
        n = layer.to_out(replace(q, k, v, options))
    else:
        n = layer(n, context=context)
    return block.ff(block.norm3(x + n)) + x + n


def test_blocks_of_another_pack_are_captured_in_the_layers_own_precision(
    model: ModelPatcher, clip: comfy.sd.CLIP, monkeypatch: pytest.MonkeyPatch
):
    asked: list = []

    def spied(*args, **kwargs) -> Tensor:
        asked.append(kwargs["attn_precision"])
        return optimized_attention(*args, **kwargs)

    monkeypatch.setattr(BasicTransformerBlock, "forward", their_block)
    for layer in cross_attentions(model):
        attn2 = model.get_model_object(f"diffusion_model.{layer.path}")
        monkeypatch.setattr(attn2, "attn_precision", torch.float32)
    expected = sample(model, clip)
    patched, maps = captured(model, clip)
    monkeypatch.setattr(host_attention, "optimized_attention", spied)
    assert torch.equal(sample(patched, clip), expected)
    assert set(asked) == {torch.float32}
    assert maps.heat_maps().isfinite().all()


def test_sampling_leaves_no_patch_on_the_captured_model(model: ModelPatcher, clip: comfy.sd.CLIP):
    patched, _ = captured(model, clip)
    sample(patched, clip)
    assert "patches_replace" not in patched.model_options["transformer_options"]


def test_two_captures_stack(model: ModelPatcher, clip: comfy.sd.CLIP):
    first_model, first = captured(model, clip, ("red ball",))
    both_model, second = captured(first_model, clip, ("grass",))
    image = sample(both_model, clip)
    assert torch.equal(image, sample(model, clip))
    alone_model, alone = captured(model, clip)
    sample(alone_model, clip)
    together = torch.cat([first.heat_maps(), second.heat_maps()])
    torch.testing.assert_close(together, alone.heat_maps(), atol=1e-6, rtol=0)


def test_learned_words_can_be_watched(model: ModelPatcher, clip: comfy.sd.CLIP):
    patched, maps = captured(model, clip, ("[V]", "[P2]"), "a [V] ball with [P2] view")
    sample(patched, clip, text="a dog ball with cat view")
    assert maps.heat_maps().shape == (2, 1, 8, 8)


def test_large_grids_are_left_alone(
    model: ModelPatcher, clip: comfy.sd.CLIP, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host_attention, "MAX_POSITIONS", 16)
    patched, maps = captured(model, clip)
    sample(patched, clip)
    assert set(maps._sums) == {(4, 4)}


def test_coarsest_grid_is_captured_however_large_it_is(
    model: ModelPatcher, clip: comfy.sd.CLIP, monkeypatch: pytest.MonkeyPatch
):
    patched, maps = captured(model, clip)
    sample(patched, clip)
    in_one_go = maps._sums[4, 4]
    monkeypatch.setattr(host_attention, "MAX_POSITIONS", 5)
    sample(patched, clip)
    assert set(maps._sums) == {(4, 4)}
    torch.testing.assert_close(maps._sums[4, 4], in_one_go)


def test_large_picture_of_sdxl_is_captured_and_keeps_every_bit():
    model, clip = tiny.tiny_model(comfy.supported_models.SDXL), tiny.tiny_sdxl_clip()
    patched, maps = captured(model, clip)
    large = (1, 68, 72)  # attention on 34 x 36 alone: 1224 positions
    assert torch.equal(sample(patched, clip, large), sample(model, clip, large))
    assert maps.heat_maps().shape == (2, 1, 34, 36)


def test_word_in_the_second_chunk_of_a_long_prompt_is_captured(
    model: ModelPatcher, clip: comfy.sd.CLIP
):
    text = "very " * 80 + "red ball"
    patched, maps = captured(model, clip, ("red ball",), text)
    sample(patched, clip, text=text)
    assert maps.heat_maps().shape == (1, 1, 8, 8)


def test_node_refuses_an_empty_list_of_words(model: ModelPatcher, clip: comfy.sd.CLIP):
    with pytest.raises(ValueError, match="No word to watch. Name some of the prompt"):
        CaptureAttention.execute(model, clip, TEXT, " , ")


def test_node_hands_on_the_model_and_the_words_maps(model: ModelPatcher, clip: comfy.sd.CLIP):
    patched, maps = CaptureAttention.execute(model, clip, TEXT, "red ball, grass").args
    assert torch.equal(sample(patched, clip), sample(model, clip))
    assert maps.words == WORDS


def preview(model: ModelPatcher, clip: comfy.sd.CLIP, pictures: int) -> tuple[Tensor, Tensor]:
    patched, maps = captured(model, clip)
    sample(patched, clip, PAIR)
    image = torch.rand(pictures, 40, 24, 3, generator=torch.Generator().manual_seed(0))
    return AttentionPreview.execute(maps, image).args


def test_preview_gives_a_mask_for_each_image_and_word(model: ModelPatcher, clip: comfy.sd.CLIP):
    sheet, masks = preview(model, clip, 2)
    assert masks.shape == (4, 40, 24)
    assert masks.min() >= 0 and masks.max() <= 1
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[3] == 3


def test_preview_refuses_images_of_another_run(model: ModelPatcher, clip: comfy.sd.CLIP):
    with pytest.raises(ValueError, match="2 images were sampled .* but 3 are wired"):
        preview(model, clip, 3)
