"""The concept file: everything that training leaves behind, in one .safetensors."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..prompt.grammar import Named
from ..unet.deltas import Delta, LowRank

FORMAT = "detex-concept"
CLIP_SKIP = "clip_skip"  # in the settings: the layer that CLIP stopped at; absent: its own
FORMAT_VERSION = 2  # 1: one class word; several subjects within the settings


@dataclass(frozen=True)
class BaseModel:
    """The model a concept was trained on."""

    family: str  # "Stable Diffusion 1.x", as `host.families` names it
    fingerprint: str  # hash of the base K and V matrices
    tower: str  # the text towers of the words: "l" is CLIP-L, "l+g" the two of SDXL
    prediction: str  # "eps" or "v": what the UNet answers, as `unet.schedules` names it
    unet: Mapping[str, Any]  # the layout: what other tools' layer names are made from


@dataclass(frozen=True)
class Concept:
    """What was learned.

    words: "V", "P1".., "B1".. -> tower -> vectors [n, C], one but for a [V] of several; deltas: the
    path of a linear layer of the UNet, "input_blocks.1.1.….attn2.to_k" -> [out, in], to be added to
    the base weight: a matrix, or two of low rank; varied: what is added besides where the positive
    prompt is computed, and codes [N, r] of the photos, which scale it: see `concept.individuals`.
    """

    words: Mapping[str, Mapping[str, Tensor]]
    deltas: Mapping[str, Delta]
    named: tuple[Named, ...]  # one, or those it was merged from
    method: str
    base: BaseModel
    config: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)  # losses, scores of the method
    photo_hashes: tuple[str, ...] = ()
    thumbnails: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 3, dtype=torch.uint8))
    varied: Mapping[str, Delta] = field(default_factory=dict)
    codes: Tensor | None = None

    @property
    def photo_count(self) -> int:
        """How many [P_i] and [B_i] there are; 0 for Custom Diffusion."""
        return sum(name.startswith("P") for name in self.words)

    @property
    def word_names(self) -> tuple[str, ...]:
        """V, P1, P2, ..., B1, B2, ...; a merged concept has V2, V3 ... after V."""
        subjects = sum(name.startswith("V") for name in self.words)
        numbers = range(1, self.photo_count + 1)
        return (
            *("V" if i == 1 else f"V{i}" for i in range(1, subjects + 1)),
            *(f"P{i}" for i in numbers),
            *(f"B{i}" for i in numbers),
        )

    @property
    def class_word(self) -> str:
        """Of all that is named: "dog and boot"."""
        return " and ".join(named.class_word for named in self.named)

    def attribute_of(self, photo: int) -> str:
        """The word after [P_photo]. In a merged concept it differs between the subjects."""
        owners = [named.attribute for named in self.named if photo in named.photos]
        return (owners or [self.named[0].attribute])[0]

    def vectors(self, tower: str) -> dict[str, Tensor]:
        """The words [n, C] for the CLIP whose text towers are so named; the parts for "l+g" stand
        side by side. Raises ValueError where the concept has others.
        """
        names = tower.split("+")
        if any(set(towers) != set(names) for towers in self.words.values()):
            raise ValueError(
                f"This concept's words belong to the text encoder of {self.base.family}; the CLIP "
                f'wired here is another kind ("{tower}"). Wire the CLIP of a {self.base.family} '
                "checkpoint."
            )
        return {
            word: torch.cat([self.words[word][name] for name in names], dim=-1)
            for word in self.word_names
        }


def concept_bytes(concept: Concept) -> bytes:
    """The file's content. The same concept gives the same bytes."""
    tensors = {}
    for name, delta in concept.deltas.items():
        tensors |= delta_tensors(f"deltas.{name}", delta)
    for name, delta in concept.varied.items():
        tensors |= delta_tensors(f"varied.{name}", delta)
    if concept.codes is not None:
        tensors["codes"] = concept.codes
    for name, towers in concept.words.items():
        tensors |= {f"words.{name}.{tower}": vector for tower, vector in towers.items()}
    tensors["thumbnails"] = concept.thumbnails
    header = {
        "method": concept.method,
        "named": [named._asdict() for named in concept.named],
        "base": vars(concept.base),
        "config": dict(concept.config),
        "report": dict(concept.report),
        "photo_hashes": list(concept.photo_hashes),
    }
    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "concept": json.dumps(header, sort_keys=True),
    }
    return sorted_header(
        save({key: value.contiguous() for key, value in tensors.items()}, metadata)
    )


