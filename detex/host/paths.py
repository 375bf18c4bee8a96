"""Where concepts and exports live on disk. Nothing is ever overwritten."""

import contextlib
import errno
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import folder_paths

from ..concept.files import beside_of, clear_halves, move, why_not, write_synced

FOLDER = "detex"
NONE_FOUND = "none in models/detex"
LONGEST_WRITE = 3600.0  # s, after which nobody writes on a half file any more
LONGEST = 150  # bytes of a name; file systems take 255, with suffixes
RESERVED = re.compile(r"con|prn|aux|nul|com\d|lpt\d")  # no file on Windows may have these names


def register_folder() -> None:
    """Make models/detex a model folder, beside what extra_model_paths.yaml adds."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.folder_names_and_paths[FOLDER][1].add(".safetensors")


def concept_files() -> list[str]:
    """For a list to choose from, which must not be empty."""
    return folder_paths.get_filename_list(FOLDER) or [NONE_FOUND]


def concept_path(name: str) -> Path:
    """Raises ValueError where there is no concept to choose."""
    if name == NONE_FOUND:
        raise ValueError(
            "There is no concept in models/detex yet. Train one, keep it with Save Decoupled "
            "Embeddings, then press R and choose its file."
        )
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def plain_name(text: str) -> str:
    """What is left of a text in letters and digits of any script, _ and -, in small letters."""
    small = unicodedata.normalize("NFC", text.strip().lower())
    kept = (c if c in "_-" or unicodedata.category(c)[0] in "LMN" else " " for c in small)
    return "_".join("".join(kept).split()).strip("_-")


def safe_name(name: str) -> str:
    """A file name that every system, and ComfyUI's `embedding:` syntax, can read. Raises ValueError
    for a name without letters and digits, and for one too long.
    """
    plain = plain_name(name)
    if RESERVED.fullmatch(plain):
        plain += "_subject"
    if not plain:
        raise ValueError(
            f'The name "{name}" has no letters or digits. Call it for example "my_dog".'
        )
    size = len(plain.encode())
    if size > LONGEST:
        raise ValueError(
            f'The name that begins with "{plain[:20]}" takes {size} bytes, and {LONGEST} '
            "are the most that fit into a file name beside _lora and a number. Give a shorter one."
        )
    return plain


def free_stem(name: str, targets: list[tuple[str, str]]) -> str:
    """`name`, or `name_2`, `name_3`…: the first for which no target file exists yet.

    targets: (model folder, suffix of the file name), such as ("detex", ".safetensors").
    """
    stem, number = safe_name(name), 1
    while True:
        candidate = stem if number == 1 else f"{stem}_{number}"
        if not any(is_taken(target_path(folder, candidate + end)) for folder, end in targets):
            return candidate
        number += 1


def is_taken(path: Path) -> bool:
    """Whether the name is in use, by a link that leads nowhere, too."""
    return os.path.lexists(path)


def target_path(folder: str, file_name: str) -> Path:
    return Path(folder_paths.get_folder_paths(folder)[0]) / file_name


def write_new(path: Path, content: bytes) -> None:
    """One new file: see `write_set`."""
    write_set({path: content})


def write_set(contents: Mapping[Path, bytes]) -> None:
    """Write new files, all of them or none: beside their places, flushed, then moved there, the
    first one last. A process that is killed, or a power cut, leaves no half file, and the first
    only with all others; what it leaves beside them goes with a later write. No file is replaced.

    Raises FileExistsError where one of them exists, and OSError with the path, what was needed and
    what is free where the disk refuses; what was made until then is removed.
    """
    made: list[Path] = []  # files and folders, in the order in which they came to be
    beside = {path: beside_of(standing(path.parent) / path.name) for path in contents}
    try:
        for path, content in contents.items():
            made.append(beside[path])
            write_synced(beside[path], content)
        for path in reversed([*contents]):
            made += new_folders(path.parent)
            move_new(beside[path], path)
            made.append(path)
        for folder in {path.parent for path in contents}:
            sync_folder(folder)
    except BaseException as error:
        remove(made)
        if isinstance(error, FileExistsError):
            raise FileExistsError(f"{path} exists already. Save under another name.") from error
        if isinstance(error, OSError):
            raise OSError(why_not(path, sum(map(len, contents.values())), error)) from error
        raise
    remove([*beside.values()])  # Windows may hold one open; the files are whole
    with contextlib.suppress(OSError):
        now = path.stat().st_mtime  # by the clock of the disk
        for folder in {part.parent for part in beside.values()}:
            clear_halves(folder, now - LONGEST_WRITE)


def standing(folder: Path) -> Path:
    """The folder, or the nearest one above that is there, be it a link that leads nowhere."""
    return next((path for path in (folder, *folder.parents) if is_taken(path)), folder)


def new_folders(folder: Path) -> list[Path]:
    """Make a folder -> those that were made for it, the outermost first."""
    missing = [folder, *folder.parents]
    missing = [path for path in missing if not is_taken(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # there is a file of this name
        remove(missing[::-1])
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
    return missing[::-1]


def remove(made: Sequence[Path]) -> None:
    """Take back files and folders, the latest first; a folder that others use meanwhile stays."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def move_new(source: Path, target: Path) -> None:
    """Move a file in one step. Raises FileExistsError for an existing `target`."""
    try:
        os.link(source, target)  # unlike a rename, it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise FileExistsError(target) from None
        move(source, target)


def sync_folder(folder: Path) -> None:
    """Bring the folder's list of names to the disk; Windows does so by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse it
        pass
    finally:
        os.close(handle)
