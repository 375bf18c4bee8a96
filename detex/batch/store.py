"""What was rendered, known by content, so that no job is rendered twice.

<k>/<key>/    one finished job: its files and record.json; made whole, in one rename; k are the
              first two letters of the key, for no system likes a million folders in one
queued.json   what was asked of which server and is not home yet: {server: {prompt id: key}}
"""

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..concept.files import hold, move, read_json, telling, write_json, write_synced

STORE = ".jobs"  # the folder of finished jobs, in that of the results
RECORD = "record.json"


@dataclass(frozen=True)
class Record:
    """How a job ended. files: name in the job's own folder -> SHA-256 of the content."""

    status: str  # "done" or "failed"
    server: str = ""
    seconds: float | None = None  # that the server computed
    files: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


class JobStore:
    """The folder `.jobs`; one process at a time works in it (`with JobStore(path) as store`)."""

    def __init__(self, path: Path):
        self.path = path
        self._records: dict[str, Record] = {}
        self._queued: dict[str, dict[str, str]] = {}

    def __enter__(self) -> "JobStore":
        """Raises ValueError where another process works in the folder or a file is damaged."""
        refusal = f"Another run works in {self.path.parent}. Wait for its end, or stop it."
        with telling(self.path, 0):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = hold(self.path / "lock", refusal)
        try:
            self._read()
        except ValueError:
            self._lock.close()
            raise
        return self

    def _read(self) -> None:
        for left in self.path.glob("*.part"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # held open by another program
                    left.unlink()
        for file in self.path.glob(f"*/*/{RECORD}"):
            self._records[file.parent.name] = _read_record(file)
        remedy = "Delete it; what a server still renders will be asked for again."
        self._queued = dict(read_json(self.path / "queued.json", remedy))

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def record(self, key: str) -> Record | None:
        """How this job ended; None while it has not."""
        return self._records.get(key)

    def file(self, key: str, name: str) -> Path:
        """A file of a finished job."""
        return self._folder(key) / name

    def _folder(self, key: str) -> Path:
        return self.path / key[:2] / key

    def keep(self, key: str, record: Record, files: Iterable[tuple[str, bytes]] = ()) -> None:
        """Keep a job's files, (name, content), and how it ended: all of it or nothing.

        A job that is kept already stays as it is.
        """
        part = self.path / f"{key}.{uuid.uuid4().hex}.part"
        contents = dict(files)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        record = replace(record, files=digests)
        contents[RECORD] = json.dumps(asdict(record), indent=1).encode()
        try:
            with telling(self._folder(key), sum(map(len, contents.values()))):
                part.mkdir()
                for name, content in contents.items():
                    write_synced(part / name, content)
                if key not in self._records:
                    self._folder(key).parent.mkdir(exist_ok=True)
                    move(part, self._folder(key))
                    self._records[key] = record
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def forget_failures(self) -> None:
        """Let the jobs that failed be tried again."""
        failed = {key for key, record in self._records.items() if record.status == "failed"}
        for key in failed:
            shutil.rmtree(self._folder(key))
            del self._records[key]
        for server, ids in self._queued.items():
            self._queued[server] = {i: key for i, key in ids.items() if key not in failed}

    def note_queued(self, prompt_id: str, key: str, server: str) -> None:
        """Remember, before it is asked, that this server renders this job."""
        self._queued.setdefault(server, {})[prompt_id] = key
        self.write_queued()

    def note_home(self, server: str, prompt_id: str) -> None:
        """Forget it: the job is kept, was taken back, or is dropped by its server.

        It is written with the next one that is queued: what a killed run does not forget, the
        server or the store knows better.
        """
        self._queued.get(server, {}).pop(prompt_id, None)

    def write_queued(self) -> None:
        write_json(self.path / "queued.json", {s: ids for s, ids in self._queued.items() if ids})

    def queued_at(self, server: str) -> Mapping[str, str]:
        """Prompt id -> key of what this server was asked for and has not brought."""
        return self._queued.get(server, {})


def _read_record(file: Path) -> Record:
    remedy = f"Delete the folder {file.parent}; the job will be rendered again."
    values = read_json(file, remedy)
    try:
        return Record(**{**values, "files": dict(values["files"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error!r}). {remedy}") from error