def delta_tensors(key: str, delta: Delta) -> dict[str, Tensor]:
    """A matrix under its key, or its two factors as `key.up` and `key.down`."""
    if isinstance(delta, LowRank):
        return dict(zip((f"{key}.up", f"{key}.down"), delta.factors(), strict=True))
    return {key: delta}


def sorted_header(content: bytes) -> bytes:
    """A .safetensors with its header in order: the library writes metadata in a random one."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":"))
    padded = header.encode() + b" " * (-len(header.encode()) % 8)
    return len(padded).to_bytes(8, "little") + padded + content[start:]


def all_tensors(file: Any) -> dict[str, Tensor]:
    """Copies of all tensors of an open .safetensors. The tensors themselves would hold the file, so
    that Windows could not replace or delete it.
    """
    return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118


def load_concept(path: Path) -> Concept:
    """Read a concept file. Raises ValueError with the remedy for anything else."""
    if not path.is_file():
        raise ValueError(
            f"There is no concept file {path}. Choose one from the list, or train one."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            check_format(path.name, metadata)
            tensors = all_tensors(file)
    except SafetensorError as error:
        raise damaged(path.name, error) from error
    try:
        header = json.loads(metadata["concept"])
        header = header if "named" in header else from_format_1(header, tensors)
        check_header(header)
        concept = _parsed(header, tensors)
        check_content(concept, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path.name, error) from error
    return concept


def damaged(name: str, reason: object) -> ValueError:
    return ValueError(
        f"{name} is damaged or incomplete ({reason}). Copy it again from where it came, or "
        "train the concept again."
    )


def check_header(header: Mapping[str, Any]) -> None:
    """Raise ValueError for a header whose parts are of other types than a concept's."""
    subject = {"word": str, "class_word": str, "attribute": str, "photos": list}
    base = {"family": str, "fingerprint": str, "tower": str, "prediction": str, "unet": dict}
    whole = {"method": str, "named": list, "base": dict, "photo_hashes": list}
    check_types("its header", header, whole | {"config": dict, "report": dict})
    check_types("its base model", header["base"], base)
    for one in header["named"]:
        check_types("a subject", one, subject)
    numbers = [number for one in header["named"] for number in one["photos"]]
    if not header["named"] or any(type(number) is not int for number in numbers):
        raise ValueError("no subject is named with the numbers of its photos")
    if any(not isinstance(photo, str) for photo in header["photo_hashes"]):
        raise ValueError("its photos are not named by their hashes")


def check_types(where: str, found: Any, wanted: Mapping[str, type]) -> None:
    """Raise ValueError unless `found` has these keys, with values of these types."""
    for key, kind in wanted.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise ValueError(f'{where} has no "{key}" of the kind {kind.__name__}')


