"""[V] before its class word, and what should be said of a prompt without it."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from .grammar import bracketed, split_placeholders


class Subject(NamedTuple):
    word: str  # "V", "V2"
    class_word: str


def with_subjects(text: str, subjects: Sequence[Subject]) -> str:
    """ "an old dog" -> "an old [V] dog", for each subject that the text lacks; a class word that
    the text does not have is left out.
    """
    for word, class_word in subjects:
        if word in split_placeholders(text)[1]:
            continue
        standing = rf"(?<!\] )(?<![^\W_]){re.escape(class_word)}(?![^\W_])"
        text = re.sub(standing, rf"[{word}] \g<0>", text, count=1, flags=re.IGNORECASE)
        text = re.sub(rf"\b([Aa])n (?=\[{word}\])", r"\1 ", text)  # "a [V] apple", as in training
    return text


def prompt_notes(text: str, subjects: Sequence[Subject], pose: int, background: int) -> list[str]:
    """What to know about a prompt that can be encoded, before its clauses of these photos."""
    used = split_placeholders(text)[1]
    notes = []
    if not any(subject.word in used for subject in subjects):
        names = " and ".join(f'[{s.word}] before "{s.class_word}"' for s in subjects)
        notes.append(
            f"This prompt has no {bracketed(s.word for s in subjects)}, so the subject will not "
            f"come. Write {names}."
        )
    for role, number, widget in (("P", pose, "pose"), ("B", background, "background")):
        there = [word for word in dict.fromkeys(used) if word[0] == role]
        if number and there and len(subjects) == 1:  # of several, each may have its own
            notes.append(
                f"The text has {bracketed(there)} and {widget} adds [{role}{number}]: both will "
                f"act. Set {widget} to 0, or take {bracketed(there)} out of the text."
            )
    return notes
