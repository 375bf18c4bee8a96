"""Words that a prompt asks for and its concept has not, told before anything runs: [P9] of four photos."""

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from .job import Job, refuse
from .outbox import CONCEPT_INPUT, Sent
from .workflow import Prompt

COMPOSE = "DETEXComposePrompt"
WordsOf = Callable[[str], Collection[str] | None]  # of a concept's file; None where nobody knows


def check_words(jobs: Iterable[Job], base: Prompt, words_of: WordsOf) -> None:
    """Raise ValueError that tells the rows whose words their concept does not have."""
    composers = [key for key, node in base.items() if node["class_type"] == COMPOSE]
    faults: list[str] = []
    known: dict[str, Collection[str] | None] = {}
    for job in jobs if composers else ():
        prompt = job.prompt(base)
        for key in composers:
            inputs = prompt[key]["inputs"]
            file = _file(prompt, inputs.get("concept"))
            if file is None:
                continue
            if file not in known:
                known[file] = words_of(file)
            faults += _faults(job, file, asked_words(inputs), known[file])
    refuse(faults)
