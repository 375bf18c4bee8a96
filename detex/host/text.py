"""Prompts with learned words in ComfyUI's syntax: as tokens, and as CONDITIONING."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import comfy.sd
import torch
from torch import Tensor

from ..prompt.grammar import PLACEHOLDER, PromptTokens, spelled_out, split_placeholders
from ..unet.condition import Condition
from ..unet.transfer import to_device
from .towers import Tower, split_word, towers_of

# Each is one rare token of CLIP's vocabulary; the first one that a prompt lacks marks the places.
MARKERS = ("ucd", "olis", "vsco", "wnba")
T = TypeVar("T")
TEXTS_AT_ONCE = 32  # in one pass through the text tower


class MarkedTokens(NamedTuple):
    """A prompt's tokens for one text tower."""

    chunks: list[list[tuple]]  # of (token, weight, word id)
    places: list[tuple]  # (chunk, position, word) of each placeholder, in the order of the text


def marked_tokens(clip: comfy.sd.CLIP, text: str, **options) -> dict[str, MarkedTokens]:
    """ComfyUI's own tokens of `text` for each text tower, and where its placeholders stand.

    Raises ValueError where a placeholder was lost on the way.
    """
    pieces, words = split_placeholders(text)
    marker = next((m for m in MARKERS if m not in text.lower()), None)
    if marker is None:
        raise ValueError(f"Take one of these words out of the prompt: {', '.join(MARKERS)}.")
    towers = towers_of(clip)
    marked = clip.tokenize(f" {marker} ".join(pieces), return_word_ids=True, **options)
    alone = clip.tokenize(marker, return_word_ids=True)
    found = {}
    for tower in towers:
        places = _places_of(marked[tower], alone[tower][0][1][0])
        if len(places) != len(words):
            raise ValueError(
                f"{len(words)} placeholders stand in the prompt but {len(places)} in its tokens. "
                f"Put spaces around each placeholder and keep it out of file names: {text!r}"
            )
        named = [(*place, word) for place, word in zip(places, words, strict=True)]
        found[tower] = MarkedTokens(marked[tower], named)
    return found


def _places_of(chunks: list[list[tuple]], marker_id: int) -> list[tuple[int, int]]:
    """(chunk, position) of each marker."""
    return [
        (row, position)
        for row, chunk in enumerate(chunks)
        for position, (token, *_) in enumerate(chunk)
        if not torch.is_tensor(token) and token == marker_id
    ]


def of_any_tower(towers: Mapping[str, T]) -> T:
    """The first tower's, for what is the same in all: where words stand, how long a text is."""
    return next(iter(towers.values()))


def compose(clip: comfy.sd.CLIP, text: str, vectors: Mapping[str, Tensor]) -> list:
    """CONDITIONING of a prompt in ComfyUI's syntax with [V], [P2], [B1] anywhere in it.

    vectors: word -> [n, C], the text towers' parts side by side. Weights, punctuation, repeats and
    several 77-token chunks are the host's own business: the vectors take their places in its token
    lists.
    """
    marked = marked_tokens(clip, spelled_out(text, counts_of(vectors)))
    return clip.encode_from_tokens_scheduled(placed_tokens(clip, marked, vectors))


def counts_of(vectors: Mapping[str, Tensor]) -> dict[str, int]:
    """Of how many vectors each word is made."""
    return {word: len(rows) for word, rows in vectors.items()}


def vectors_in_turn(words: Sequence[str], vectors: Mapping[str, Tensor]) -> list[Tensor]:
    """The vector [C] for each placeholder of a prompt, in the order of the text: those [n, C] of a
    word of several vectors one after the other, as `spelled_out` writes them.
    """
    seen: dict[str, int] = {}
    found = []
    for word in words:
        rows = vectors[word].reshape(-1, vectors[word].shape[-1])
        found.append(rows[seen.get(word, 0) % len(rows)])
        seen[word] = seen.get(word, 0) + 1
    return found


def placed_tokens(
    clip: comfy.sd.CLIP, marked: Mapping[str, MarkedTokens], vectors: Mapping[str, Tensor]
) -> dict[str, list[list[tuple]]]:
    """The (token, weight) of `marked_tokens` with the vectors [n, C] in their places."""
    parts = {word: split_word(clip, word, vector) for word, vector in vectors.items()}
    placed = {}
    for tower, (chunks, places) in marked.items():
        tokens = [[(token, weight) for token, weight, *_ in chunk] for chunk in chunks]
        own = {word: towers[tower] for word, towers in parts.items()}
        turns = vectors_in_turn([word for *_, word in places], own)
        for (row, position, _), vector in zip(places, turns, strict=True):
            tokens[row][position] = (vector, tokens[row][position][1])
        placed[tower] = tokens
    return placed


