"""A concept as files: ours, and those that stock ComfyUI, LoRA managers and diffusers read."""

import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Any, NamedTuple

import comfy.utils
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from ..concept.compress import LowRankForms, check_share, exact_factors
from ..concept.diffusers_readme import readme
from ..concept.file import Concept, concept_bytes, sorted_header
from ..concept.individuals import check_individual, summed
from ..concept.lora_metadata import Spelling, lora_metadata
from ..unet.deltas import Delta, LowRank
from . import paths

Factors = Mapping[str, tuple[Tensor, Tensor]]  # name -> up [O, r], down [r, I]


class Export(Enum):
    """What is written beside the concept file."""

    STOCK = "a LoRA and one embedding a word, for ComfyUI and A1111"
    DIFFUSERS = "a folder that diffusers reads"


class Part(NamedTuple):
    """A file to be. Its content is made when its name is known."""

    folder: str  # model folder
    suffix: str  # of its path there, after the common stem: "_lora.safetensors"
    content: Callable[[str], bytes]  # of the stem


class File(NamedTuple):
    """A file ready to be written."""

    folder: str  # model folder
    name: str  # its path there
    content: bytes


def plan(
    concept: Concept,
    name: str,
    exports: Collection[Export] = (),
    lora_share: float = 1.0,
    forms: LowRankForms | None = None,
) -> list[File]:
    """The concept file, then the `exports`, all under one free stem; nothing is written yet.

    lora_share in (0, 1]: how much of the deltas the LoRA keeps, see `low_rank`; at 1 the stock LoRA
    has the deltas as they are, which ComfyUI adds exactly; diffusers reads factors alone, at 1 of
    all ranks. forms: those of the concept's summed deltas, for a caller who asks them for more.
    Of an individual the LoRA is the sum of the anchor and what varies; the anchor has one of its
    own.
    Raises ValueError for another share, for a name without letters and digits, and for a
    distribution.
    """
    check_share(lora_share)
    check_individual(concept)
    parts = [Part(paths.FOLDER, ".safetensors", lambda _: concept_bytes(concept))]
    forms = forms or LowRankForms(summed(concept))

    def factors(forms: LowRankForms = forms) -> Factors:
        return under_kohyas_names(concept, forms.factors(lora_share))

    def stock(forms: LowRankForms) -> dict[str, Tensor]:
        if lora_share == 1:
            return full_tensors(concept, forms.deltas)
        return lora_tensors(factors(forms))

    if Export.STOCK in exports:
        parts += stock_parts(concept, stock(forms))
        if concept.varied:
            parts.append(anchor_part(concept, stock(LowRankForms(concept.deltas))))
    if Export.DIFFUSERS in exports:
        parts += diffusers_parts(concept, lora_tensors(pad_to_rank(factors())))
    taken = [(part.folder, part.suffix.partition("/")[0]) for part in parts]  # a folder as a whole
    stem = paths.free_stem(name, taken)
    return [File(part.folder, stem + part.suffix, part.content(stem)) for part in parts]


def write(files: Collection[File]) -> None:
    """All of them or none. Raises FileExistsError where one of them exists by now."""
    paths.write_set({paths.target_path(file.folder, file.name): file.content for file in files})


def write_planned(make: Callable[[], list[File]]) -> list[File]:
    """Plan and write; under the next number where another process has just taken the name."""
    while True:
        files = make()
        with contextlib.suppress(FileExistsError):
            write(files)
            return files


def stock_word(stem: str) -> Spelling:
    """As a prompt of ComfyUI calls it: "embedding:toy_p1"."""
    return lambda word: f"embedding:{file_stem(stem, word)}"


def diffusers_word(stem: str) -> Spelling:
    """As a prompt of diffusers calls it: "<toy_p1>"."""
    return lambda word: f"<{file_stem(stem, word)}>"


def file_stem(stem: str, word: str) -> str:
    """ "toy_p1", of the word's file, which A1111 calls it by."""
    return f"{stem}_{word.lower()}"


def stock_parts(concept: Concept, tensors: Mapping[str, Tensor]) -> list[Part]:
    """name_lora in models/loras, where there are deltas; name_v, ... in models/embeddings."""

    def lora(stem: str) -> bytes:
        return lora_bytes(concept, tensors, stem, stock_word(stem))

    def embedding(word: str) -> Callable[[str], bytes]:
        return lambda _: save(word_tensors(concept, word))

    words = [
        Part("embeddings", f"_{word.lower()}.safetensors", embedding(word))
        for word in concept.word_names
    ]
    return [Part("loras", "_lora.safetensors", lora), *words] if tensors else words


