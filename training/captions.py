"""Captions as token ids, fast: every word is its own BPE piece, so ids come from a small table."""

from __future__ import annotations

from typing import Any

import torch

from detex_pack.detex.world.scene import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scenes,
    write_captions,
)

# Rows of the token table that new words start from. As rare words do on the web, they stand in
# some captions without saying anything.
RARE = {"[V]": 42170, "[P]": 47629, "[B]": 43514}
LENGTH = 77
START, END = 49406, 49407


_WORDS = (*COLOURS, *SHAPES, *PATTERNS, *BACKGROUNDS, *POSITIONS, *SIZES)
_OTHER_WORDS = ("photo", "of", "a", "and", "with", "view", "in", "background", "thing", "tilted")


class CaptionTokens:
    """Captions as indices into `rows`, the ids of all the tokens that captions can use.

    The ids are the host tokenizer's. Training holds just these rows of the token table: the
    optimiser would spend a fifth of its time on the other 49,000.
    """

    def __init__(self, clip: Any) -> None:
        self._clip = clip
        pieces = {word: self._host_pieces(word) for word in (*_WORDS, *_OTHER_WORDS)}
        pieces |= {word: [row] for word, row in RARE.items()}
        used = sorted({START, END, *(token for ids in pieces.values() for token in ids)})
        self.rows = torch.tensor(used)
        self._words = {word: [used.index(i) for i in ids] for word, ids in pieces.items()}
        self._start, self._end = used.index(START), used.index(END)

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


def training_captions(scenes: Scenes, generator: torch.Generator) -> list[str]:
    """Captions with a few meaningless rare words where new words will stand."""
    draws = torch.rand(len(scenes), 3, generator=generator).tolist()
    captions = write_captions(scenes, generator)
    return [_with_rare_words(c, d) for c, d in zip(captions, draws, strict=True)]


def _with_rare_words(caption: str, draw: list[float]) -> str:
    if not caption:
        return caption
    head, in_word, background = caption.partition(" in ")
    subject, with_word, view = head.partition(" with ")
    if draw[0] < 0.15:
        start, _, rest = subject.partition("a ")
        subject = f"{start}a [V] {rest}"
    if not with_word and draw[1] < 0.3:
        with_word, view = " with ", "[P] view"
    if not in_word and draw[2] < 0.4:
        in_word, background = " in ", "[B] background"
    return subject + with_word + view + in_word + background
