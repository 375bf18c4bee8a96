"""Prompts through ComfyUI's CLIP: our differentiable walk of the tower, and where words stand."""

from pathlib import Path

import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.sd3_clip
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from detex_pack.detex.host.text import MARKERS, ComfyTextEncoder, word_positions
from detex_pack.detex.host.towers import tower_of
from detex_pack.detex.prompt.grammar import PromptTokens, training_prompt

TEXTS = ("", "photo of a dog", "a [ball], by the sea: 50% off! " + "very " * 40 + "far")
Y = training_prompt("dog", "pose", {"V", "P", "B"})
Y_BLANKED = training_prompt("dog", "pose", {"V", "P"})


@pytest.fixture(
    scope="module",
    params=[
        "SD 1.x",
        "SD 1.x clip skip",
        "SD 2.x",
        "SD 2.x last layer",
        "SDXL",
        "SDXL clip skip",
        "SDXL beyond the tower",
    ],
)
def any_clip(request: pytest.FixtureRequest, clip: comfy.sd.CLIP) -> comfy.sd.CLIP:
    made = {"2.x": tiny.tiny_sd2_clip, "XL": tiny.tiny_sdxl_clip}
    chosen = next((make() for name, make in made.items() if name in request.param), clip.clone())
    if "skip" in request.param:
        chosen.clip_layer(-3 if "XL" in request.param else -2)
    if "last layer" in request.param:
        chosen.clip_layer(-1)
    if "beyond" in request.param:  # as -14 on CLIP-L's twelve layers
        chosen.clip_layer(-4)
    return chosen


@pytest.mark.parametrize("text", TEXTS, ids=["empty", "short", "long"])
def test_our_encode_equals_comfyuis(any_clip: comfy.sd.CLIP, text: str):
    host = any_clip.encode_from_tokens(any_clip.tokenize(text))
    encoder = ComfyTextEncoder(any_clip)  # after it: both set the layer on the same towers
    ours = encoder.encode([encoder.tokenize(text)], [{}]).context
    torch.testing.assert_close(ours, host, atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", TEXTS, ids=["empty", "short", "long"])
def test_our_pooled_prompt_of_sdxl_equals_comfyuis(text: str):
    clip = tiny.tiny_sdxl_clip()
    encoder = ComfyTextEncoder(clip)
    _, host = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    ours = encoder.encode([encoder.tokenize(text)], [{}]).pooled
    assert ours.shape == (1, tiny.WIDTHS["g"])
    torch.testing.assert_close(ours, host, atol=1e-5, rtol=0)


def test_clip_skip_changes_the_encode(clip: comfy.sd.CLIP):
    skipping = clip.clone()
    skipping.clip_layer(-2)
    prompt = ComfyTextEncoder(clip).tokenize("photo of a dog")
    first, second = (ComfyTextEncoder(c).encode([prompt], [{}]).context for c in (clip, skipping))
    assert not torch.allclose(first, second, atol=1e-2)


def test_learned_word_equals_comfyuis_embedding_file(tmp_path: Path):
    vector = 0.05 * torch.randn(1, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"clip_l": vector}, tmp_path / "word.safetensors")
    clip = tiny.tiny_clip([str(tmp_path)])
    host = clip.encode_from_tokens(clip.tokenize("photo of a embedding:word dog"))
    encoder = ComfyTextEncoder(clip)
    ours = encoder.encode([encoder.tokenize("photo of a [V] dog")], [{"V": vector[0]}]).context
    torch.testing.assert_close(ours, host, atol=1e-5, rtol=0)


def words_at(prompt: PromptTokens) -> dict[str, int]:
    return {word: position for position, word in prompt.slots}


def test_full_caption_has_its_words_at_four_seven_and_ten(clip: comfy.sd.CLIP):
    # start photo of a [V] dog with [P] pose in [B] background
    assert words_at(ComfyTextEncoder(clip).tokenize(Y)) == {"V": 4, "P": 7, "B": 10}


def test_blanked_caption_has_no_background_word(clip: comfy.sd.CLIP):
    assert words_at(ComfyTextEncoder(clip).tokenize(Y_BLANKED)) == {"V": 4, "P": 7}


@pytest.mark.parametrize(
    ("prefix", "shift"),
    [("a far away ", 3), ("very small ", 2), ("zoomed in ", 3), ("close up ", 2)],
)
def test_prefix_shifts_every_word(clip: comfy.sd.CLIP, prefix: str, shift: int):
    caption = training_prompt("dog", "pose", {"V", "P", "B"}, prefix)
    places = words_at(ComfyTextEncoder(clip).tokenize(caption))
    assert places == {"V": 4 + shift, "P": 7 + shift, "B": 10 + shift}


@pytest.mark.parametrize(("class_word", "pieces"), [("rubber duck", 2), ("plushie", 2), ("dog", 1)])
def test_class_word_of_several_tokens_shifts_what_follows(
    clip: comfy.sd.CLIP, class_word: str, pieces: int
):
    caption = training_prompt(class_word, "view", {"V", "P", "B"})
    places = words_at(ComfyTextEncoder(clip).tokenize(caption))
    assert places == {"V": 4, "P": 6 + pieces, "B": 9 + pieces}


def test_tokens_around_a_word_are_those_of_the_plain_caption(clip: comfy.sd.CLIP):
    encoder = ComfyTextEncoder(clip)
    marked, plain = (
        encoder.tokenize("photo of a [V] dog").ids[0],
        encoder.tokenize("photo of a dog").ids[0],
    )
    assert marked[:4] + marked[5:7] == plain[:6]


