"""Prompts with learned words through ComfyUI's CLIP: for training, and as CONDITIONING."""

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.sd
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

from ..prompt import PLACEHOLDER, PromptTokens, split_placeholders

# Each is one rare token of CLIP's vocabulary; the first one that a prompt lacks marks the places.
MARKERS = ("ucd", "olis", "vsco", "wnba")
TEXTS_AT_ONCE = 32  # in one pass through the text tower


def tower_of(clip: comfy.sd.CLIP) -> str:
    """The name of the CLIP's only text tower: "l" for SD 1.x, "h" for SD 2.x.

    Raises ValueError for CLIPs of several towers or of other kinds.
    """
    name = getattr(clip.cond_stage_model, "clip_name", None)
    tower = getattr(clip.cond_stage_model, f"clip_{name}", None)
    if name is None or not hasattr(getattr(tower, "transformer", None), "text_model"):
        raise ValueError(
            f"DETEX words need a CLIP of Stable Diffusion 1.x or 2.x; the one wired here is a "
            f"{type(clip.cond_stage_model).__name__}. Wire the CLIP output of Load Checkpoint."
        )
    return name


def marked_tokens(
    clip: comfy.sd.CLIP, text: str, **options
) -> tuple[list[list[tuple]], list[tuple]]:
    """ComfyUI's own tokens of `text`, and where its placeholders stand.

    -> chunks of (token, weight, word id), and (chunk, position, word) for each placeholder in the
    order of the text. Raises ValueError where a placeholder was lost on the way.
    """
    pieces, words = split_placeholders(text)
    marker = next((m for m in MARKERS if m not in text.lower()), None)
    if marker is None:
        raise ValueError(f"Take one of these words out of the prompt: {', '.join(MARKERS)}.")
    tower = tower_of(clip)
    marked = f" {marker} ".join(pieces)
    chunks = clip.tokenize(marked, return_word_ids=True, **options)[tower]
    marker_id = clip.tokenize(marker, return_word_ids=True)[tower][0][1][0]
    places = [
        (row, position)
        for row, chunk in enumerate(chunks)
        for position, (token, *_) in enumerate(chunk)
        if not torch.is_tensor(token) and token == marker_id
    ]
    if len(places) != len(words):
        raise ValueError(
            f"{len(words)} placeholders stand in the prompt but {len(places)} in its tokens. Put "
            f"spaces around each placeholder and keep it out of file names: {text!r}"
        )
    return chunks, [(*place, word) for place, word in zip(places, words, strict=True)]


def compose(clip: comfy.sd.CLIP, text: str, vectors: Mapping[str, Tensor]) -> list:
    """CONDITIONING of a prompt in ComfyUI's syntax with [V], [P2], [B1] anywhere in it.

    vectors: word -> [1, C]. Weights, punctuation, repeats and several 77-token chunks are the
    host's own business: the vectors take their places in its token list.
    """
    tokens = placed_tokens(clip, *marked_tokens(clip, text), vectors)
    return clip.encode_from_tokens_scheduled({tower_of(clip): tokens})


def placed_tokens(
    clip: comfy.sd.CLIP,
    chunks: list[list[tuple]],
    places: list[tuple],
    vectors: Mapping[str, Tensor],
) -> list[list[tuple]]:
    """The (token, weight) of `marked_tokens` with the vectors [1, C] in their places."""
    tokens = [[(token, weight) for token, weight, *_ in chunk] for chunk in chunks]
    for row, position, word in places:
        tokens[row][position] = (vectors[word].reshape(-1), tokens[row][position][1])
    check_in_place(clip, tokens, places)
    return tokens


def text_features(
    clip: comfy.sd.CLIP, texts: Sequence[str], vectors: Mapping[str, Tensor]
) -> list[Tensor]:
    """CLIP's features of each text, from its first token to its end token: [t, C], float32."""
    tower, features = tower_of(clip), []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        marked = [marked_tokens(clip, text) for text in texts[start : start + TEXTS_AT_ONCE]]
        tokens = [placed_tokens(clip, *both, vectors)[0] for both in marked]
        cond: Any = clip.encode_from_tokens({tower: tokens})  # chunks of one text, to ComfyUI
        rows = cond.unflatten(1, (len(tokens), -1))[0].float().cpu()  # [texts, T, C]
        for row, (chunks, _) in zip(rows, marked, strict=True):
            length = sum(bool(word_id) for *_, word_id in chunks[0])
            features.append(row[1 : length + 2])
    return features


