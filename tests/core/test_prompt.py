"""Prompts with placeholders."""

import pytest

from detex_pack.detex.prompt.captions import VIEWS, neutral_captions
from detex_pack.detex.prompt.grammar import (
    PromptTokens,
    attribute_word,
    check_words,
    plain_caption,
    split_placeholders,
    training_prompt,
    with_article,
    with_clauses,
)


def test_full_caption_is_the_papers_y():
    caption = training_prompt("dog", "pose", {"V", "P", "B"})
    assert caption == "photo of a [V] dog with [P] pose in [B] background"


def test_blanked_caption_has_no_background_clause():
    assert training_prompt("boot", "view", {"V", "P"}) == "photo of a [V] boot with [P] view"


def test_prior_caption_has_no_learned_word():
    assert training_prompt("dog", "pose", ()) == "photo of a dog"


def test_scaled_copy_puts_its_prefix_first():
    assert training_prompt("dog", "pose", {"V"}, "a far away ") == "a far away photo of a [V] dog"


@pytest.mark.parametrize(
    ("class_word", "word"),
    [
        ("dog", "pose"),
        ("Cat", "pose"),
        ("dogs", "pose"),
        ("two foxes", "pose"),
        ("golden retriever dog", "pose"),
        ("golden retriever", "pose"),
        ("puppies", "pose"),
        ("teddy bear", "view"),
        ("hot dog", "view"),
        ("rubber duck", "view"),
        ("toy dog", "view"),
        ("bear plushie", "view"),
        ("stuffed animal", "view"),
        ("boot", "view"),
        ("dog bowl", "view"),
        ("dog's", "pose"),
        ("Dog!", "pose"),
        ("brown dog with hat", "pose"),
        ("bowl with a dog on it", "view"),
        ("dog in a teacup", "pose"),
        ("dog-shaped lamp", "view"),
    ],
)
def test_living_things_have_a_pose_and_objects_a_view(class_word: str, word: str):
    assert attribute_word(class_word) == word


@pytest.mark.parametrize(
    "phrase",
    ["a dog", "an apple", "an Umbrella", "an hourglass", "an heirloom", "a unicorn", "a uniform"]
    + [
        "a used car",
        "a European bison",
        "an urn",
        "an unimportant toy",
        "a ukulele",
        "an oneiric egg",
    ]
    + ["a one-eyed cat", "an iron"],
)
def test_article_follows_the_sound(phrase: str):
    assert with_article(phrase.partition(" ")[2]) == phrase


def test_prior_caption_of_an_apple():
    assert training_prompt("apple", "view", ()) == "photo of an apple"
    assert training_prompt("apple", "view", {"V"}) == "photo of a [V] apple"


def test_pieces_and_placeholders_of_a_prompt_alternate():
    pieces, words = split_placeholders("a ([V]:1.2) dog, [P2].")
    assert pieces == ["a (", ":1.2) dog, ", "."]
    assert words == ["V", "P2"]


def test_placeholder_may_have_spaces_inside_its_brackets():
    assert split_placeholders("a [V ] dog, [ P2]")[1] == ["V", "P2"]


def test_brackets_around_other_text_are_no_placeholder():
    assert split_placeholders("a [dog] [12] [VV1] []")[1] == []


def test_clauses_follow_the_trained_order():
    text = with_clauses("a [V] dog on a beach", "pose", 2, 1)
    assert text == "a [V] dog on a beach with [P2] pose in [B1] background"


def test_number_zero_adds_no_clause():
    assert with_clauses("a [V] dog", "pose", 0, 0) == "a [V] dog"


@pytest.mark.parametrize("text", ["a [V] dog.", "a [V] dog, ", "a [V] dog...\n", " a dog"])
def test_text_without_clauses_is_left_as_it_is(text: str):
    assert with_clauses(text, "pose", 0, 0) == text


def test_clause_does_not_follow_a_full_stop():
    assert with_clauses("a [V] boot. ", "view", 1, 0) == "a [V] boot with [P1] view"


def test_unknown_placeholders_are_listed_with_those_that_exist():
    with pytest.raises(ValueError, match=r"asks for \[P9\], \[X\].* has \[V\], \[P1\], \[B1\]\."):
        check_words("a [X] [V] dog with [P9] pose", ("V", "P1", "B1"))


def test_known_placeholders_pass():
    check_words("a [V] dog with [P1] pose, [V]", ("V", "P1", "B1"))


def test_position_of_a_word_is_that_of_its_slot():
    assert PromptTokens((1, 2, 3), ((1, "V"), (2, "P"))).position("P") == 2


@pytest.mark.parametrize(
    ("ids", "length"), [((9, 4, 5, 7, 7, 7), 3), ((9, 4, 5, 7, 0, 0), 4), ((9, 7, 7), 1)]
)
def test_length_is_that_without_what_fills_a_prompt_up(ids: tuple[int, ...], length: int):
    assert PromptTokens((ids,), ()).length() == length


def test_neutral_captions_have_every_place_and_view_and_no_learned_word():
    captions = neutral_captions("apple", "view", ["water", "old town"])
    assert captions[:2] == [
        "photo of an apple in water background",
        "photo of an apple in old town background",
    ]
    assert "photo of an apple with left view in old town background" in captions
    for word in (*VIEWS, "water", "old town"):
        assert any(word in caption for caption in captions)
    assert len(set(captions)) == len(captions) and not any("[" in one for one in captions)


def test_missing_word_has_no_position():
    assert PromptTokens((1, 2, 3), ((1, "V"),)).position("B") is None


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("photo of a [V] dog on the beach", "photo of a dog on the beach"),
        ("photo of a [V] apple", "photo of an apple"),
        ("a [V2] [V2] hourglass", "an hourglass"),
        ("a [V] dog with [P12] pose in [B3] background", "a dog"),
        ("a [V] dog with [P1] pose in a garden", "a dog in a garden"),
        ("a ([V]:1.2) dog, (red:0.8) ((hat))", "a dog, red hat"),
        (r"a dog \(a pug\), embedding:style-1, at night", "a dog (a pug), at night"),
        ("一只［Ｖ］dog", "一只dog"),
        ("a dog", "a dog"),
    ],
)
def test_caption_of_a_prompt_is_what_the_picture_should_show(prompt: str, caption: str):
    assert plain_caption(prompt) == caption


def test_prompt_of_learned_words_alone_has_no_caption():
    with pytest.raises(ValueError, match="no plain word left that a picture could show"):
        plain_caption("[V], [P1]")
