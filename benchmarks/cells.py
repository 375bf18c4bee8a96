"""A cell is one run: an arm, a subject, a seed. Its result is one checked line of cells.jsonl.

The line's key is the hash of everything that decides the result; the last line of a key counts. A
line whose inside does not match its key or its own checksum counts as absent: the cell is run
again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from detex_pack.detex.concept.files import hold
from detex_pack.detex.host.demo_model import DEMO_MODEL_PATH
from detex_pack.detex.toys.scene import Identity
from detex_pack.pretraining.judge import WEIGHTS
from devtools.machine import ROOT

from . import prompts
from .arms import arm_named

FILE = Path(os.environ.get("DETEX_CELLS") or ROOT / "docs" / "science" / "cells.jsonl")
STRIPS = ROOT / "runs" / "science"  # a few pictures a cell, not committed
FORMAT = 1  # raise it when the code changes what a cell measures
KEY = re.compile(r'\{"key": "([0-9a-f]{24})"')
SAMPLER = {"steps": 20, "cfg": 4.0, "sampler": "ddim", "scheduler": "normal"}


@dataclass(frozen=True, order=True)
class Cell:
    """What to run. rho is the share of photos with one background and position."""

    arm: str
    identity: Identity
    seed: int = 0
    rho: float = 0.75
    photos: int = 4
    steps: int = 600

    @property
    def base(self) -> Cell:
        """The base model asked for the same pictures."""
        return Cell("base", self.identity, self.seed, self.rho, self.photos, 0)

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the result."""
        return {
            "format": FORMAT,
            "training": arm_named(self.arm).settings(self.steps, self.seed),
            "identity": list(self.identity),
            "seed": self.seed,
            "rho": float(self.rho),
            "photos": self.photos,
            "prompts": [prompts.VERSION, prompts.COUNTS],
            "sampler": SAMPLER,
            "base_model": sha256_of(DEMO_MODEL_PATH),
            "judge": sha256_of(WEIGHTS),
        }

    @property
    def key(self) -> str:
        """The name of the cell's line."""
        return _digest(self.recipe())[:24]

    def __str__(self) -> str:
        shape, main, second, pattern = self.identity
        words = f"{main} and {second} {pattern} {shape}"
        setting = f"rho {self.rho:g}, {self.photos} photos, {self.steps} steps"
        return f"{self.arm}, {words}, seed {self.seed}, {setting}"


class DamagedCell(ValueError):
    """A line that is there but must not be used."""


def store(cell: Cell, result: dict[str, Any]) -> None:
    """Append the result as one line, in place of one that a stop has cut off."""
    body = {"cell": asdict(cell), "recipe": cell.recipe(), "result": result}
    body = json.loads(json.dumps(body))
    line = json.dumps({"key": cell.key} | body | {"sha256": _digest(body)})
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with _alone(), FILE.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone() -> Iterator[None]:
    """While no other process writes to the file."""
    lock, busy = FILE.with_name(f"{FILE.name}.lock"), "another process writes"
    while True:
        try:
            held = hold(lock, busy)
        except ValueError:
            time.sleep(0.02)
        else:
            break
    with held:
        yield


def load(cell: Cell) -> dict[str, Any] | None:
    """The cell's result, or None where it has not been run.

    Raises DamagedCell for a line that is broken, changed, or another cell's.
    """
    line = _lines(*_state()).get(cell.key)
    if line is None:
        return None
    try:
        body = json.loads(line)
        del body["key"]
        stated = body.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedCell(f"{cell.key} is no whole cell ({error!r}).") from error
    if stated != _digest(body):
        raise DamagedCell(f"{cell.key} was changed: its checksum does not match.")
    if body["recipe"] != json.loads(json.dumps(cell.recipe())):
        raise DamagedCell(f"{cell.key} holds another cell: {body['cell']}.")
    return body["result"]


def _state() -> tuple[Path, int, int]:
    """Changes whenever the file does."""
    if not FILE.is_file():
        return FILE, 0, 0
    status = FILE.stat()
    return FILE, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1)
def _lines(file: Path, _modified: int, size: int) -> dict[str, str]:
    """Key -> its last line. What comes after the last line's end was cut off, and is none."""
    text = file.read_text(encoding="utf-8") if size else ""
    keyed = ((KEY.match(line), line) for line in text.split("\n")[:-1])
    return {match[1]: line for match, line in keyed if match}


def load_sound(cell: Cell) -> dict[str, Any] | None:
    """The cell's result, or None where there is none to trust."""
    try:
        return load(cell)
    except DamagedCell:
        return None


def _digest(value: Any) -> str:
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


@cache
def sha256_of(path: Path) -> str:
    """Content hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