def check_content(concept: Concept, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for numbers that are none, or for words that do not belong together."""
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{broken[0]} holds NaN or infinite numbers")
    missing = {"V", *concept.word_names} - concept.words.keys()
    if missing or len(concept.word_names) != len(concept.words):
        odd = sorted(missing or concept.words.keys() - set(concept.word_names))
        raise ValueError(f"the words [{'], ['.join(odd)}] do not fit the others")
    most = concept.photo_count or len(concept.photo_hashes)
    for one in concept.named:
        if one.word not in concept.words or any(not 0 < n <= most for n in one.photos):
            raise ValueError(f"[{one.word}] or its photos are not among its words")
    for name, delta in (*concept.deltas.items(), *concept.varied.items()):
        if isinstance(delta, LowRank) and delta.factors()[0].shape[1] != len(delta.factors()[1]):
            raise ValueError(f"the two factors of {name} do not fit")
    check_varied(concept)
    shape = tuple(concept.thumbnails.shape)
    if len(shape) != 4 or shape[-1] != 3 or concept.thumbnails.dtype != torch.uint8:
        raise ValueError(f"its thumbnails have the shape {shape}")
    towers = {tuple(sorted(parts)) for parts in concept.words.values()}
    if len(towers) != 1 or any(v.ndim != 2 for p in concept.words.values() for v in p.values()):
        raise ValueError("its words are of different text encoders or shapes")
    if towers != {tuple(sorted(concept.base.tower.split("+")))}:
        raise ValueError(f'its words are not those of its text encoder "{concept.base.tower}"')


def check_varied(concept: Concept) -> None:
    """Raise ValueError for codes and varied deltas that do not belong together."""
    for name, delta in concept.varied.items():
        of_anchor = concept.deltas.get(name)
        if not (isinstance(delta, LowRank) and isinstance(of_anchor, LowRank)):
            raise ValueError(f"{name} varies without an anchor, or is no LoRA")
        if delta.shape != of_anchor.shape:
            raise ValueError(f"what varies of {name} is of another shape than its anchor")
        if concept.codes is not None and len(delta.down) != concept.codes.shape[-1]:
            raise ValueError(f"the codes do not fit {name}")
    if concept.codes is not None and (concept.codes.ndim != 2 or not concept.varied):
        raise ValueError("its codes have nothing to scale")


def _parsed(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Concept:
    words: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "words":
            word, tower = name.split(".")
            words.setdefault(word, {})[tower] = tensor
    return Concept(
        words=words,
        deltas=parsed_deltas("deltas", tensors),
        varied=parsed_deltas("varied", tensors),
        codes=tensors.get("codes"),
        named=tuple(
            Named(one["word"], one["class_word"], one["attribute"], tuple(one["photos"]))
            for one in header["named"]
        ),
        method=header["method"],
        base=BaseModel(**header["base"]),
        config=header["config"],
        report=header["report"],
        photo_hashes=tuple(header["photo_hashes"]),
        thumbnails=tensors["thumbnails"],
    )


def parsed_deltas(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Delta]:
    """Those that `delta_tensors` has written under this kind."""
    deltas: dict[str, Delta] = {}
    for key, tensor in tensors.items():
        found, _, name = key.partition(".")
        if found == kind and name.endswith(".up"):
            stem = name.removesuffix(".up")
            deltas[stem] = LowRank(tensor, tensors[f"{kind}.{stem}.down"])
        elif found == kind and not name.endswith(".down"):
            deltas[name] = tensor
    return deltas


def from_format_1(header: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A header of format 1 as one of format 2. There, one class word stood for all; the subjects of
    a merged concept, with the number of photos of each, stood in its settings.
    """
    photos = len({name.split(".")[1] for name in names if name.startswith("words.P")})
    alone = {"word": "V", "photos": photos} | {k: header[k] for k in ("class_word", "attribute")}
    config = dict(header["config"])
    subjects, named, first = config.pop("subjects", [alone]), [], 1
    for subject in subjects:
        numbers = list(range(first, first + subject["photos"]))
        named.append({**subject, "photos": numbers})
        first += subject["photos"]
    config.pop("photo_attributes", None)
    base = dict(header["base"])
    base["prediction"] = "v" if base.pop("v_prediction") else "eps"
    return {**header, "named": named, "config": config, "base": base}


def check_format(name: str, metadata: Mapping[str, str]) -> None:
    """Raise ValueError for a file of another kind or of a newer version."""
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{name} is not a DETEX concept file. A LoRA goes into Load LoRA, an embedding into a "
            'prompt as "embedding:name"; this node reads files of "Save Decoupled Embeddings".'
        )
    stated = metadata.get("version", "")
    version = int(stated) if stated.isdecimal() else 0
    if not version:
        raise damaged(name, f"format {stated!r}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{name} has format {version}; this version of the pack reads up to {FORMAT_VERSION}. "
            "Update the DETEX nodes in ComfyUI-Manager."
        )


def check_base(concept: Concept, family: str) -> None:
    """Raise ValueError where the concept was trained on another model family."""
    if concept.base.family != family:
        raise ValueError(
            f"This concept was trained on {concept.base.family}, but the MODEL wired here is "
            f"{family}. Load a {concept.base.family} checkpoint, or train the concept on this one."
        )
