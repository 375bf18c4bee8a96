"""What is nearly a placeholder is found, and what only looks alike is left as text."""

import pytest

from detex_pack.detex.prompt.grammar import split_placeholders
from detex_pack.detex.prompt.nearly import check_prompt, nearly_placeholders

KNOWN = ("V", "P1", "P2", "B1", "B2")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("[V|P2]", ("V", "P2")),
        ("[V:cat:0.5]", ("V",)),
        ("[V,P2]", ("V", "P2")),
        ("[V+P2]", ("V", "P2")),
        ("[P 2]", ("P2",)),
        ("[p 2]", ("P2",)),
        ("[P-2]", ("P2",)),
        ("[P²]", ("P2",)),
        ("[V_2]", ("V",)),
        ("[V1.2]", ("V",)),
        (r"\[V\]", ("V",)),
        (r"\[V]", ("V",)),
        ("[[V]]", ("V",)),
        ("[V", ("V",)),
        ("[V dog]", ("V",)),
        ("V]", ("V",)),
        ("<V>", ("V",)),
        ("<P2>", ("P2",)),
        ("{V}", ("V",)),
        ("「V」", ("V",)),
        ("(V:1.2)", ("V",)),
        ("［V|P2］", ("V", "P2")),
        ("[V\u200b]", ("V",)),
        ("[\ufeffV]", ("V",)),
        ("[P\u200d2]", ("P2",)),
        ("[P_1]", ("P1",)),
    ],
)
def test_near_forms_are_found_with_the_nearest_word(written: str, meant: tuple[str, ...]):
    (found,) = nearly_placeholders(f"photo of a {written} dog", KNOWN)
    assert found.meant == meant


@pytest.mark.parametrize(
    "text",
    [
        "a [vase] and a [dog]",
        "[B&W photo]",
        "[v-neck], [b/w]",
        "<lora:V:1>, plan B > plan A",
        "【B站】",
        "Henry (V), vitamin B, V-shaped",
        "([V] dog:1.3), [P2] pose, [ B1 ].",
        "[[V] dog:0.5]",
        "{red|[V]} dog",
    ],
)
def test_other_brackets_are_text(text: str):
    assert nearly_placeholders(text, KNOWN) == []


@pytest.mark.parametrize("written", ["［V］", "【V】", "[Ｖ]", "［Ｖ］", "[ V ]", "[\u3000V]"])
def test_full_width_forms_are_read(written: str):
    assert split_placeholders(f"a {written} dog") == (["a ", " dog"], ["V"])
    check_prompt(f"a {written} dog", KNOWN)


def test_full_width_numbers_are_read():
    assert split_placeholders("［Ｐ１２］")[1] == ["P12"]


def test_letter_that_no_concept_has_is_text_to_the_tokens():
    assert split_placeholders("a [x] dog") == (["a [x] dog"], [])


def test_error_shows_what_stands_there_and_the_right_form():
    with pytest.raises(
        ValueError, match=r'^"\[P 2\]" in the prompt is no placeholder.* Write \[P2'
    ):
        check_prompt("a [V] dog with [P 2] pose", KNOWN)


def test_invisible_character_is_named():
    with pytest.raises(ValueError, match=r"invisible character in it.* Write \[V\]\."):
        check_prompt("a [V\u200b] dog", KNOWN)
