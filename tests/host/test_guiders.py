"""The map is that of the watched prompt, whatever guider or guidance node calls the model."""

from collections.abc import Callable

import comfy.samplers
import comfy.sd
import nodes
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_cfg import CFGNorm, CFGZeroStar
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    CFGGuider,
    DualCFGGuider,
    DualModelGuider,
)
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_eps import EpsilonScaling, TemporalScoreRescaling
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from comfy_extras.nodes_fresca import FreSca
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_lumina2 import RenormCFG
from comfy_extras.nodes_mahiro import Mahiro
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import PerpNeg, PerpNegGuider
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple
from comfy_extras.nodes_tcfg import TCFG
from comfy_extras.nodes_tomesd import TomePatchModel
from comfy_extras.nodes_video_model import VideoLinearCFGGuidance, VideoTriangleCFGGuidance
from torch import Tensor

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.unet.attention import AttentionMaps
from detex_pack.nodes.attention import CaptureAttention
from detex_pack.nodes.compose import ComposePrompt

TEXT, NEGATIVES = "a red ball on grass", ("", "a blue house by the sea")
SIDE = 16  # of the latents: SAG leaves smaller ones alone

Cond = list
Guide = Callable[[ModelPatcher, Cond, Cond, Cond], object]  # model, watched, negative, empty


def first_output(node: type, *args, **kwargs):
    """Of a node of either form, V3 or V1."""
    run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    out = run(*args, **kwargs)
    return (out if isinstance(out, tuple) else out.args)[0]


def plain(model: ModelPatcher, watched: Cond, negative: Cond, _empty: Cond):
    return first_output(CFGGuider, model, watched, negative, 4.0)


GUIDERS: dict[str, Guide] = {
    "CFG 1": lambda m, w, n, _e: first_output(CFGGuider, m, w, n, 1.0),
    "basic": lambda m, w, _n, _e: first_output(BasicGuider, m, w),
    "dual cfg, cond1": lambda m, w, n, e: first_output(
        DualCFGGuider, m, w, e, n, 4.0, 3.0, "regular"
    ),
    "dual cfg, cond2": lambda m, w, n, e: first_output(
        DualCFGGuider, m, e, w, n, 4.0, 3.0, "regular"
    ),
    "dual cfg nested, cond1": lambda m, w, n, e: first_output(
        DualCFGGuider, m, w, e, n, 4.0, 3.0, "nested"
    ),
    "dual cfg nested, cond2": lambda m, w, n, e: first_output(
        DualCFGGuider, m, e, w, n, 4.0, 3.0, "nested"
    ),
    "dual cfg at 1": lambda m, w, n, e: first_output(
        DualCFGGuider, m, w, e, n, 1.0, 1.0, "regular"
    ),
    "dual model": lambda m, w, n, _e: first_output(DualModelGuider, m, w, 4.0, m.clone(), n),
    "perp-neg": lambda m, w, n, e: first_output(PerpNegGuider, m, w, n, e, 4.0, 1.0),
    "perp-neg without negative": lambda m, w, n, e: first_output(
        PerpNegGuider, m, w, n, e, 4.0, 0.0
    ),
}
GUIDANCE: dict[str, Callable[[ModelPatcher, Cond], ModelPatcher]] = {
    "perp-neg node": lambda m, e: first_output(PerpNeg, m, e, 1.0),
    "SAG": lambda m, _e: first_output(SelfAttentionGuidance, m, 0.5, 2.0),
    "PAG": lambda m, _e: first_output(PerturbedAttentionGuidance, m, 3.0),
    "SLG": lambda m, _e: first_output(SkipLayerGuidanceDiT, m, 3.0, 0.0, 1.0, "7", "7"),
    "SLG simple": lambda m, _e: first_output(SkipLayerGuidanceDiTSimple, m, 0.0, 1.0, "7", "7"),
    "CFG-Zero*": lambda m, _e: first_output(CFGZeroStar, m),
    "CFG norm": lambda m, _e: first_output(CFGNorm, m, 1.0),
    "TCFG": lambda m, _e: first_output(TCFG, m),
    "NAG": lambda m, _e: first_output(NAGuidance, m, 5.0, 0.5, 1.5),
    "APG": lambda m, _e: first_output(APG, m, 1.0, 5.0, 0.0),
    "rescale CFG": lambda m, _e: first_output(RescaleCFG, m, 0.7),
    "renorm CFG": lambda m, _e: first_output(RenormCFG, m, 100.0, 1.0),
    "Mahiro": lambda m, _e: first_output(Mahiro, m),
    "FreSca": lambda m, _e: first_output(FreSca, m, 1.0, 1.25, 5),
    "epsilon scaling": lambda m, _e: first_output(EpsilonScaling, m, 1.005),
    "TSR": lambda m, _e: first_output(TemporalScoreRescaling, m, 0.95, 1.0),
    "video linear": lambda m, _e: first_output(VideoLinearCFGGuidance, m, 1.0),
    "video triangle": lambda m, _e: first_output(VideoTriangleCFGGuidance, m, 1.0),
    "EasyCache": lambda m, _e: first_output(EasyCacheNode, m, 0.2, 0.15, 0.95, verbose=False),
    "LazyCache": lambda m, _e: first_output(LazyCacheNode, m, 0.2, 0.15, 0.95, verbose=False),
}
IN_THE_UNET = {  # these change the watched pass itself: a map of its own, but of the same prompt
    "NAG": GUIDANCE.pop("NAG"),
    "FreeU": lambda m, _e: first_output(FreeU, m, 1.1, 1.2, 0.9, 0.2),
    "FreeU 2": lambda m, _e: first_output(FreeU_V2, m, 1.3, 1.4, 0.9, 0.2),
    "HyperTile": lambda m, _e: first_output(HyperTile, m, 32, 2, 0, scale_depth=False),
    "ToMe": lambda m, _e: first_output(TomePatchModel, m, 0.3),
}


