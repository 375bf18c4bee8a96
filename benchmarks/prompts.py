"""What a learned subject is asked for: one request a picture, the same in every arm.

Colours are the subject's identity in this world, so there are no colour edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, permutations, product

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
    subject, word = f"photo of a [V] {class_word}", attribute_word(class_word)
    grounds = _unseen(len(BACKGROUNDS), scenes.background.tolist())
    places = _unseen(len(POSITIONS), scenes.position.tolist())
    photos = range(len(scenes))

    def named(kind: str, background: int = -1, position: int = -1) -> Request:
        view = f" with {POSITIONS[position]} {word}" if position >= 0 else ""
        ground = f" in {BACKGROUNDS[background]} background" if background >= 0 else ""
        return Request(kind, f"{subject}{view}{ground}", background, position)

    def shown(kind: str, pose_of: int = -1, background_of: int = -1) -> Request:
        text = with_clauses(subject, word, pose_of + 1, background_of + 1)
        background = int(scenes.background[background_of]) if background_of >= 0 else -1
        position = int(scenes.position[pose_of]) if pose_of >= 0 else -1
        return Request(kind, text, background, position, pose_of, background_of)

    return {
        "neutral": [named("neutral")],
        "background": [named("background", b) for b in grounds],
        "position": [named("position", position=p) for p in places],
        "both": [named("both", b, p) for p, b in product(places, grounds)],
        "P": [shown("P", i) for i in photos],
        "B": [shown("B", background_of=j) for j in photos],
        "PB": [shown("PB", i, j) for i, j in permutations(photos, 2)],
    }


def _unseen(kinds: int, seen: Sequence[int]) -> list[int]:
    return [kind for kind in range(kinds) if kind not in seen] or list(range(kinds))
