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
    trained_pairs,
    write_captions,
)

# Rows of the token table that new words start from. As rare words do on the web, they stand in
# some captions without saying anything.
RARE = {"[V]": 42170, "[P]": 47629, "[B]": 43514}
LENGTH = 77
_NAMED = 0.3  # share of captions that call the subject by its name
_NAME_IDS = range(30_000, 40_000)  # of the vocabulary: seldom words
_NAME_LENGTH = 5
START, END = 49406, 49407


_WORDS = (*COLOURS, *SHAPES, *PATTERNS, *BACKGROUNDS, *POSITIONS, *SIZES)
_SURFACE_WORDS = {*COLOURS, *PATTERNS, "and"}
_OTHER_WORDS = ("photo", "of", "a", "and", "with", "view", "in", "background", "thing", "tilted")


class CaptionTokens:
    """Captions as indices into `rows`, the ids of all the tokens that captions can use.

    The ids are the host tokenizer's. Training holds just these rows of the token table: the
    optimiser would spend a fifth of its time on the other 49,000.

    `names` holds a word for every (main, second, pattern) that training draws. Such a word says in
    one token what colours and surface say in four, as the names of known things do on the web.
    Without names, no word of the model means a whole identity, and a learned [V] has to be the
    first.
    """

    def __init__(self, clip: Any) -> None:
        self._clip = clip
        pieces = {word: self._host_pieces(word) for word in (*_WORDS, *_OTHER_WORDS)}
        pieces |= {word: [row] for word, row in RARE.items()}
        self.names = self._choose_names(taken=set(pieces))
        pieces |= {word: self._host_pieces(word) for word in self.names.values()}
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

    def _choose_names(self, taken: set[str]) -> dict[tuple[int, int, int], str]:
        """One-token words of the host's vocabulary, spread evenly over `_NAME_IDS`."""
        vocabulary = self._clip.tokenizer.clip_l.tokenizer.get_vocab()
        tokens = {row: token for token, row in vocabulary.items()}
        whole = [tokens[row] for row in _NAME_IDS if tokens[row].endswith("</w>")]
        words = [token.removesuffix("</w>") for token in whole]
        seldom = [w for w in words if len(w) == _NAME_LENGTH and w.isascii() and w.isalpha()]
        seldom = [word for word in seldom if word not in taken]
        identities = [(*pair, p) for pair in trained_pairs() for p in range(len(PATTERNS))]
        step = len(seldom) // len(identities)
        return dict(zip(identities, seldom[::step], strict=False))

    def _host_pieces(self, word: str) -> list[int]:
        ids = self.host_ids(word).tolist()
        return ids[1 : ids.index(END)]


def training_captions(
    scenes: Scenes, names: dict[tuple[int, int, int], str], generator: torch.Generator
) -> list[str]:
    """Captions, some with the subject's name, some with fillers where new words will stand."""
    draws = torch.rand(len(scenes), 4, generator=generator).tolist()
    captions = write_captions(scenes, generator)
    identities = torch.stack((scenes.main, scenes.second, scenes.pattern), 1).tolist()
    written = []
    for caption, identity, draw in zip(captions, identities, draws, strict=True):
        if draw[3] < _NAMED:
            written.append(_with_name(caption, names[tuple(identity)]))
        else:
            written.append(_with_rare_words(caption, draw))
    return written


def _with_name(caption: str, name: str) -> str:
    """The name, just before the shape's word, stands for colours and surface."""
    if not caption:
        return caption
    subject, with_word, view = caption.partition(" with ")
    if not with_word:
        subject, with_word, view = caption.partition(" in ")
    plain = [word for word in subject.split() if word not in _SURFACE_WORDS]
    return " ".join((*plain[:-1], name, plain[-1])) + with_word + view


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
