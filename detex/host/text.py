"""Prompts with learned words in ComfyUI's syntax: as tokens, and as CONDITIONING."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import comfy.sd
import torch
from torch import Tensor

from ..prompt.grammar import PromptTokens, spelled_out, split_placeholders
from ..unet.condition import Condition
from ..unet.transfer import to_device
from .towers import Tower, split_word, towers_of

PROMPT_KEY = "detex_prompt"  # in the options of a CONDITIONING
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
    lists. The text goes along, so that Capture Attention knows its prompt among others.
    """
    text = spelled_out(text, counts_of(vectors))
    placed = placed_tokens(clip, marked_tokens(clip, text), vectors)
    return clip.encode_from_tokens_scheduled(placed, add_dict={PROMPT_KEY: text})


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


def word_positions(
    clip: comfy.sd.CLIP, text: str, words: Sequence[str], *, learned: bool = True
) -> dict[str, list[int]]:
    """Token positions of each word in the prompt's CONDITIONING, counted over all chunks.

    A word is a placeholder such as "[V]", "embedding:name", or some words of the prompt in a row,
    "red ball" or "[V] dog". learned: whether placeholders are learned words, or text like any.
    Raises ValueError for a word that the prompt does not have.
    """
    flat = token_row(clip, text, learned=learned)
    found: dict[str, list[int]] = {}
    for word in words:
        wanted = [token for token in token_row(clip, word, learned=learned) if token is not None]
        positions = _sequence_positions(wanted, flat)
        if not positions:
            raise ValueError(
                f'"{word}" is not in the prompt "{text}". Give words of the prompt, separated by '
                "commas, as they stand there."
            )
        found[word] = positions
    return found


def token_row(clip: comfy.sd.CLIP, text: str, *, learned: bool) -> list:
    """The prompt's tokens over all chunks: an id or an embedding, "[V]" for a learned word, None
    for what only pads or frames a chunk.
    """
    chunks, places = of_any_tower(
        marked_tokens(clip, text) if learned else stock_tokens(clip, text)
    )
    row = [token if word_id else None for chunk in chunks for token, _, word_id in chunk]
    for chunk, position, word in places:
        row[chunk * len(chunks[0]) + position] = f"[{word}]"
    return row


def stock_tokens(clip: comfy.sd.CLIP, text: str) -> dict[str, MarkedTokens]:
    """As `marked_tokens`, where nothing is a placeholder."""
    tokens = clip.tokenize(text, return_word_ids=True)
    return {tower: MarkedTokens(tokens[tower], []) for tower in towers_of(clip)}


def _sequence_positions(wanted: list, row: list) -> list[int]:
    """Where the tokens `wanted` stand one after the other in `row`."""

    def same(a: Any, b: Any) -> bool:
        if torch.is_tensor(a) or torch.is_tensor(b):
            return torch.is_tensor(a) and torch.is_tensor(b) and torch.equal(a, b)
        return a == b

    starts = range(len(row) - len(wanted) + 1 if wanted else 0)
    runs = [range(start, start + len(wanted)) for start in starts]
    return [
        place
        for run in runs
        if all(same(row[i], token) for i, token in zip(run, wanted, strict=True))
        for place in run
    ]


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
                f'The training caption "{text}" is longer than {len(chunks[0])} tokens. Use '
                "shorter class words, or fewer, and short names of places."
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
