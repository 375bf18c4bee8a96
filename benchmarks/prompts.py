"""What a learned subject is asked for: one request a picture, the same in every arm.

Colours are the subject's identity in this world, so there are no colour edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product

from detex_pack.detex.prompt.grammar import attribute_word, with_clauses
from detex_pack.detex.toys.scene import BACKGROUNDS, POSITIONS, Scenes

VERSION = 1  # of the prompts; a change makes every cell new
COUNTS = {"neutral": 32, "background": 30, "position": 15, "both": 20, "P": 32, "B": 32, "PB": 24}
SHARED = ("neutral", "background", "position", "both")  # kinds that every arm can be asked for
EDITS = ("background", "position", "both")


@dataclass(frozen=True)
class Request:
    """One picture: its prompt with [V], what the words name, and whose words it uses."""

    kind: str
    text: str
    background: int = -1  # named or, for [B_j], photo j's; -1: none
    position: int = -1  # named or, for [P_i], photo i's; -1: none
    pose_of: int = -1  # index of the photo
    background_of: int = -1


def requests(scenes: Scenes, class_word: str, *, words: bool) -> list[Request]:
    """Every picture of a cell; `words` adds the kinds that need [P_i] and [B_j].

    Edits name backgrounds and positions that no photo shows (all positions, where photos show
    every one). The shared kinds come first, so that they get the same noise in every arm.
    """
    listed = []
    for kind, choices in _choices(scenes, class_word).items():
        if words or kind in SHARED:
            listed += islice(cycle(choices), COUNTS[kind] if choices else 0)
    return listed


def _choices(scenes: Scenes, class_word: str) -> dict[str, list[Request]]:
    subject = f"photo of a [V] {class_word}"
    grounds = _unseen(len(BACKGROUNDS), scenes.background.tolist())
    places = _unseen(len(POSITIONS), scenes.position.tolist())
    word = attribute_word(class_word)
    view = {p: f"{subject} with {POSITIONS[p]} {word}" for p in places}
    return {
        "neutral": [Request("neutral", subject)],
        "background": [
            Request("background", f"{subject} in {BACKGROUNDS[b]} background", background=b)
            for b in grounds
        ],
        "position": [Request("position", view[p], position=p) for p in places],
        "both": [
            Request("both", f"{view[p]} in {BACKGROUNDS[b]} background", background=b, position=p)
            for p, b in product(places, grounds)
        ],
        **_word_choices(scenes, subject, word),
    }


def _word_choices(scenes: Scenes, subject: str, word: str) -> dict[str, list[Request]]:
    photos = range(len(scenes))
    position, background = scenes.position.tolist(), scenes.background.tolist()
    return {
        "P": [
            Request("P", with_clauses(subject, word, i + 1, 0), -1, position[i], pose_of=i)
            for i in photos
        ],
        "B": [
            Request("B", with_clauses(subject, word, 0, j + 1), background[j], background_of=j)
            for j in photos
        ],
        "PB": [
            Request(
                "PB", with_clauses(subject, word, i + 1, j + 1), background[j], position[i], i, j
            )
            for i, j in _mixed_pairs(photos)
        ],
    }


def _unseen(kinds: int, seen: Sequence[int]) -> list[int]:
    return [kind for kind in range(kinds) if kind not in seen] or list(range(kinds))


def _mixed_pairs(photos: range) -> Iterator[tuple[int, int]]:
    return ((i, j) for i, j in product(photos, photos) if i != j)
