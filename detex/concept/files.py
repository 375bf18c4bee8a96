"""Files that are whole or not there, and a folder that one process works in at a time."""

import hashlib
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import IO, Any


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and bring it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def beside_of(path: Path) -> Path:
    """Where to write what is moved to `path` in one step: a name that no other process has."""
    return path.with_name(f".{path.name[:8]}.{uuid.uuid4().hex}.part")


def move(source: Path, target: Path) -> None:
    """os.replace, for files and folders. Windows refuses it while a virus scanner or an indexer
    looks at what was just written: it is tried again for a while.
    """
    for seconds in (0.05, 0.1, 0.2, 0.4, 0.8):
        try:
            os.replace(source, target)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    os.replace(source, target)


def replace_file(path: Path, content: bytes) -> None:
    """Write beside, then move: who reads `path` sees the old content or the new, even after the
    machine has lost its power.
    """
    beside = beside_of(path)
    try:
        write_synced(beside, content)
        move(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The file's content, {} where there is none.

    Raises ValueError, which ends with `remedy`, where the file holds no JSON object.
    """
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). {remedy}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=1).encode())


def digest_of(path: Path) -> str:
    """SHA-256 of the file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hold(path: Path, refusal: str) -> IO[bytes]:
    """Lock this file until it is closed or the process ends, however it does.

    Raises ValueError with the text `refusal` where another process holds it.
    """
    file = path.open("ab")
    try:
        _lock(file)
    except OSError:
        file.close()
        raise ValueError(refusal) from None
    return file


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
