"""Compose: learned words in ComfyUI's prompt syntax."""

import dataclasses
from pathlib import Path

import comfy.sd
import nodes
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from detex_pack.detex.concept.file import CLIP_SKIP, Concept
from detex_pack.detex.host.text import compose, marked_tokens
from detex_pack.nodes.compose import ComposePrompt

WORDS = ("V", "P1", "P2", "P3", "B1", "B2", "B3")


def encoded(clip: comfy.sd.CLIP, text: str, vectors: dict[str, Tensor]) -> Tensor:
    return compose(clip, text, vectors)[0][0]


def stock(clip: comfy.sd.CLIP, text: str) -> Tensor:
    return nodes.CLIPTextEncode().encode(clip, text)[0][0][0]


def by_hand(clip: comfy.sd.CLIP, words: list, vectors: dict[str, Tensor]) -> Tensor:
    """CONDITIONING of a token list in which (word, weight) stands for a learned vector."""
    tokens = clip.tokenize("")["l"]
    filled = [(vectors[t][0], w) if isinstance(t, str) else (t, w) for t, w in words]
    tokens[0][1 : 1 + len(filled)] = filled
    return clip.encode_from_tokens({"l": tokens})


@pytest.fixture
def vectors(concept: Concept) -> dict[str, Tensor]:
    return concept.vectors("l")


def ids(clip: comfy.sd.CLIP, text: str) -> list[tuple]:
    """The tokens of plain words."""
    return [(t, w) for t, w, i in clip.tokenize(text, return_word_ids=True)["l"][0] if i]


@pytest.mark.parametrize("text", ["", "a (red:1.4) ball", "very " * 90 + "(far:0.8), away"])
def test_prompt_without_placeholders_is_encoded_as_by_comfyui(
    clip: comfy.sd.CLIP, vectors: dict[str, Tensor], text: str
):
    assert torch.equal(encoded(clip, text, vectors), stock(clip, text))


def test_word_takes_exactly_one_token(clip: comfy.sd.CLIP, vectors: dict[str, Tensor]):
    expected = by_hand(clip, [*ids(clip, "a"), ("V", 1.0), *ids(clip, "ball")], vectors)
    assert torch.equal(encoded(clip, "a [V] ball", vectors), expected)


@pytest.mark.parametrize("text", ["a ([V]:1.2) ball", "a ([V] :1.2) ball", "a ( [V]:1.2) ball"])
def test_weighted_word_keeps_its_weight(clip: comfy.sd.CLIP, vectors: dict[str, Tensor], text: str):
    expected = by_hand(clip, [*ids(clip, "a"), ("V", 1.2), *ids(clip, "ball")], vectors)
    assert torch.equal(encoded(clip, text, vectors), expected)


def test_weight_may_span_words_and_placeholder(clip: comfy.sd.CLIP, vectors: dict[str, Tensor]):
    red = [(token, 1.5) for token, _ in ids(clip, "red")]
    expected = by_hand(clip, [*red, ("V", 1.5), *ids(clip, "ball")], vectors)
    assert torch.equal(encoded(clip, "(red [V]:1.5) ball", vectors), expected)


@pytest.mark.parametrize("text", ["a [V], ball", "a [V] , ball", "a [V],ball", "a[V],ball"])
def test_punctuation_may_touch_a_word(clip: comfy.sd.CLIP, vectors: dict[str, Tensor], text: str):
    rest = [*ids(clip, ","), *ids(clip, "ball")]
    expected = by_hand(clip, [*ids(clip, "a"), ("V", 1.0), *rest], vectors)
    assert torch.equal(encoded(clip, text, vectors), expected)


def test_word_may_come_again(clip: comfy.sd.CLIP, vectors: dict[str, Tensor]):
    expected = by_hand(clip, [("V", 1.0), *ids(clip, "and"), ("V", 1.0), ("B2", 1.0)], vectors)
    assert torch.equal(encoded(clip, "[V] and [V] [B2]", vectors), expected)


def test_word_beyond_77_tokens_lands_in_the_second_chunk(
    clip: comfy.sd.CLIP, vectors: dict[str, Tensor]
):
    text = "very " * 80 + "[V] ball"
    cond = encoded(clip, text, vectors)
    assert cond.shape == (1, 154, tiny.WIDTH)
    assert marked_tokens(clip, text)["l"].places == [
        (1, 6, "V")
    ]  # 75 words in the first chunk; start and 5 more before it
    other = encoded(clip, text, vectors | {"V": vectors["P1"]})
    assert torch.equal(cond[:, :83], other[:, :83])
    assert not torch.allclose(cond[:, 83], other[:, 83], atol=1e-5)


def test_every_word_changes_the_conditioning_where_it_stands(
    clip: comfy.sd.CLIP, vectors: dict[str, Tensor]
):
    text = " ".join(f"[{word}]" for word in WORDS)
    cond = encoded(clip, text, vectors)
    for at, word in enumerate(WORDS, start=1):
        other = encoded(clip, text, vectors | {word: vectors[word].flip(-1)})
        changed = (cond - other).abs().amax(dim=-1)[0] > 1e-6
        assert changed.nonzero()[0].item() == at


def test_break_of_a_weighted_group_around_a_placeholder_is_comfyuis_own(
    clip: comfy.sd.CLIP, vectors: dict[str, Tensor]
):
    expected = by_hand(clip, [("V", 1.1**2), *ids(clip, "ball")], vectors)
    torch.testing.assert_close(encoded(clip, "(([V])) ball", vectors), expected)


