"""What one paper's protocol has of its own: data set, methods, trainings. All the rest is the same
for all of them: protocol.py, protocol_page.py. They are DREAMBENCH and DISENDIFF, in the files of
their names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..photos.folder import PhotoFile
from .recipes import Recipe
from .scoring import Masked
from .workflows import Amounts, Graph

SHOWN_FAULTS = 10


class Asked(NamedTuple):
    """Prompts of one kind to a subject, and what their pictures are compared with."""

    name: str  # in the names of rows and files: "dog2", "cat_dog concept1"
    kind: str  # whose scores have tables of their own: "Concept 1"; "" where there is one kind
    prompts: tuple[str, ...]  # with [V] in them
    files: tuple[Path, ...]  # of the references
    references: Callable[[], Masked]  # reads them


class Learned(Protocol):
    """What a method learns at once, a row of the data set."""

    @property
    def name(self) -> str: ...
    @property
    def class_words(self) -> Sequence[str]: ...
    @property
    def photos(self) -> Sequence[PhotoFile]: ...
    @property
    def is_masked(self) -> bool: ...
    @property
    def asked(self) -> Sequence[Asked]: ...
    @property
    def folders(self) -> Mapping[str, Mapping[str, Path]]:
        """What the servers are sent: folder -> name there -> file."""
        ...


class Bench(NamedTuple):
    """What is there of the data set. listed: how many subjects its list names."""

    subjects: Sequence[Learned]
    listed: int
    notes: tuple[str, ...] = ()  # for the page: what is not as in the paper

    @property
    def is_masked(self) -> bool:
        return all(subject.is_masked for subject in self.subjects)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A paper's protocol."""

    name: str  # in file names
    title: str  # of the page
    units: str  # what the intervals are drawn over
    recipes: Mapping[str, Recipe]
    tables: Mapping[str, tuple[str, ...]]  # title -> methods, as the paper has them
    sampler: str
    mask_example: str  # "dog/00.png is the mask of dog/00.jpg"
    # --photos, --masks, --subjects, amounts; raises ValueError for what does not fit
    read: Callable[[Path, Path | None, Sequence[str], Amounts], Bench]
    training: Callable[..., Graph]  # (amounts, `Recipe.graph`, masked=) -> workflow
    row: Callable[[Any, Any], Mapping[str, str]]  # (subject, recipe) -> columns of the trainings
    usual: Mapping[str, Any] = field(default_factory=dict)  # amounts other than DreamBench's
