"""Whatever comes in, nothing goes wrong without a word: right, or a ValueError that says what.

500 examples of each kind; DETEX_FUZZ=20000 for as many as a release is tried with.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import make_concept
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from PIL import Image

from detex_pack.detex.batch.table import read_table
from detex_pack.detex.concept.file import concept_bytes, load_concept
from detex_pack.detex.photos.checks import check_class_word, check_mask, check_picture
from detex_pack.detex.photos.crop import crop
from detex_pack.detex.photos.folder import PhotoFile, photo_files, read_photo
from detex_pack.detex.prompt.grammar import check_words, spelled_out, split_placeholders
from detex_pack.detex.prompt.nearly import check_prompt, nearly_placeholders
from detex_pack.detex.prompt.prompt_table import parse_numbers

many = settings(
    max_examples=int(os.environ.get("DETEX_FUZZ", "500")),
    deadline=None,  # slow machines are slow
    derandomize="DETEX_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # a folder for all examples
    database=None,
)
KNOWN = ("V", "P1", "P2", "B1", "B2")
pieces = some.sampled_from(
    [
        *"[]［］【】(){}<>\\|:,._+-^*/ \n",
        "V",
        "P1",
        "P2",
        "B",
        "２",
        "\u200b",
        "\ufeff",
        "dog",
        "1.2",
    ]
)
prompts = some.one_of(some.text(max_size=40), some.lists(pieces, max_size=12).map("".join))


@many
@given(prompts)
def test_prompt_is_read_or_refused(text: str):
    texts, words = split_placeholders(text)
    assert len(texts) == len(words) + 1
    for found in nearly_placeholders(text, KNOWN):
        assert found
    try:
        check_prompt(text, KNOWN)
        check_words(text, KNOWN)
    except ValueError as error:
        assert len(str(error)) > 20
        return
    assert set(words) <= set(KNOWN)
    assert spelled_out(text, {}) == text
    assert split_placeholders(spelled_out(text, {"V": 3}))[1].count("V") == 3 * words.count("V")


@many
@given(prompts)
def test_class_word_is_plain_or_refused(text: str):
    try:
        word = check_class_word(text)
    except ValueError:
        return
    assert word == " ".join(word.split()) and word
    assert split_placeholders(word)[1] == []


@many
@given(prompts)
def test_list_of_numbers_is_read_or_refused(text: str):
    try:
        numbers = parse_numbers(text, "poses")
    except ValueError:
        return
    assert all(number >= 0 for number in numbers)


@many
@given(some.integers(64, 700), some.integers(64, 700), some.data())
def test_crop_keeps_the_subject_of_every_mask_that_is_not_refused(height, width, data):
    mask, thin = torch.zeros(height, width), min(height, width, max(height, width) // 8)
    for _ in range(data.draw(some.integers(1, 3))):
        top, left = (
            data.draw(some.integers(0, height - thin)),
            data.draw(some.integers(0, width - thin)),
        )
        down, right = data.draw(some.integers(thin, height)), data.draw(some.integers(thin, width))
        mask[top : top + down, left : left + right] = 1
    try:
        check_mask("photo 1", mask)
    except ValueError:
        return
    made = crop(mask[..., None].expand(-1, -1, 3), mask, 128)
    assert made.kept >= 0.9
    assert made.mask.sum() > 0 and made.valid.sum() > 0
    assert made.mask[made.valid == 0].sum() <= 0.3 * made.mask.sum()  # the border's soft edge
    inside = made.valid == 1
    assert (made.picture[..., 0] - made.mask)[inside].abs().max() < 0.05  # the photo is its mask


kinds = some.sampled_from(
    [("L", np.uint8), ("RGB", np.uint8), ("I;16", np.uint16), ("I", np.int32), ("F", np.float32)]
)


@many
@given(kinds, some.data())
def test_picture_is_read_within_its_range_or_refused(tmp_path: Path, kind, data):
    mode, numbers = kind
    shape = (4, 5, 3) if mode == "RGB" else (4, 5)
    values = data.draw(arrays.arrays(numbers, shape))
    Image.fromarray(values).save(tmp_path / "dog.tif")
    as_photo, as_mask = (
        PhotoFile(tmp_path / "dog.tif", None),
        PhotoFile(tmp_path / "plain.png", tmp_path / "dog.tif"),
    )
    Image.new("L", (5, 4)).save(tmp_path / "plain.png")
    for files in (as_photo, as_mask):
        try:
            photo = read_photo(files)
        except ValueError as error:
            assert "dog.tif" in str(error)
            continue
        assert photo.pixels.shape == (4, 5, 3) and photo.mask.shape == (4, 5)
        check_picture("It", photo.pixels)
        assert 0 <= photo.pixels.min() <= photo.pixels.max() <= 1
        assert 0 <= photo.mask.min() <= photo.mask.max() <= 1


names = some.text(
    some.characters(blacklist_characters='/\0\\:*?"<>|', blacklist_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=12,
)


@many
@given(
    some.lists(some.tuples(names, some.sampled_from([".jpg", ".mask.png", "_mask.PNG", ".txt"])))
)
def test_every_file_of_a_folder_is_a_photo_a_mask_or_passed_over(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("photos")
    for stem, suffix in found:
        (folder / f"{stem}{suffix}").touch()
    pictures = {p.name for p in folder.iterdir() if p.suffix.casefold() in (".jpg", ".png")}
    try:
        files = photo_files(folder)
    except ValueError:
        return
    read = [path.name for pair in files for path in pair if path is not None]
    assert len(read) == len(set(read))
    assert {name for name in pictures if not name.startswith(".")} == set(read)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return concept_bytes(make_concept())


@many
@given(some.data())
def test_concept_file_with_wrong_bytes_is_read_or_refused(tmp_path: Path, whole: bytes, data):
    content = bytearray(whole)
    for _ in range(data.draw(some.integers(0, 4))):
        content[data.draw(some.integers(0, len(content) - 1))] = data.draw(some.integers(0, 255))
    if data.draw(some.booleans()):
        del content[data.draw(some.integers(0, len(content))) :]
    path = tmp_path / "dog.safetensors"
    path.write_bytes(content)
    check_loads(path)


json_values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
    lambda inner: (
        some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@many
@given(
    some.sampled_from(["method", "named", "base", "config", "report", "photo_hashes"]), json_values
)
@example("named", [])
@example("photo_hashes", "aa")
def test_concept_file_with_a_wrong_header_is_read_or_refused(
    tmp_path: Path, whole: bytes, part: str, value
):
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    own = json.loads(header["__metadata__"]["concept"])
    header["__metadata__"]["concept"] = json.dumps(own | {part: value})
    new = json.dumps(header).encode()
    path = tmp_path / "dog.safetensors"
    path.write_bytes(len(new).to_bytes(8, "little") + new + whole[start:])
    check_loads(path)


def check_loads(path: Path) -> None:
    """The file is refused in words, or what it gives can be used and written again."""
    try:
        concept = load_concept(path)
    except ValueError as error:
        assert path.name in str(error)
        return
    assert isinstance(concept.class_word, str) and isinstance(concept.method, str)
    assert concept.vectors(concept.base.tower).keys() == set(concept.word_names)
    assert all(isinstance(concept.attribute_of(i + 1), str) for i in range(concept.photo_count))
    concept_bytes(concept)


cells = some.text(some.characters(blacklist_categories=["Cs"]), max_size=6)


@many
@given(some.one_of(some.binary(max_size=60), some.lists(some.lists(cells, max_size=4)).map(str)))
@example(b"seed\n1\x00")
@example(b'a,b\n"1\r2,3')
def test_table_is_read_or_refused(tmp_path: Path, content):
    path = tmp_path / "jobs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        table = read_table(path)
    except ValueError as error:
        assert "jobs.csv" in str(error)
        return
    assert table.rows and all(row.cells.keys() <= set(table.columns) for row in table.rows)
