"""What the table asks for: a job for each different row, known by its content."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .outbox import Outbox
from .table import Row, Table
from .values import to_value
from .workflow import Input, Place, Prompt, find_input, listing, with_settings

SHOWN_FAULTS = 20
NUMBER_WIDTH = 4  # digits of a row's number in its file names, at least
NAME_LENGTH = 80
FLAT_ROWS, FOLDER_ROWS = 5000, 1000  # a longer table has a folder for each thousand rows
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')  # in the file names of some system
WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


@dataclass(frozen=True)
class Job:
    """One row. key: hash of the prompt that it makes; rows with equal values have equal keys."""

    row: int
    name: str
    stem: str  # its files begin with it: "0007_red_ball", "0012/0012345_red_ball"
    key: str
    settings: Mapping[Place, Any]
    cells: Mapping[str, str] = field(default_factory=dict)  # the row as it stands in the table

    def prompt(self, base: Prompt) -> Prompt:
        """The workflow with this row's values in it."""
        return with_settings(base, self.settings)


def by_weights(jobs: Iterable[Job]) -> dict[str, tuple[str, ...]]:
    """Key -> the files of weights that the row names, such as its checkpoint and concept.

    In an order that loads each as seldom as can be: the input with the fewest different files is
    changed last, else the rows keep their order.
    """
    found: dict[Place, dict[str, int]] = {}  # input -> its files, numbered as they come
    weights = {}
    for job in jobs:
        named = {place: v for place, v in job.settings.items() if is_weights(v)}
        for place, value in named.items():
            numbers = found.setdefault(place, {})
            numbers.setdefault(value, len(numbers))
        weights[job.key] = named
    places = sorted(found, key=lambda place: len(found[place]))

    def turn(key: str) -> list[int]:
        return [found[place].get(weights[key].get(place), -1) for place in places]

    return {key: tuple(weights[key].values()) for key in sorted(weights, key=turn)}


def is_weights(value: object) -> bool:
    return isinstance(value, str) and value.lower().endswith(WEIGHTS)


def key_of(prompt: Prompt) -> str:
    """Hash of all that the server computes with; titles are not in it."""
    bare = {k: [node["class_type"], node["inputs"]] for k, node in prompt.items()}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:32]


def make_jobs(
    table: Table, base: Prompt, inputs: list[Input], outbox: Outbox | None = None
) -> list[Job]:
    """One job for each row; what it names of this machine's files goes into the outbox.

    Raises ValueError that tells all columns and cells that do not fit.
    """
    targets = _targets(table.columns, inputs)
    last, faults = table.rows[-1].number, []
    jobs = [_job(row, last, targets, base, outbox, faults) for row in table.rows]
    refuse(faults)
    return jobs


def _job(
    row: Row,
    last: int,
    targets: Mapping[str, Input],
    base: Prompt,
    outbox: Outbox | None,
    faults: list[str],
) -> Job:
    """last: the table's highest row number. What does not fit is added to `faults`."""
    settings = {}
    for column, text in row.cells.items():
        target = targets[column]
        try:
            sent = outbox.put(target, text) if outbox else None
            settings[target.place] = sent or to_value(text, target.kind, target.options)
        except ValueError as error:
            faults.append(f'Row {row.number}, column "{column}": {error}.')
    key = key_of(with_settings(base, settings))
    return Job(row.number, row.name, stem_of(row, last), key, settings, row.cells)


def stem_of(row: Row, last: int) -> str:
    """ "0007_red_ball"; in a long table with its folder, for no system likes many thousand files
    in one.
    """
    width = max(NUMBER_WIDTH, len(str(last)))
    name = FORBIDDEN.sub("_", row.name)[:NAME_LENGTH].strip(" ._")
    stem = "_".join(filter(None, (f"{row.number:0{width}d}", name)))
    return stem if last <= FLAT_ROWS else f"{row.number // FOLDER_ROWS:0{width - 3}d}/{stem}"


def _targets(columns: tuple[str, ...], inputs: list[Input]) -> dict[str, Input]:
    targets, faults = {}, []
    for column in columns:
        try:
            target = find_input(column, inputs)
        except ValueError as error:
            faults.append(str(error))
            continue
        for other, taken in targets.items():
            if taken == target:
                faults.append(f'Columns "{other}" and "{column}" both set {target.address}.')
        targets[column] = target
    refuse(faults, f"A table can set:\n{listing(inputs)}")
    return targets


def refuse(faults: list[str], *hints: str) -> None:
    """Raise ValueError where there are faults, with the first of them, then the hints."""
    if not faults:
        return
    more = len(faults) - SHOWN_FAULTS
    rest = [f"... and {more} more."] if more > 0 else []
    raise ValueError("\n".join([*faults[:SHOWN_FAULTS], *rest, *hints]))