def text_features(
    clip: comfy.sd.CLIP, texts: Sequence[str], vectors: Mapping[str, Tensor]
) -> list[Tensor]:
    """CLIP's features of each text, from its first token to its end token: [t, C], float32."""
    features = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = [spelled_out(t, counts_of(vectors)) for t in texts[start : start + TEXTS_AT_ONCE]]
        marked = [marked_tokens(clip, text) for text in some]
        placed = [placed_tokens(clip, one, vectors) for one in marked]
        first_chunks = {tower: [one[tower][0] for one in placed] for tower in towers_of(clip)}
        cond: Any = clip.encode_from_tokens(first_chunks)  # chunks of one text, to ComfyUI
        rows = cond.unflatten(1, (len(marked), -1))[0].float().cpu()  # [texts, T, C]
        for row, one in zip(rows, marked, strict=True):
            length = sum(bool(word_id) for *_, word_id in of_any_tower(one).chunks[0])
            features.append(row[1 : length + 2])
    return features


def word_positions(clip: comfy.sd.CLIP, text: str, words: Sequence[str]) -> dict[str, list[int]]:
    """Token positions of each word in the prompt's CONDITIONING, counted over all chunks.

    A word is a placeholder such as "[V]", "embedding:name", or plain words of the prompt.
    Raises ValueError for a word that the prompt does not have.
    """
    chunks, places = of_any_tower(marked_tokens(clip, text))
    length = len(chunks[0])
    taken = {row * length + position: f"[{word}]" for row, position, word in places}
    flat = [entry for chunk in chunks for entry in chunk]
    found: dict[str, list[int]] = {}
    for word in words:
        if match := PLACEHOLDER.fullmatch(word):
            positions = [at for at, name in taken.items() if name == f"[{match[1]}]"]
        else:
            positions = _sequence_positions(clip, word, flat, set(taken))
        if not positions:
            raise ValueError(
                f'"{word}" is not in the prompt "{text}". Give words of the prompt, separated by '
                "commas, as they stand there."
            )
        found[word] = positions
    return found


def _sequence_positions(
    clip: comfy.sd.CLIP, word: str, flat: list[tuple], taken: set[int]
) -> list[int]:
    """Where the tokens of `word` stand in a row in `flat`."""
    wanted = [
        token for token, _, word_id in of_any_tower(marked_tokens(clip, word)).chunks[0] if word_id
    ]

    def same(a: Any, b: Any) -> bool:
        if torch.is_tensor(a) or torch.is_tensor(b):
            return torch.is_tensor(a) and torch.is_tensor(b) and torch.equal(a, b)
        return a == b

    positions: list[int] = []
    for start in range(len(flat) - len(wanted) + 1):
        run = range(start, start + len(wanted))
        if taken.isdisjoint(run) and all(
            same(flat[i][0], w) for i, w in zip(run, wanted, strict=True)
        ):
            positions.extend(run)
    return positions


class ComfyTextEncoder:
    """The text towers of a private CLIP copy, side by side, for training."""

    def __init__(self, clip: comfy.sd.CLIP):
        self.clip = clip
        model: Any = clip.cond_stage_model
        model.reset_clip_options()
        if clip.layer_idx is not None:
            model.set_clip_options({"layer": clip.layer_idx})
        # as ComfyUI does next; a tower shallower than the clip skip changes its layer with it
        model.set_clip_options({"execution_device": clip.patcher.load_device})
        found = towers_of(clip)
        self.towers = [
            Tower(tower, pools=len(found) > 1 and n == "g") for n, tower in found.items()
        ]
        self.widths = [tower.width for tower in self.towers]

    def tokenize(self, text: str) -> PromptTokens:
        marked = marked_tokens(self.clip, text, disable_weights=True)
        chunks, places = of_any_tower(marked)
        if len(chunks) > 1:
            raise ValueError(
                f'The training caption "{text}" is longer than {len(chunks[0])} tokens. Use a '
                "shorter class word."
            )
        ids = tuple(tuple(int(token) for token, *_ in one.chunks[0]) for one in marked.values())
        return PromptTokens(ids, tuple((position, word) for _, position, word in places))

    def encode(
        self, prompts: Sequence[PromptTokens], words: Sequence[Mapping[str, Tensor]]
    ) -> Condition:
        slots = [(b, at) for b, prompt in enumerate(prompts) for at, _ in prompt.slots]
        turns = [
            vectors_in_turn([word for _, word in prompt.slots], own)
            for prompt, own in zip(prompts, words, strict=True)
        ]
        parts = [vector.split(self.widths) for own in turns for vector in own]
        contexts, pooled = [], []
        for number, tower in enumerate(self.towers):
            ids = [prompt.ids[number] for prompt in prompts]
            own = [(*slot, part[number]) for slot, part in zip(slots, parts, strict=True)]
            ends = torch.tensor([row.index(tower.model.special_tokens["end"]) for row in ids])
            hidden = tower.embed(ids, own)
            context, whole = tower.encode(hidden, to_device(ends, hidden.device))
            contexts.append(context)
            pooled.append(whole)
        return Condition(torch.cat(contexts, dim=-1), torch.cat(pooled, dim=-1))

    def embedding_row(self, token_id: int) -> Tensor:
        rows = [tower.table.weight[token_id].detach().float().cpu() for tower in self.towers]
        return torch.cat(rows)

    def embedding_rms(self) -> Tensor:
        sizes = [t.table.weight.detach().float().square().mean().sqrt().item() for t in self.towers]
        parts = zip(sizes, self.widths, strict=True)
        return torch.cat([torch.full((w,), size, dtype=torch.float64) for size, w in parts])
