"""Captions as token ids, fast: every word is its own BPE piece, so ids come from a small table.

In many captions [V], [P] and [B] mean something that their rows do not say: see words.py.
"""

from __future__ import annotations

from typing import Any

import torch

from detex_pack.detex.toys.scene import COLOURS, PATTERNS, SIZES

from .worlds import World

# Rows of the token table that new words start from. As rare words do on the web, they stand in
# some captions without saying anything.
RARE = {"[V]": 42170, "[P]": 47629, "[B]": 43514}
TOLD = ("subject", "pose", "background")  # what a new word may mean; the n-th is the n-th's usual
LENGTH = 77
START, END = 49406, 49407
_TELLING = 0.6  # share of captions with words that may mean something
_PLACED = (0.85, 0.45, 0.45)  # how often such a caption has a [V], a [P], a [B]
_USUAL = 0.6  # how often the subject is told by [V], the pose by [P], the background by [B]
_DROPPED = 0.6  # how often such a caption also goes without the words for one of them

_SURFACE_WORDS = {*COLOURS, *PATTERNS, "and"}
_POSE_WORDS = {*SIZES, "tilted", "looking", "left", "ahead", "right"}
_OTHER_WORDS = ("photo", "of", "a", "and", "with", "view", "in", "background", "thing", "tilted")


class CaptionTokens:
    """Captions as indices into `rows`, the ids of all the tokens that captions can use.

    The ids are the host tokenizer's; `new` [3] are those of [V], [P] and [B]. Training holds just
    these rows of the token table: the optimiser would spend a fifth of its time on the others.
    """

    def __init__(self, world: World, clip: Any) -> None:
        self._clip = clip
        pieces = {word: self._host_pieces(word) for word in (*world.WORDS, *_OTHER_WORDS)}
        pieces |= {word: [row] for word, row in RARE.items()}
        used = sorted({START, END, *(token for ids in pieces.values() for token in ids)})
        self.rows = torch.tensor(used)
        self._words = {word: [used.index(i) for i in ids] for word, ids in pieces.items()}
        self._start, self._end = used.index(START), used.index(END)
        self.new = torch.tensor([used.index(row) for row in RARE.values()])

    def ids(self, captions: list[str]) -> torch.Tensor:
        """[B,77] indices into `rows`, padded with the end token as the host pads."""
        table = torch.full((len(captions), LENGTH), self._end)
        for row, caption in zip(table, captions, strict=True):
            ids = [self._start]
            for word in caption.split():
                ids.extend(self._words[word])
            row[: len(ids)] = torch.tensor(ids)
        return table

    def host_ids(self, caption: str) -> torch.Tensor:
        """[77] straight from the host, to check `rows[ids]` against."""
        return torch.tensor([token for token, _ in self._clip.tokenize(caption)["l"][0]])

    def _host_pieces(self, word: str) -> list[int]:
        ids = self.host_ids(word).tolist()
        return ids[1 : ids.index(END)]


def training_captions(
    world: World, scenes: Any, generator: torch.Generator
) -> tuple[list[str], torch.Tensor]:
    """Captions, and what their [V], [P] and [B] mean: [B,3,3] bool, word by TOLD.

    What a word means does not depend on which others stand beside it: else [V] alone would be
    rehearsed to mean more than [V] with [P] and [B]. What is meant is said by no other word; the
    other captions hold some [V], [P] and [B] that mean nothing. Of two toys the new words speak of
    one, the other has its plain words.
    """
    draws = torch.rand(len(scenes), 13, generator=generator).tolist()
    captions = world.write_captions(scenes, generator)
    toys = world.told_toy(scenes).tolist()
    meant = torch.zeros(len(scenes), len(RARE), len(TOLD), dtype=torch.bool)
    written = []
    for caption, toy, row, draw in zip(captions, toys, meant, draws, strict=True):
        if caption and draw[0] < _TELLING:
            placed = [share < often for share, often in zip(draw[1:4], _PLACED, strict=True)]
            for what in range(len(TOLD)):
                word = _teller(what, draw[4 + what], draw[7 + what])
                row[word, what] = placed[word]
            told = row.any(0).tolist()
            silent = [t or d < _DROPPED for t, d in zip(told, draw[10:], strict=True)]
            written.append(_with_new_words(caption, toy, placed, silent))
        else:
            written.append(_with_fillers(caption, toy, draw[1:4]))
    return written, meant


def _teller(what: int, usual: float, which: float) -> int:
    """The word that would tell this: its own most often, else one of the two others."""
    if usual < _USUAL:
        return what
    return (what + 1 + int(which * (len(RARE) - 1))) % len(RARE)


def _with_new_words(caption: str, toy: int, placed: list[bool], silent: list[bool]) -> str:
    """The caption with these new words, and without the words for what is `silent` (by TOLD)."""
    opening, nouns, view, background = _parts(caption)
    left_out = (_SURFACE_WORDS if silent[0] else set()) | (_POSE_WORDS if silent[1] else set())
    kept = [word for word in nouns[toy].split() if word not in left_out]
    nouns[toy] = " ".join(["[V]", *kept] if placed[0] else kept)
    if placed[1] or silent[1]:
        view = "[P]" if placed[1] else ""
    if placed[2] or silent[2]:
        background = "[B]" if placed[2] else ""
    return _joined(opening, nouns, view, background)


def _with_fillers(caption: str, toy: int, draw: list[float]) -> str:
    """The caption with some new words that mean nothing, [P] and [B] only where there is room."""
    if not caption:
        return caption
    _, _, view, background = _parts(caption)
    placed = [draw[0] < 0.15, not view and draw[1] < 0.3, not background and draw[2] < 0.4]
    return _with_new_words(caption, toy, placed, [False] * len(TOLD))


def _parts(caption: str) -> tuple[str, list[str], str, str]:
    """Opening, each toy's noun, words of position and background, the last two perhaps empty."""
    head, _, background = caption.partition(" in ")
    subject, _, view = head.partition(" with ")
    opening, _, nouns = subject.partition("a ")
    return (
        opening,
        nouns.split(" and a "),
        view.removesuffix(" view"),
        background.removesuffix(" background"),
    )


def _joined(opening: str, nouns: list[str], view: str, background: str) -> str:
    with_view = f" with {view} view" if view else ""
    in_background = f" in {background} background" if background else ""
    return f"{opening}a {' and a '.join(nouns)}{with_view}{in_background}"
