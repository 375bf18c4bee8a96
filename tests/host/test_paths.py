"""Names and files: safe everywhere, and never overwritten."""

import errno
import os
import time
from contextlib import nullcontext
from pathlib import Path

import folder_paths
import pytest

from detex_pack.detex.concept.files import beside_of
from detex_pack.detex.host import paths
from detex_pack.detex.host.paths import (
    concept_files,
    concept_path,
    free_stem,
    move_new,
    register_folder,
    safe_name,
    write_new,
    write_set,
)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("My Dog", "my_dog"),
        ("  rex  ", "rex"),
        ("<new1>", "new1"),
        ("a[b],c", "a_b_c"),
        ("../../etc/passwd", "etc_passwd"),
        ('"C:\\photos\\dog"', "c_photos_dog"),
        ("dog-2_b", "dog-2_b"),
        ("_dog_", "dog"),
        ("Rex the 3rd!", "rex_the_3rd"),
        ("Con", "con_subject"),
        ("犬", "犬"),
        ("Мой пёс", "мой_пёс"),
        ("कुत्ता 2", "कुत्ता_2"),
        ("สุนัข", "สุนัข"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_names_become_safe_on_every_system(name: str, safe: str):
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["", "  ", "...", "🐕"])
def test_name_without_letters_is_refused(name: str):
    with pytest.raises(ValueError, match=r'has no letters or digits. Call it for example "my_dog"'):
        safe_name(name)


def test_written_file_has_its_content_and_nothing_beside_it(tmp_path: Path):
    write_new(tmp_path / "new" / "dog.bin", b"content")
    assert (tmp_path / "new" / "dog.bin").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dog.bin"]


def test_existing_file_is_never_replaced(tmp_path: Path):
    (tmp_path / "dog.bin").write_bytes(b"old")
    with pytest.raises(FileExistsError, match="dog.bin exists already. Save under another name"):
        write_new(tmp_path / "dog.bin", b"new")
    assert (tmp_path / "dog.bin").read_bytes() == b"old"


def test_file_that_appears_during_the_write_is_kept(tmp_path: Path):
    (tmp_path / "mine.part").write_bytes(b"mine")
    (tmp_path / "dog.bin").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        move_new(tmp_path / "mine.part", tmp_path / "dog.bin")
    assert (tmp_path / "dog.bin").read_bytes() == b"theirs"


