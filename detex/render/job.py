"""What the table asks for: a job for each different row, known by its content."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .table import Table
from .values import to_value
from .workflow import Input, Prompt, find_input, listing

SHOWN_FAULTS = 20
NUMBER_WIDTH = 4  # digits of a row's number in its file names, at least
NAME_LENGTH = 80
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')  # in the file names of some system

Settings = Mapping[tuple[str, str], Any]  # (node, input) -> value


@dataclass(frozen=True)
class Job:
    """One row. key: hash of the prompt that it makes; rows with equal values have equal keys."""

    row: int
    name: str
    stem: str  # its files begin with it: "0007_red_ball"
    key: str
    settings: Settings

    def prompt(self, base: Prompt) -> Prompt:
        """The workflow with this row's values in it."""
        return with_settings(base, self.settings)


def with_settings(base: Prompt, settings: Settings) -> Prompt:
    changed = dict(base)
    for (node, name), value in settings.items():
        inputs = {**changed[node]["inputs"], name: value}
        changed[node] = {**changed[node], "inputs": inputs}
    return changed


def key_of(prompt: Prompt) -> str:
    """Hash of all that the server computes with; titles are not in it."""
    bare = {k: [node["class_type"], node["inputs"]] for k, node in prompt.items()}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:32]


def make_jobs(table: Table, base: Prompt, inputs: list[Input]) -> list[Job]:
    """One job for each row. Raises ValueError that tells all columns and cells that do not fit."""
    targets = _targets(table.columns, inputs)
    width = max(NUMBER_WIDTH, len(str(table.rows[-1].number)))
    jobs, faults = [], []
    for row in table.rows:
        settings = {}
        for column, text in row.cells.items():
            target = targets[column]
            try:
                value = to_value(text, target.kind, target.options)
            except ValueError as error:
                faults.append(f'Row {row.number}, column "{column}": {error}.')
            else:
                settings[target.node, target.name] = value
        name = FORBIDDEN.sub("_", row.name)[:NAME_LENGTH].strip(" ._")
        stem = "_".join(filter(None, (f"{row.number:0{width}d}", name)))
        key = key_of(with_settings(base, settings))
        jobs.append(Job(row.number, row.name, stem, key, settings))
    _raise(faults)
    return jobs


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
    _raise(faults, f"A table can set:\n{listing(inputs)}")
    return targets


def _raise(faults: list[str], *hints: str) -> None:
    if not faults:
        return
    more = len(faults) - SHOWN_FAULTS
    rest = [f"... and {more} more."] if more > 0 else []
    raise ValueError("\n".join([*faults[:SHOWN_FAULTS], *rest, *hints]))