def test_vector_of_another_width_is_an_error_not_a_log_line(
    clip: comfy.sd.CLIP, vectors: dict[str, Tensor]
):
    with pytest.raises(ValueError, match=r"word \[V\] has 7 numbers, but this CLIP reads 32"):
        compose(clip, "a [V] ball", vectors | {"V": torch.zeros(1, 7)})


def test_placeholder_glued_to_a_stock_embedding_is_not_swallowed(
    tmp_path: Path, vectors: dict[str, Tensor]
):
    save_file({"clip_l": vectors["P1"]}, tmp_path / "word.safetensors")
    clip = tiny.tiny_clip([str(tmp_path)])
    expected = by_hand(clip, [("P1", 1.0), ("V", 1.0), *ids(clip, "ball")], vectors)
    assert torch.equal(encoded(clip, "embedding:word[V] ball", vectors), expected)


def run_node(clip: comfy.sd.CLIP, concept: Concept, text: str, pose: int = 0, background: int = 0):
    return ComposePrompt.execute(clip, concept, text, pose, background).args


def test_widgets_add_the_trained_clauses_in_trained_order(clip: comfy.sd.CLIP, concept: Concept):
    conditioning, text = run_node(clip, concept, "photo of a [V] ball.", 2, 1)
    assert text == "photo of a [V] ball with [P2] view in [B1] background"
    assert torch.equal(conditioning[0][0], encoded(clip, text, concept.vectors("l")))


def test_widgets_at_zero_add_nothing(clip: comfy.sd.CLIP, concept: Concept):
    assert run_node(clip, concept, "photo of a [V] ball")[1] == "photo of a [V] ball"


@pytest.mark.parametrize(
    ("text", "pose", "background", "asked"),
    [
        ("a [V] ball", 4, 0, r"\[P4\]"),
        ("a [V] ball", 0, 9, r"\[B9\]"),
        ("a [Q] ball with [P7]", 0, 0, r"\[P7\], \[Q\]"),
        ("a [v] ball", 0, 0, r"\[v\]"),
    ],
)
def test_wrong_number_or_unknown_word_lists_what_there_is(
    clip: comfy.sd.CLIP, concept: Concept, text: str, pose: int, background: int, asked: str
):
    there = r"\[V\], \[P1\], \[P2\], \[P3\], \[B1\], \[B2\], \[B3\]\."
    with pytest.raises(ValueError, match=f"asks for {asked}, but this concept has {there}"):
        run_node(clip, concept, text, pose, background)


@pytest.mark.parametrize("written", ["[V|P2]", "[P 2]", "<V>", "[V", r"\[V\]", "[V\u200b]"])
def test_near_placeholder_is_refused(clip: comfy.sd.CLIP, concept: Concept, written: str):
    with pytest.raises(ValueError, match="in the prompt is no placeholder, .* Write "):
        run_node(clip, concept, f"a {written} ball with [V] toys")


@pytest.mark.parametrize("written", ["［V］", "【V】", "[Ｖ]"])
def test_full_width_placeholder_is_the_learned_word(
    clip: comfy.sd.CLIP, concept: Concept, written: str
):
    wide, right = (run_node(clip, concept, f"a {w} ball")[0] for w in (written, "[V]"))
    assert torch.equal(wide[0][0], right[0][0])


def said(clip: comfy.sd.CLIP, concept: Concept, *args, **kwargs) -> str:
    return ComposePrompt.execute(clip, concept, *args, **kwargs).ui.as_dict()["text"][0]


def test_prompt_without_the_subject_is_said_on_the_node(clip: comfy.sd.CLIP, concept: Concept):
    assert "This prompt has no [V]" in said(clip, concept, "photo of a ball", 0, 0)
    assert said(clip, concept, "a [V] ball", 0, 0) == "a [V] ball"


def test_subject_is_inserted_where_it_is_wanted(clip: comfy.sd.CLIP, concept: Concept):
    inserted = ComposePrompt.execute(clip, concept, "photo of a ball", 0, 0, insert_v=True)
    conditioning, text = inserted.args
    assert text == "photo of a [V] ball"
    assert torch.equal(conditioning[0][0], encoded(clip, text, concept.vectors("l")))


def test_final_full_stop_stays_where_nothing_is_added(clip: comfy.sd.CLIP, concept: Concept):
    assert run_node(clip, concept, "photo of a [V] ball.")[1] == "photo of a [V] ball."


@pytest.mark.parametrize(("trained", "used"), [(None, -2), (-2, None), (-1, -2), (-2, -1)])
def test_other_clip_skip_than_in_training_is_said_on_the_node(
    clip: comfy.sd.CLIP, concept: Concept, trained: int | None, used: int | None
):
    settings = {} if trained is None else {CLIP_SKIP: trained}
    learned = dataclasses.replace(concept, config={**concept.config, **settings})
    for layer in (trained, used):
        assert clip_skip_is_said(clip, learned, layer) == (layer == used)


@pytest.mark.parametrize("used", [None, -1])
def test_last_layer_by_its_number_is_no_other_clip_skip(
    clip: comfy.sd.CLIP, concept: Concept, used: int | None
):
    assert not clip_skip_is_said(clip, concept, used)


def clip_skip_is_said(clip: comfy.sd.CLIP, concept: Concept, layer: int | None) -> bool:
    here = clip.clone()
    here.layer_idx = layer
    output = ComposePrompt.execute(here, concept, "a [V] ball", 0, 0)
    return "when the concept was trained" in output.ui.as_dict()["text"][0]


def test_clip_skip_of_a_training_is_in_its_concept(train, model, clip: comfy.sd.CLIP):
    skipping = clip.clone()
    skipping.clip_layer(-2)
    assert train(on=(model, skipping), steps=1)[0].config[CLIP_SKIP] == -2
    assert CLIP_SKIP not in train(steps=1)[0].config