def encode(clip: comfy.sd.CLIP, text: str) -> Cond:
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def sampled(guider, steps: int = 1) -> Tensor:
    model = guider.model_patcher
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 8)
    noise = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas[: steps + 1], seed=3)


@pytest.fixture(scope="module")
def map_of(model: ModelPatcher, clip: comfy.sd.CLIP) -> Callable[..., Tensor]:
    """The map of "red ball" after one step: all start from the same noise."""

    def run(
        guide: Guide, patch=lambda m, _e: m, negative="", watched: Cond | None = None
    ) -> Tensor:
        empty = encode(clip, "")
        capturing, maps = CaptureAttention.execute(patch(model, empty), clip, TEXT, "red ball").args
        positive = encode(clip, TEXT) if watched is None else watched
        sampled(guide(capturing, positive, encode(clip, negative), empty))
        return maps.heat_maps()

    return run


@pytest.mark.parametrize("negative", NEGATIVES)
@pytest.mark.parametrize("name", GUIDERS)
def test_every_guider_shows_the_map_of_the_watched_prompt(map_of, name: str, negative: str):
    torch.testing.assert_close(map_of(GUIDERS[name], negative=negative), map_of(plain))


@pytest.mark.parametrize("negative", NEGATIVES)
@pytest.mark.parametrize("name", GUIDANCE)
def test_passes_that_a_guidance_node_adds_do_not_count(map_of, name: str, negative: str):
    torch.testing.assert_close(map_of(plain, GUIDANCE[name], negative), map_of(plain))


@pytest.mark.parametrize("name", IN_THE_UNET)
def test_nodes_that_change_the_pass_itself_are_seen_through(map_of, name: str):
    seen = map_of(plain, IN_THE_UNET[name])
    assert seen.shape == (1, 1, SIDE, SIDE)
    assert seen.isfinite().all() and seen.min() < seen.max()


@pytest.mark.parametrize("name", [*GUIDERS, *GUIDANCE])
def test_image_keeps_every_bit(model: ModelPatcher, clip: comfy.sd.CLIP, name: str):
    empty, negative = encode(clip, ""), encode(clip, NEGATIVES[1])
    patched = GUIDANCE[name](model, empty) if name in GUIDANCE else model
    guide = GUIDERS.get(name, plain)
    capturing = CaptureAttention.execute(patched, clip, TEXT, "red ball").args[0]
    watched = encode(clip, TEXT)
    alone, both = (
        sampled(guide(m, watched, negative, empty), steps=2) for m in (patched, capturing)
    )
    assert torch.equal(alone, both)


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_composed_prompt_is_found_in_either_branch(
    model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept, style: str
):
    watched, text = ComposePrompt.execute(clip, concept, "photo of a [V] ball", 2, 0).args
    empty = encode(clip, "")

    def seen(guide: Guide) -> Tensor:
        capturing, maps = CaptureAttention.execute(model, clip, text, "[V]").args
        sampled(guide(capturing, watched, encode(clip, NEGATIVES[1]), empty))
        return maps.heat_maps()

    expected = seen(plain)
    for order in (lambda w, e: (w, e), lambda w, e: (e, w)):
        both = seen(
            lambda m, w, n, e, order=order: first_output(
                DualCFGGuider, m, *order(w, e), n, 4.0, 3.0, style
            )
        )
        torch.testing.assert_close(both, expected)


def test_negative_that_was_zeroed_from_the_watched_prompt_does_not_count(map_of, clip):
    zeroed = nodes.ConditioningZeroOut().zero_out(encode(clip, TEXT))[0]
    guide: Guide = lambda m, w, _n, _e: first_output(CFGGuider, m, w, zeroed, 4.0)  # noqa: E731
    torch.testing.assert_close(map_of(guide), map_of(plain))


def regional(clip: comfy.sd.CLIP, text: str, *area: int) -> Cond:
    return nodes.ConditioningSetArea().append(encode(clip, text), *area, 1.0)[0]


