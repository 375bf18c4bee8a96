"""Files that are whole or not there, and a folder that one process works in at a time."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

HALF = re.compile(r"\..{1,8}\.[0-9a-f]{32}\.part", re.DOTALL)  # the names of `beside_of`


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and bring it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def beside_of(path: Path) -> Path:
    """Where to write what is moved to `path` in one step: a name that no other process has."""
    return path.with_name(f".{path.name[:8]}.{uuid.uuid4().hex}.part")


def clear_halves(folder: Path, before: float) -> None:
    """Remove what processes that were killed had begun to write in this folder, and not touched
    since the time `before`.
    """
    for path in folder.iterdir():
        if HALF.fullmatch(path.name):
            with contextlib.suppress(OSError):  # another process was faster, or holds it open
                if path.stat().st_mtime < before:
                    path.unlink()


def why_not(path: Path, needed: int, error: OSError) -> str:
    """The message for a disk that refuses to take files of so many bytes."""
    megabytes = f"{needed / 1e6:.1f} MB"
    try:
        folder = next(folder for folder in path.parents if os.path.lexists(folder))
        free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there"
    except (OSError, StopIteration):
        free = "the disk does not answer"
    return (
        f"{path} could not be written: {error.strerror or error}. The files need {megabytes}, and "
        f"{free}. Nothing was left behind: make room, or make the folder writable, and run again."
    )


@contextlib.contextmanager
def telling(path: Path, needed: int) -> Iterator[None]:
    """Within, errors of the disk say the path, what was needed and what is free."""
    try:
        yield
    except OSError as error:
        raise type(error)(why_not(path, needed, error)) from error


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
    machine has lost its power. Raises OSError as `telling` words it.
    """
    beside = beside_of(path)
    with telling(path, len(content)):
        try:
            write_synced(beside, content)
            move(beside, path)
        finally:
            with contextlib.suppress(OSError):
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