@pytest.mark.parametrize("taken", [False, True])
def test_file_systems_without_links_work_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
):
    def no_links(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    if taken:
        (tmp_path / "dog.bin").write_bytes(b"old")
    with pytest.raises(FileExistsError) if taken else nullcontext():
        write_new(tmp_path / "dog.bin", b"new")
    assert (tmp_path / "dog.bin").read_bytes() == (b"old" if taken else b"new")


def test_failed_write_leaves_no_file(tmp_path: Path):
    with pytest.raises(TypeError):
        write_new(tmp_path / "dog.bin", "no bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_name_too_long_for_a_file_is_refused_with_its_length():
    with pytest.raises(ValueError, match="takes 300 bytes, and 150 are the most"):
        safe_name("d" * 300)
    with pytest.raises(ValueError, match="takes 300 bytes"):
        safe_name("犬" * 100)


def test_set_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = paths.write_synced

    def full(path: Path, content: bytes) -> None:
        if content == b"second":
            path.write_bytes(content[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(paths, "write_synced", full)
    one, two = tmp_path / "a" / "dog.bin", tmp_path / "b" / "c" / "dog.bin"
    wanted = "dog.bin could not be written: No space left .* need 0.0 MB, and .* MB are free there"
    with pytest.raises(OSError, match=wanted):
        write_set({one: b"first", two: b"second"})
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_goes_an_hour_later_with_the_next_write(tmp_path: Path):
    old, young, foreign = beside_of(tmp_path / "dog.bin"), beside_of(tmp_path / "犬"), ".x.part"
    for path in (old, young, tmp_path / foreign):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3700,) * 2)
    os.utime(tmp_path / foreign, (0, 0))
    write_new(tmp_path / "new" / "cat.bin", b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([young, tmp_path / foreign, tmp_path / "new"])


def test_the_first_of_a_set_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    moved: list[str] = []
    move = paths.move_new
    monkeypatch.setattr(paths, "move_new", lambda a, b: (moved.append(b.name), move(a, b)))
    write_set({tmp_path / "dog": b"1", tmp_path / "a" / "lora": b"2", tmp_path / "word": b"3"})
    assert moved == ["word", "lora", "dog"]


def test_set_of_which_one_exists_writes_none(tmp_path: Path):
    (tmp_path / "taken.bin").write_bytes(b"old")
    with pytest.raises(FileExistsError, match="taken.bin exists already"):
        write_set({tmp_path / "new" / "dog.bin": b"new", tmp_path / "taken.bin": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["taken.bin"]
    assert (tmp_path / "taken.bin").read_bytes() == b"old"


def test_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="dog.bin could not be written: .* Nothing was left behind"):
        write_new(tmp_path / "file" / "dog.bin", b"new")


def test_a_folder_that_links_to_a_disk_which_is_gone_is_told_and_stays(tmp_path: Path):
    try:
        (tmp_path / "models").symlink_to(tmp_path / "gone")
    except OSError:
        pytest.skip("this system makes no links")
    with pytest.raises(OSError, match="dog.bin could not be .* need 0.0 MB, and the disk does not"):
        write_new(tmp_path / "models" / "detex" / "dog.bin", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_free_name_counts_up(model_folders: Path):
    for taken in ("dog.safetensors", "dog_2.safetensors"):
        (model_folders / "detex" / taken).write_bytes(b"")
    assert free_stem("Dog", [("detex", ".safetensors")]) == "dog_3"


def test_name_of_a_link_that_leads_nowhere_is_not_free(model_folders: Path):
    try:
        (model_folders / "detex" / "dog.safetensors").symlink_to(model_folders / "gone")
    except OSError:
        pytest.skip("this system makes no links")
    assert free_stem("dog", [("detex", ".safetensors")]) == "dog_2"


def test_free_name_is_free_in_every_target(model_folders: Path):
    (model_folders / "loras" / "dog_lora.safetensors").write_bytes(b"")
    targets = [("detex", ".safetensors"), ("loras", "_lora.safetensors")]
    assert free_stem("dog", targets) == "dog_2"


def test_registering_appends_to_what_is_there(model_folders: Path):
    register_folder()
    paths, _ = folder_paths.folder_names_and_paths["detex"]
    assert paths[0] == str(model_folders / "detex")
    assert paths[1:] == [str(Path(folder_paths.models_dir) / "detex")]


def test_registering_twice_changes_nothing(model_folders: Path):
    register_folder()
    before = [*folder_paths.folder_names_and_paths["detex"][0]]
    register_folder()
    assert folder_paths.folder_names_and_paths["detex"][0] == before


def test_registering_leaves_other_folders_alone(model_folders: Path):
    before = {k: ([*v[0]], {*v[1]}) for k, v in folder_paths.folder_names_and_paths.items()}
    register_folder()
    for name, (places, extensions) in folder_paths.folder_names_and_paths.items():
        if name != "detex":
            assert (places, {*extensions}) == before[name]


def test_fresh_registration_finds_safetensors_only(
    model_folders: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(folder_paths.folder_names_and_paths, "detex")
    monkeypatch.setattr(folder_paths, "models_dir", str(model_folders))
    register_folder()
    for name in ("dog.safetensors", "notes.txt"):
        (model_folders / "detex" / name).write_bytes(b"")
    assert concept_files() == ["dog.safetensors"]


def test_missing_concept_is_told_with_its_remedy(model_folders: Path):
    (choice,) = concept_files()
    with pytest.raises(ValueError, match="no concept in models/detex yet. Train one, keep it"):
        concept_path(choice)


def test_concept_is_found_in_a_subfolder(model_folders: Path):
    (model_folders / "detex" / "pets").mkdir()
    (model_folders / "detex" / "pets" / "rex.safetensors").write_bytes(b"")
    assert concept_path("pets/rex.safetensors").is_file()


@pytest.mark.parametrize("name", ["lost.safetensors", "../loras/x.safetensors"])
def test_file_outside_or_absent_is_refused(model_folders: Path, name: str):
    (model_folders / "detex" / "x.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        concept_path(name)
