"""[V] before its class word, and what Compose says of a prompt without it."""

import pytest

from detex_pack.detex.prompt.subjects import Subject, prompt_notes, with_subjects

DOG, CAT, APPLE = Subject("V", "dog"), Subject("V2", "cat"), Subject("V", "apple")
TWO_DOGS = [DOG, Subject("V2", "dog")]


@pytest.mark.parametrize(
    ("text", "subjects", "expected"),
    [
        ("photo of a dog", [DOG], "photo of a [V] dog"),
        ("a dog and a dog", [DOG], "a [V] dog and a dog"),
        ("a [V] dog and a dog", [DOG], "a [V] dog and a dog"),
        ("a ［V］ dog", [DOG], "a ［V］ dog"),
        ("Dog on a hot-dog stand", [DOG], "[V] Dog on a hot-dog stand"),
        ("dogma of a dog", [DOG], "dogma of a [V] dog"),
        ("(dog:1.2)", [DOG], "([V] dog:1.2)"),
        ("an apple", [APPLE], "a [V] apple"),
        ("an old apple", [APPLE], "an old [V] apple"),
        ("a dog and a cat", [DOG, CAT], "a [V] dog and a [V2] cat"),
        ("a dog and a dog", TWO_DOGS, "a [V] dog and a [V2] dog"),
        ("a cat", [DOG], "a cat"),
    ],
)
def test_subject_is_put_before_its_class_word(text: str, subjects: list, expected: str):
    assert with_subjects(text, subjects) == expected


def test_prompt_without_the_subject_is_noted():
    (note,) = prompt_notes("a dog on the beach", [DOG], 0, 0)
    assert note.startswith("This prompt has no [V], so the subject will not come.")
    assert note.endswith('Write [V] before "dog".')


def test_one_of_several_subjects_is_enough():
    assert prompt_notes("a [V2] cat", [DOG, CAT], 0, 0) == []


def test_pose_of_the_text_and_of_the_widget_are_noted():
    (note,) = prompt_notes("a [V] dog with [P1] pose", [DOG], 2, 0)
    assert note.startswith("The text has [P1] and pose adds [P2]: both will act.")


def test_background_of_the_text_and_of_the_widget_are_noted():
    (note,) = prompt_notes("a [V] dog in [B1] background", [DOG], 2, 1)
    assert note.startswith("The text has [B1] and background adds [B1]")


def test_subjects_of_a_merge_may_each_have_a_pose():
    assert prompt_notes("a [V] dog with [P1] pose and a [V2] cat", [DOG, CAT], 4, 0) == []
