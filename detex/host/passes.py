"""Which rows of a sampling run's passes carry the watched prompt.

A guider may call its branches what it likes and give them in any order, a guidance node may add
passes of its own, and ComfyUI makes a copy of a regional prompt for the other branch, under one id.
So a row is known by the text features it carries, and each counts once a step: what comes again in
the same step is a perturbed pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.sd
import torch
from torch import Tensor

from ..prompt.grammar import PLACEHOLDER
from .text import PROMPT_KEY, word_positions

Area = tuple[int, int, int, int]  # height, width, y, x, in latent cells


class Reading(NamedTuple):
    """One way in which the watched text may have been encoded, and where its words are then."""

    positions: Sequence[Sequence[int]]  # of each word
    text: str | None = None  # the mark of Compose
    encoded: Tensor | None = None  # [1, T, C], as CLIP Text Encode makes it

    @property
    def last(self) -> int:
        return max(max(of_word) for of_word in self.positions)

    def carried_by(self, cond: Mapping[str, Any]) -> bool:
        context = cond.get("cross_attn")
        if self.encoded is not None and context is not None:
            return torch.equal(context.to(self.encoded), self.encoded)
        return self.text is not None and cond.get(PROMPT_KEY) == self.text


class Watched(NamedTuple):
    """A part of the conditioning that carries the watched prompt."""

    context: Tensor  # [1, T, C]
    reading: Reading


class Window(NamedTuple):
    """The pictures of the batch that a pass computes, where a sampler takes some at a time."""

    pictures: tuple[int, ...]
    count: int  # pictures in all
    before: int = 0  # rows in front of theirs, computed only to be seen


class Row(NamedTuple):
    """A row of the pass that is computed now, to be counted."""

    number: int
    reading: Reading
    area: Area | None  # None: the whole picture
    shape: tuple[int, int]  # of the whole latents, h, w
    window: Window | None  # None: the whole batch


def prompt_readings(clip: comfy.sd.CLIP, text: str, words: Sequence[str]) -> list[Reading]:
    """With learned words in their places, as Compose encodes the text; and as CLIP Text Encode
    does, to which [V] is three letters of text. Words are looked up in each.

    Raises ValueError for a word that the prompt does not have.
    """
    composed = word_positions(clip, text, words)
    readings = [Reading(list(composed.values()), text=text)]
    stock = clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
    plain = composed
    if PLACEHOLDER.search(text):
        plain = word_positions(clip, text, words, learned=False)
    return [*readings, Reading(list(plain.values()), encoded=stock)]


def watched_conds(conds: Mapping[str, list[dict]], readings: Sequence[Reading]) -> dict:
    """Id -> Watched: the parts of a guider's conditioning that carry one of the readings; where
    none does, as after ConditioningAverage, the positive prompt in the first reading.

    Raises ValueError where that is another prompt, or too short to hold the words.
    """
    for branch in conds.values():
        found = {
            cond["uuid"]: Watched(cond["cross_attn"], reading)
            for cond in branch
            for reading in readings
            if reading.carried_by(cond)
        }
        if found:
            return found
    assumed = readings[0]
    positive = [cond for cond in conds.get("positive", ()) if cond.get("cross_attn") is not None]
    _check_prompt(positive, assumed)
    return {cond["uuid"]: Watched(cond["cross_attn"], assumed) for cond in positive}


def _check_prompt(positive: Sequence[Mapping[str, Any]], assumed: Reading) -> None:
    if not positive:
        raise ValueError(
            "None of the sampler's prompts is the text of Capture Attention. Wire the text output "
            "of Compose [V]/[P]/[B] Prompt, or the text of CLIP Text Encode, into both."
        )
    known = [cond[PROMPT_KEY] for cond in positive if PROMPT_KEY in cond]
    wanted = (assumed.text or "").rstrip(" ,.")
    if wanted and len(known) == len(positive) and not any(k.startswith(wanted) for k in known):
        raise ValueError(
            f'Capture Attention reads "{assumed.text}", but the sampler\'s prompt is "{known[0]}". '
            "Wire the text output of Compose [V]/[P]/[B] Prompt into Capture Attention."
        )
    longest = max(cond["cross_attn"].shape[1] for cond in positive)
    if longest <= assumed.last:
        raise ValueError(
            f"A watched word is token {assumed.last} of the text of Capture Attention, but the "
            f"sampler's prompt ends after {longest} tokens. Wire the same text into both."
        )


class Passes:
    """What a sampling run computes, step by step: its methods wrap ComfyUI's own."""

    def __init__(self, guider: Any, readings: Sequence[Reading]):
        self._watched = watched_conds(guider.conds, readings)
        self._seen: set = set()  # ids, with their windows, that this step has computed
        self._now: dict = {}  # (branch, id) -> Reading, Area, shape, Window: of the pass under way
        self._same: dict[int, tuple[Any, bool]] = {}  # by id of an object that is held here

    def step(self, executor: Callable, *args, **kwargs) -> Tensor:
        """Wraps a guider's one answer to the sampler."""
        self._seen.clear()
        return executor(*args, **kwargs)

    def batch(
        self,
        executor: Callable,
        model: Any,
        conds: list,
        x: Tensor,
        timestep: Tensor,
        options: dict,
    ):
        """Wraps the passes that are computed together; x [B, 4, h, w]."""
        window = window_of(options["transformer_options"])
        self._now = {
            (branch, cond["uuid"]): (
                self._watched[cond["uuid"]].reading,
                cond_area(cond, x),
                (x.shape[-2], x.shape[-1]),
                window,
            )
            for branch, parts in enumerate(conds)
            for cond in parts or ()
            if (cond["uuid"], window) not in self._seen and self._carries(cond)
        }
        self._seen |= {(ident, window) for _, ident in self._now}
        try:
            return executor(model, conds, x, timestep, options)
        finally:
            self._now = {}

    def _carries(self, cond: Mapping[str, Any]) -> bool:
        """Whether this is the watched part itself, and no copy of it with another text."""
        watched = self._watched.get(cond["uuid"])
        used = cond["model_conds"].get("c_crossattn")
        if watched is None or used is None:
            return False
        if id(used) not in self._same:  # held, so that its id stays its own
            self._same[id(used)] = used, torch.equal(used.cond, watched.context.to(used.cond))
        return self._same[id(used)][1]

    def rows(self, options: Mapping[str, Any]) -> Iterator[Row]:
        """The rows to count of a pass with these transformer_options."""
        keys = zip(options.get("cond_or_uncond", ()), options.get("uuids", ()), strict=False)
        for number, key in enumerate(keys):
            if key in self._now:
                yield Row(number, *self._now[key])


def window_of(options: Mapping[str, Any]) -> Window | None:
    """Which pictures are computed now, by these transformer_options: as ComfyUI's Context Windows
    and AnimateDiff-Evolved tell it. Raises ValueError for windows of parts of a picture.
    """
    told = options.get("ad_params") or {}
    if told.get("sub_idxs") is not None:
        return Window(tuple(told["sub_idxs"]), told["full_length"])
    window = options.get("context_window")
    if window is None:
        return None
    if window.dim != 0:
        raise ValueError(
            f"The sampler computes each picture in windows (dimension {window.dim}), of which "
            "attention has no map of the whole. Set dim to 0 in Context Windows, or take the node "
            "out while you capture."
        )
    before = getattr(window, "causal_anchor_index", None)
    rows = int(before is not None and before >= 0)
    return Window(tuple(window.index_list), window.total_frames, rows)


def cond_area(cond: Mapping[str, Any], x: Tensor) -> Area | None:
    """Where in the latents x [B, 4, h, w] this part acts."""
    if "area" not in cond:
        return None
    height, width, top, left = cond["area"][-4:]
    return min(height, x.shape[-2] - top), min(width, x.shape[-1] - left), top, left