def test_map_of_an_area_lies_in_that_area(map_of, clip: comfy.sd.CLIP):
    watched = regional(clip, TEXT, 64, 64, 64, 32)  # w, h, x, y in pixels: cells 8:16, 4:12
    seen = map_of(plain, watched=watched)[0, 0]
    assert seen.shape == (SIDE, SIDE)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[4:12, 8:16] = True
    assert seen[~inside].max() < seen[inside].min()
    assert seen[~inside][:16].max() == 0  # the upper rows; nearer, the coarse grid is smoothed


def test_map_of_an_area_does_not_change_with_the_negative(map_of, clip: comfy.sd.CLIP):
    watched = regional(clip, TEXT, 64, 64, 64, 32)  # ComfyUI makes a copy for the other branch
    first, second = (map_of(plain, negative=n, watched=watched) for n in NEGATIVES)
    torch.testing.assert_close(first, second)


def test_only_the_part_with_the_watched_text_counts(map_of, clip: comfy.sd.CLIP):
    other = encode(clip, "a blue house by the sea")
    both = nodes.ConditioningCombine().combine(other, encode(clip, TEXT))[0]
    torch.testing.assert_close(map_of(plain, watched=both), map_of(plain))


def captured(model: ModelPatcher, clip: comfy.sd.CLIP, text: str, words: str, prompt: Cond):
    capturing, maps = CaptureAttention.execute(model, clip, text, words).args
    sampled(plain(capturing, prompt, encode(clip, ""), []))
    return maps.heat_maps()


@pytest.mark.parametrize("text", ["a [x] dog", "a [V] dog", "a ［V］ dog", "a [cat] dog"])
def test_brackets_of_a_stock_prompt_are_text(model: ModelPatcher, clip: comfy.sd.CLIP, text: str):
    """The word behind them is found where CLIP Text Encode has put it."""
    at = [t for t, *_ in clip.tokenize(text)["l"][0]].index(clip.tokenize("dog")["l"][0][1][0])
    padded = "very " * (at - 1) + "dog"  # start, at - 1 words, dog
    capturing, maps = CaptureAttention.execute(model, clip, padded, "dog").args
    positions = {"detex_prompt": padded}
    marked = [[cond, options | positions] for cond, options in encode(clip, text)]
    sampled(plain(capturing, marked, encode(clip, ""), []))
    found = captured(model, clip, text, "dog", encode(clip, text))
    torch.testing.assert_close(found, maps.heat_maps())


def test_other_composed_prompt_than_the_watched_one_is_named(
    model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    composed = ComposePrompt.execute(clip, concept, "on grass a [V] ball", 0, 0).args[0]
    with pytest.raises(ValueError, match='reads "a .V. ball", but .* prompt is "on grass a .V. ba'):
        captured(model, clip, "a [V] ball", "[V]", composed)


def test_text_without_the_clauses_that_compose_added_is_the_same_prompt(
    model: ModelPatcher, clip: comfy.sd.CLIP, concept: Concept
):
    composed, text = ComposePrompt.execute(clip, concept, "a [V] ball", 1, 0).args
    shorter = captured(model, clip, "a [V] ball.", "[V]", composed)
    torch.testing.assert_close(shorter, captured(model, clip, text, "[V]", composed))


def test_word_beyond_the_sampled_prompt_is_named(model: ModelPatcher, clip: comfy.sd.CLIP):
    with pytest.raises(ValueError, match="token 83 of the text .* prompt ends after 77 tokens"):
        captured(model, clip, "very " * 80 + "red ball", "red", encode(clip, "a red ball"))


def test_compiled_model_is_refused_by_name(model: ModelPatcher, clip: comfy.sd.CLIP):
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    with pytest.raises(ValueError, match="The MODEL is compiled.*Torch Compile Model"):
        captured(compiled, clip, TEXT, "ball", encode(clip, TEXT))


def test_model_with_a_compiled_block_is_refused_too(model: ModelPatcher, clip: comfy.sd.CLIP):
    compiled, block = model.clone(), "diffusion_model.middle_block"
    compiled.add_object_patch(block, torch.compile(model.get_model_object(block), backend="eager"))
    with pytest.raises(ValueError, match="The MODEL is compiled"):
        captured(compiled, clip, TEXT, "ball", encode(clip, TEXT))


def test_prompt_whose_time_range_holds_no_step_is_told_from_a_missing_wire(
    model: ModelPatcher, clip: comfy.sd.CLIP
):
    late = nodes.ConditioningSetTimestepRange().set_range(encode(clip, TEXT), 0.9, 1.0)[0]
    with pytest.raises(ValueError, match="The sampler ran, but never computed the watched words"):
        captured(model, clip, TEXT, "ball", late)


def test_capture_that_was_never_sampled_says_how_to_wire_it():
    with pytest.raises(ValueError, match="Wire the MODEL of Capture Attention into the sampler"):
        AttentionMaps(("ball",)).heat_maps()


@pytest.mark.parametrize("words", ["[V] ball", "([V]:1.2)", "[V]，ball", "(red:1.1)、[V]"])
def test_words_may_be_written_as_in_the_prompt(
    model: ModelPatcher, clip: comfy.sd.CLIP, words: str
):
    assert CaptureAttention.execute(model, clip, "a red [V] ball", words).args[1].words
