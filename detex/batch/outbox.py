"""Files of this machine that a table or workflow names: sent to the servers that lack them.

On a server a file is named by its content, `dog-1a2b3c4d.png`, so that it is never taken for
another one, and so that a row whose picture or concept has changed is a new job.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from ..concept.files import digest_of
from ..photos.names import SUFFIXES
from .api_prompt import UPLOADS
from .client import CONCEPT
from .workflow import Input, Prompt, with_settings

FOLDER = "detex"  # in the servers' input folder
CONCEPT_INPUT = ("DETEXLoadEmbeddings", "file")
FOLDER_INPUT = ("DETEXLoadSubjectFolder", "folder")


class Sent(NamedTuple):
    """A file for the servers. folder: "input", or "detex" for a concept; name: its name there."""

    folder: str
    name: str
    path: str


class Outbox:
    """What is to be sent. home: the folder that relative paths start from."""

    def __init__(self, home: Path):
        self.home = home
        self.files: dict[str, Sent] = {}  # by name
        self._names: dict[Path, str] = {}

    def fill(self, prompt: Prompt, inputs: list[Input]) -> Prompt:
        """The prompt, with the files of this machine that its widgets name put in here."""
        settings = {
            target.place: name
            for target in inputs
            for text in [prompt[target.node]["inputs"].get(target.name)]
            if isinstance(text, str) and (name := self.put(target, text))
        }
        return with_settings(prompt, settings)

    def put(self, target: Input, text: str) -> str | None:
        """Where this input takes files, and the text names one of this machine, or a folder of
        photos: its name on the servers.
        """
        kind = (target.class_type, target.name)
        takes_file = kind == CONCEPT_INPUT or any(target.options.get(key) for key in UPLOADS)
        if not text.strip() or not (takes_file or kind == FOLDER_INPUT):
            return None
        try:
            path = self.home / Path(text.strip().strip("\"'")).expanduser()
        except RuntimeError:  # a user that is not known here: the server says so
            return None
        if path not in self._names:
            if takes_file and path.is_file():
                self._names[path] = self._file(path, concept=kind == CONCEPT_INPUT)
            elif kind == FOLDER_INPUT and path.is_dir():
                self._names[path] = self._folder(path)
        return self._names.get(path)

    def _file(self, path: Path, *, concept: bool) -> str:
        name = f"{_plain(path.stem)}-{digest_of(path)[:8]}{path.suffix.lower()}"
        if not concept:
            name = f"{FOLDER}/{name}"
        self.files[name] = Sent(CONCEPT if concept else "input", name, str(path))
        return name

    def _folder(self, path: Path) -> str:
        """The photos and masks of a folder, under their own names, whose order counts."""
        photos = sorted(file for file in path.iterdir() if file.suffix.casefold() in SUFFIXES)
        facts = "\n".join(f"{file.name} {digest_of(file)}" for file in photos)
        name = f"{FOLDER}/{_plain(path.name)}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"
        for file in photos:
            there = f"{name}/{file.name}"
            self.files[there] = Sent("input", there, str(file))
        return name


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_-") or "file"