def check_in_place(clip: comfy.sd.CLIP, tokens: list[list[tuple]], places: list[tuple]) -> None:
    """Raise ValueError unless each place holds a vector that the text tower will take.

    ComfyUI drops a vector of another width with a line in the log; here it is an error.
    """
    tower = getattr(clip.cond_stage_model, f"clip_{tower_of(clip)}")
    width = tower.transformer.get_input_embeddings().weight.shape[1]
    for row, position, word in places:
        token = tokens[row][position][0]
        if not torch.is_tensor(token) or token.shape != (width,):
            found = f"has {token.shape[0]} numbers" if torch.is_tensor(token) else "is missing"
            raise ValueError(
                f"The learned word [{word}] {found}, but this CLIP reads {width}: the concept was "
                "trained on another model family. Wire the CLIP of the checkpoint it belongs to."
            )


def word_positions(clip: comfy.sd.CLIP, text: str, words: Sequence[str]) -> dict[str, list[int]]:
    """Token positions of each word in the prompt's CONDITIONING, counted over all chunks.

    A word is a placeholder such as "[V]", "embedding:name", or plain words of the prompt.
    Raises ValueError for a word that the prompt does not have.
    """
    chunks, places = marked_tokens(clip, text)
    length = len(chunks[0])
    taken = {row * length + position: f"[{word}]" for row, position, word in places}
    flat = [entry for chunk in chunks for entry in chunk]
    found: dict[str, list[int]] = {}
    for word in words:
        if PLACEHOLDER.fullmatch(word):
            positions = [at for at, name in taken.items() if name == word]
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
        token
        for token, _, word_id in clip.tokenize(word, return_word_ids=True)[tower_of(clip)][0]
        if word_id
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
    """The text tower of a private CLIP copy, walked so that gradients reach its input.

    ComfyUI's CLIPLayer adds in place, which autograd refuses (comfy/clip_model.py); the same
    modules are called here with out-of-place additions.
    """

    def __init__(self, clip: comfy.sd.CLIP):
        self.clip = clip
        model = clip.cond_stage_model
        model.reset_clip_options()
        if clip.layer_idx is not None:
            model.set_clip_options({"layer": clip.layer_idx})
        self.tower = getattr(model, f"clip_{tower_of(clip)}")
        self.text_model = self.tower.transformer.text_model
        self.table = self.tower.transformer.get_input_embeddings()

    def tokenize(self, text: str) -> PromptTokens:
        chunks, places = marked_tokens(self.clip, text, disable_weights=True)
        if len(chunks) > 1:
            raise ValueError(
                f'The training caption "{text}" is longer than {len(chunks[0])} tokens. Use a '
                "shorter class word."
            )
        ids = tuple(int(token) for token, *_ in chunks[0])
        return PromptTokens(ids, tuple((position, word) for _, position, word in places))

    def encode(
        self, prompts: Sequence[PromptTokens], words: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        device = self.table.weight.device
        ids = torch.tensor([prompt.ids for prompt in prompts], device=device)
        hidden = self.table(ids, out_dtype=torch.float32)  # [B, T, C]
        slots = [(b, at, words[b][word]) for b, p in enumerate(prompts) for at, word in p.slots]
        if slots:
            rows, columns, vectors = zip(*slots, strict=True)
            index = (torch.tensor(rows, device=device), torch.tensor(columns, device=device))
            hidden = hidden.index_put(index, torch.stack(vectors).to(hidden))
        hidden = hidden + self.text_model.embeddings.position_embedding.weight.to(hidden)
        return self._layers(hidden)

    def _layers(self, hidden: Tensor) -> Tensor:
        layers = self.text_model.encoder.layers
        length = hidden.shape[1]
        low = -torch.finfo(hidden.dtype).max
        mask = torch.full((length, length), low, device=hidden.device).triu(1)
        last = len(layers) - 1
        if self.tower.layer == "hidden":
            last = range(len(layers))[self.tower.layer_idx]
        for layer in layers[: last + 1]:
            hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), mask, attention_pytorch)
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        if self.tower.layer == "hidden" and not self.tower.layer_norm_hidden_state:
            return hidden
        return self.text_model.final_layer_norm(hidden)

    def embedding_row(self, token_id: int) -> Tensor:
        return self.table.weight[token_id].detach().float().cpu().clone()

    def embedding_rms(self) -> float:
        return self.table.weight.detach().float().square().mean().sqrt().item()
