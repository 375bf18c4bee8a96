"""Words that a concept has not, [P9] of four photos: told before anything runs."""

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from ..prompt.grammar import split_placeholders
from .job import Job, refuse
from .outbox import CONCEPT_INPUT
from .workflow import Prompt

COMPOSE = "DETEXComposePrompt"
WordsOf = Callable[[str], Collection[str] | None]  # of a concept's file; None where nobody knows


def check_words(jobs: Iterable[Job], base: Prompt, words_of: WordsOf) -> None:
    """Raise ValueError that tells the rows whose words their concept does not have."""
    composers = [key for key, node in base.items() if node["class_type"] == COMPOSE]
    known: dict[str, Collection[str] | None] = {}
    faults = []
    for job in jobs if composers else ():
        prompt = job.prompt(base)
        for key in composers:
            file = _file_behind(prompt, prompt[key]["inputs"].get("concept"))
            if file is None:
                continue
            if file not in known:
                known[file] = words_of(file)
            words = known[file] or ()
            wrong = _asked(prompt[key]["inputs"]) - set(words)
            if words and wrong:
                faults.append(_fault(job, file, wrong, words))
    refuse(faults)


def _file_behind(prompt: Prompt, wire: Any) -> str | None:
    """The file of the loader at the other end of this wire; None for a concept of other origin."""
    node = prompt.get(str(wire[0])) if isinstance(wire, list) else None
    file = node["inputs"].get(CONCEPT_INPUT[1]) if node else None
    is_loader = node is not None and node["class_type"] == CONCEPT_INPUT[0]
    return file if is_loader and isinstance(file, str) else None


def _asked(inputs: dict[str, Any]) -> set[str]:
    text = inputs.get("text")
    words = set(split_placeholders(text)[1]) if isinstance(text, str) else set()
    for letter, name in (("P", "pose"), ("B", "background")):
        number = inputs.get(name)
        if isinstance(number, int) and number:
            words.add(f"{letter}{number}")
    return words


def _fault(job: Job, file: str, wrong: Collection[str], known: Collection[str]) -> str:
    asked, has = (", ".join(f"[{w}]" for w in words) for words in (sorted(wrong), known))
    return f"Row {job.row} asks for {asked}, but {file} has {has}."


def words_in(path: Path) -> list[str] | None:
    """The words of a concept file, from its header alone: V, P1, P2, ..., B1, B2, ..."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            keys = json.loads(file.read(size)).keys()
        except (ValueError, MemoryError):
            return None
    words = {key.split(".")[1] for key in keys if key.startswith("words.")}
    return sorted(words, key=lambda word: ("VPB".find(word[0]), int(word[1:] or 1)))