def test_class_word_that_is_a_marker_takes_another_marker(clip: comfy.sd.CLIP):
    prompt = ComfyTextEncoder(clip).tokenize(f"photo of a [V] {MARKERS[0]}")
    assert prompt.slots == ((4, "V"),)


def test_prompt_with_every_marker_is_refused(clip: comfy.sd.CLIP):
    with pytest.raises(ValueError, match="Take one of these words out of the prompt: ucd, "):
        ComfyTextEncoder(clip).tokenize("[V] " + " ".join(MARKERS))


def test_caption_beyond_77_tokens_is_refused(clip: comfy.sd.CLIP):
    with pytest.raises(ValueError, match="longer than 77 tokens. Use shorter class words"):
        ComfyTextEncoder(clip).tokenize("photo of a [V] " + "dog " * 80)


def test_parentheses_in_a_caption_are_plain_text(clip: comfy.sd.CLIP):
    encoder = ComfyTextEncoder(clip)
    assert encoder.tokenize("a (dog)").ids != encoder.tokenize("a dog").ids


def vectors(seed: int = 0) -> dict[str, Tensor]:
    drawn = 0.05 * torch.randn(3, tiny.WIDTH, generator=torch.Generator().manual_seed(seed))
    return dict(zip("VPB", drawn, strict=True))


def test_features_up_to_the_attribute_word_are_the_same_with_and_without_background(
    clip: comfy.sd.CLIP,
):
    encoder = ComfyTextEncoder(clip)
    full, blanked = (
        encoder.encode([encoder.tokenize(text)], [vectors()]).context for text in (Y, Y_BLANKED)
    )
    assert torch.equal(full[:, :9], blanked[:, :9])  # the tower is causal
    assert not torch.allclose(full[:, 9:], blanked[:, 9:], atol=1e-3)


def test_subject_word_does_not_see_the_pose_word(clip: comfy.sd.CLIP):
    encoder = ComfyTextEncoder(clip)
    prompt = encoder.tokenize(Y)
    both = [vectors(), vectors() | {"P": vectors(1)["P"]}]
    cond = encoder.encode([prompt, prompt], both).context
    assert torch.equal(cond[0, :7], cond[1, :7])
    assert not torch.allclose(cond[0, 7], cond[1, 7], atol=1e-4)


def test_each_sample_gets_its_own_words(clip: comfy.sd.CLIP):
    encoder = ComfyTextEncoder(clip)
    prompts = [encoder.tokenize(Y), encoder.tokenize(Y_BLANKED)]
    both = encoder.encode(prompts, [vectors(0), vectors(1)]).context
    alone = encoder.encode(prompts[1:], [vectors(1)]).context
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("word", "VPB")
def test_gradient_reaches_every_learned_word(clip: comfy.sd.CLIP, word: str):
    encoder = ComfyTextEncoder(clip)
    live = {name: vector.requires_grad_() for name, vector in vectors().items()}
    encoder.encode([encoder.tokenize(Y)], [live]).context.square().sum().backward()
    assert live[word].grad.abs().max() > 0


def test_row_of_the_token_table_is_a_copy(clip: comfy.sd.CLIP):
    encoder = ComfyTextEncoder(clip)
    row = encoder.embedding_row(42170)
    table = encoder.towers[0].table.weight
    assert torch.equal(row, table[42170])
    row.zero_()
    assert table[42170].any()


def test_size_of_the_token_table_is_its_root_mean_square(clip: comfy.sd.CLIP):
    sizes = ComfyTextEncoder(clip).embedding_rms()
    assert sizes.tolist() == pytest.approx([0.02] * tiny.WIDTH, rel=0.01)  # as seeded


def test_tower_is_named_as_comfyui_names_it(clip: comfy.sd.CLIP):
    assert (tower_of(clip), tower_of(tiny.tiny_sd2_clip())) == ("l", "h")


def test_clip_of_another_kind_is_refused_by_name():
    sd3 = comfy.text_encoders.sd3_clip
    kind = sd3.sd3_clip(clip_l=True, clip_g=False, t5=False)
    target = comfy.supported_models_base.ClipTarget(sd3.SD3Tokenizer, kind)
    options = {"clip_l_model_config": tiny.DEEP}
    clip = comfy.sd.CLIP(target, model_options=options, disable_dynamic=True)
    with pytest.raises(ValueError, match="2.x or XL; the one wired here is a SD3.*. Wire the CLIP"):
        tower_of(clip)


def test_word_positions_of_placeholder_word_and_phrase(clip: comfy.sd.CLIP):
    text = "a [V] dog, a red ball and a dog"  # start a [V] dog , a red ball and a dog
    found = word_positions(clip, text, ["[V]", "dog", "red ball"])
    assert found == {"[V]": [2], "dog": [3, 10], "red ball": [6, 7]}


def test_word_positions_count_over_all_chunks(clip: comfy.sd.CLIP):
    text = "very " * 80 + "[V] dog"  # 75 words in the first chunk, 5 in the second: 77 + 1 + 5
    assert word_positions(clip, text, ["[V]", "dog"]) == {"[V]": [83], "dog": [84]}


def test_weighted_word_is_found_by_its_bare_form(clip: comfy.sd.CLIP):
    assert word_positions(clip, "a (red:1.3) ball", ["red"]) == {"red": [2]}


@pytest.mark.parametrize("word", ["cat", "[V]", "[P2]", "do"])
def test_word_that_the_prompt_lacks_is_named(clip: comfy.sd.CLIP, word: str):
    with pytest.raises(ValueError, match=r'is not in the prompt "a dog, a \[P1\]"'):
        word_positions(clip, "a dog, a [P1]", [word])