def anchor_part(concept: Concept, tensors: Mapping[str, Tensor]) -> Part:
    """name_anchor_lora in models/loras, for the negative branch of who can tell the two apart."""

    def anchor(stem: str) -> bytes:
        return lora_bytes(concept, tensors, f"{stem}_anchor", stock_word(stem))

    return Part("loras", "_anchor_lora.safetensors", anchor)


def diffusers_parts(concept: Concept, tensors: Mapping[str, Tensor]) -> list[Part]:
    """models/diffusers/name with the file name that `load_lora_weights` looks for, and the words.

    diffusers takes the one key of an embedding file as its token: "<name_v>". For the two towers of
    Stable Diffusion XL it wants two tensors, which the README passes on.
    """

    def lora(stem: str) -> bytes:
        return lora_bytes(concept, tensors, stem, diffusers_word(stem))

    def embedding(word: str) -> Callable[[str], bytes]:
        tensors = word_tensors(concept, word)
        if len(tensors) > 1:
            return lambda _: save(tensors)
        (vector,) = tensors.values()
        return lambda stem: save({diffusers_word(stem)(word): vector})

    words = [
        Part("diffusers", f"/words/{word.lower()}.safetensors", embedding(word))
        for word in concept.word_names
    ]
    manual = Part(
        "diffusers", "/README.md", lambda s: readme(concept, s, diffusers_word(s)).encode()
    )
    deltas = [Part("diffusers", "/pytorch_lora_weights.safetensors", lora)] if tensors else []
    return [*deltas, *words, manual]


def full_tensors(concept: Concept, deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """Deltas as they are, float32, under kohya's names: differences, or the factors of those
    that were trained at low rank.
    """
    names = kohya_names(concept.base.unet)
    tensors: dict[str, Tensor] = {}
    for name, delta in deltas.items():
        if isinstance(delta, LowRank):
            tensors |= lora_tensors({names[name]: exact_factors(delta)})
        else:
            tensors[f"{names[name]}.diff"] = delta.contiguous()
    return tensors


def word_tensors(concept: Concept, word: str) -> dict[str, Tensor]:
    """A word as ComfyUI's embedding files have it: one tensor [n, C] for each text tower."""
    towers = concept.words[word]
    return {f"clip_{tower}": vector.contiguous() for tower, vector in towers.items()}


def under_kohyas_names(concept: Concept, factors: Factors) -> Factors:
    """The same products up·down, under the names which diffusers reads too."""
    names = kohya_names(concept.base.unet)
    return {names[name]: pair for name, pair in factors.items()}


def pad_to_rank(factors: Factors) -> Factors:
    """The same products, with zeros added up to the largest rank.

    diffusers (seen in 0.42.1) scales all products by the alpha of the most frequent rank.
    """
    rank = max((len(down) for _, down in factors.values()), default=0)
    return {
        name: (F.pad(up, (0, rank - len(down))), F.pad(down, (0, 0, 0, rank - len(down))))
        for name, (up, down) in factors.items()
    }


def lora_tensors(factors: Factors) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, (up, down) in factors.items():
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))  # the loader divides by it
    return tensors


def lora_bytes(
    concept: Concept, tensors: Mapping[str, Tensor], title: str, spell: Spelling
) -> bytes:
    """A LoRA file with the metadata of `lora_metadata`, and the hashes of its tensors."""
    bare = save({**tensors})
    start = 8 + int.from_bytes(bare[:8], "little")
    digest = hashlib.sha256(bare[start:]).hexdigest()
    hashes = {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}
    return sorted_header(save({**tensors}, lora_metadata(concept, title, spell) | hashes))


def kohya_names(unet_layout: Mapping[str, Any]) -> dict[str, str]:
    """ "input_blocks.1.1.….attn2.to_k" -> "lora_unet_down_blocks_0_attentions_0_…_attn2_to_k"."""
    mapping = comfy.utils.unet_to_diffusers({**unet_layout})
    names = {}
    for theirs, ours in mapping.items():
        if theirs.endswith(".weight"):
            stem = theirs.removesuffix(".weight").replace(".", "_")
            names[ours.removesuffix(".weight")] = f"lora_unet_{stem}"
    return names
