"""A cell is one run: an arm, a subject, a seed. Its result is kept in one checked file.

The file's name is the hash of everything that decides the result. A file whose inside does not
match its name or its own checksum counts as absent: the cell is run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from detex_pack.detex.concept.files import replace_file
from detex_pack.detex.host.demo_model import DEMO_MODEL_PATH
from detex_pack.detex.toys.scene import Identity
from detex_pack.pretraining.judge import WEIGHTS

from . import prompts
from .arms import arm_named

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("DETEX_CELLS") or ROOT / "docs" / "science" / "runs")
STRIPS = ROOT / "runs" / "science"  # a few pictures a cell, not committed
FORMAT = 1  # raise it when the code changes what a cell measures
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
        """The name of the cell's file."""
        return _digest(self.recipe())[:24]

    def __str__(self) -> str:
        shape, main, second, pattern = self.identity
        words = f"{main} and {second} {pattern} {shape}"
        setting = f"rho {self.rho:g}, {self.photos} photos, {self.steps} steps"
        return f"{self.arm}, {words}, seed {self.seed}, {setting}"


class DamagedCell(ValueError):
    """A file that is there but must not be used."""


def store(cell: Cell, result: dict[str, Any]) -> Path:
    """Writes the result in one move, so that a stop never leaves half a file."""
    body = {"cell": asdict(cell), "recipe": cell.recipe(), "result": result}
    body = json.loads(json.dumps(body))
    path = _path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(body | {"sha256": _digest(body)}, indent=1)
    replace_file(path, f"{text}\n".encode())
    return path


def load(cell: Cell) -> dict[str, Any] | None:
    """The cell's result, or None where it has not been run.

    Raises DamagedCell for a file that is broken, changed, or another cell's.
    """
    path = _path(cell)
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        stated = body.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedCell(f"{path.name} is no whole cell ({error!r}).") from error
    if stated != _digest(body):
        raise DamagedCell(f"{path.name} was changed: its checksum does not match.")
    if body["recipe"] != json.loads(json.dumps(cell.recipe())):
        raise DamagedCell(f"{path.name} holds another cell: {body['cell']}.")
    return body["result"]


def load_sound(cell: Cell) -> dict[str, Any] | None:
    """The cell's result, or None where there is none to trust."""
    try:
        return load(cell)
    except DamagedCell:
        return None


def _path(cell: Cell) -> Path:
    return FOLDER / f"{cell.key}.json"


def _digest(value: Any) -> str:
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


@cache
def sha256_of(path: Path) -> str:
    """Content hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def commit() -> str:
    """The commit of this checkout, with a + where its code was changed since; empty without git."""
    changes = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return f"{head}+" if head and _git(*changes) else head
    except FileNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
