"""Where concepts and exports live on disk. Nothing is ever overwritten."""

import os
import re
from pathlib import Path

import folder_paths

from ..concept.files import beside_of, move, write_synced

FOLDER = "detex"
NONE_FOUND = "none in models/detex"
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
    """What is left of a text in a-z 0-9 _ -, which every system can read in a file name."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.strip().lower()).strip("_-")


def safe_name(name: str) -> str:
    """A file name that every system, and ComfyUI's `embedding:` syntax, can read: a-z 0-9 _ -."""
    plain = plain_name(name)
    if RESERVED.fullmatch(plain):
        plain += "_subject"
    if not plain:
        raise ValueError(
            f'The name "{name}" has no letters or digits. Call it for example "my_dog".'
        )
    return plain


def free_stem(name: str, targets: list[tuple[str, str]]) -> str:
    """`name`, or `name_2`, `name_3`…: the first for which no target file exists yet.

    targets: (model folder, suffix of the file name), such as ("detex", ".safetensors").
    """
    stem, number = safe_name(name), 1
    while True:
        candidate = stem if number == 1 else f"{stem}_{number}"
        if not any(target_path(folder, candidate + suffix).exists() for folder, suffix in targets):
            return candidate
        number += 1


def target_path(folder: str, file_name: str) -> Path:
    return Path(folder_paths.get_folder_paths(folder)[0]) / file_name


def write_new(path: Path, content: bytes) -> None:
    """Write beside, flush, move: neither a crash nor a power cut leaves a half file, and no file is
    replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = beside_of(path)
    try:
        write_synced(beside, content)
        move_new(beside, path)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists already. Save under another name.") from error
    finally:
        beside.unlink(missing_ok=True)


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
