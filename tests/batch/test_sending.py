"""What is sent to servers, what they must have, and words that a concept does not have."""

import json
from pathlib import Path
from typing import Any

import pytest

from detex_pack.detex.batch.job import Job, make_jobs
from detex_pack.detex.batch.needs import Needs, lacking, needs_of
from detex_pack.detex.batch.outbox import Outbox
from detex_pack.detex.batch.table import Row, Table
from detex_pack.detex.batch.words import check_words, words_in
from detex_pack.detex.batch.workflow import inputs_of

FILES = [["old.safetensors"], {}]
INFO: dict[str, Any] = {
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
    "DETEXLoadEmbeddings": {"input": {"required": {"file": FILES}}},
    "DETEXLoadSubjectFolder": {"input": {"required": {"folder": ["STRING", {}]}}},
    "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["sd15.ckpt"], {}]}}},
}
BASE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "DETEXLoadEmbeddings", "inputs": {"file": "old.safetensors"}},
    "3": {"class_type": "DETEXLoadSubjectFolder", "inputs": {"folder": "photos"}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.ckpt"}},
}
INPUTS = inputs_of(BASE, INFO)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of a user, with a picture, a concept and photos beside the table."""
    (tmp_path / "My Dog.PNG").write_bytes(b"a dog")
    (tmp_path / "dog.safetensors").write_bytes(b"a concept")
    (tmp_path / "photos").mkdir()
    for name in ("dog.jpg", "dog.mask.png", "notes.txt"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    return tmp_path


def jobs_of(outbox: Outbox, **cells: str) -> list[Job]:
    return make_jobs(Table(tuple(cells), (Row(1, cells),)), BASE, INPUTS, outbox)


def test_a_picture_a_concept_and_a_folder_are_sent_by_content(home: Path):
    outbox = Outbox(home)
    (job,) = jobs_of(outbox, image="My Dog.PNG", file="./dog.safetensors", folder="photos")
    image, concept, folder = job.settings.values()
    assert image.startswith("detex/my_dog-") and image.endswith(".png")
    assert concept.startswith("dog-") and len(concept) == len("dog-12345678.safetensors")
    sent = {file.name: file.folder for file in outbox.files.values()}
    assert sent == {
        image: "input",
        concept: "detex",
        f"{folder}/dog.jpg": "input",
        f"{folder}/dog.mask.png": "input",
    }


def test_another_content_of_that_name_is_another_job(home: Path):
    before = jobs_of(Outbox(home), file="dog.safetensors")[0]
    (home / "dog.safetensors").write_bytes(b"trained anew")
    assert jobs_of(Outbox(home), file="dog.safetensors")[0].key != before.key


def test_what_lies_at_the_servers_is_not_sent(home: Path):
    outbox = Outbox(home)
    (job,) = jobs_of(outbox, image="a.png", folder="elsewhere")
    assert list(job.settings.values()) == ["a.png", "elsewhere"]
    assert outbox.files == {}


def test_the_workflow_s_own_files_are_sent_too(home: Path):
    outbox = Outbox(home)
    filled = outbox.fill(BASE, INPUTS)
    assert filled["3"]["inputs"]["folder"].startswith("detex/photos-")
    assert filled["1"]["inputs"]["image"] == "a.png"


def test_a_concept_that_is_neither_here_nor_there_is_told(home: Path):
    with pytest.raises(ValueError, match='Row 1, column "file": the server offers no "cat.safe'):
        jobs_of(Outbox(home), file="cat.safetensors")


def test_what_a_server_lacks_is_told_by_name(home: Path):
    outbox = Outbox(home)
    jobs = jobs_of(outbox, file="dog.safetensors")
    needs = needs_of(BASE, jobs, INPUTS, outbox.files.values())
    assert lacking(needs, INFO) == []  # what is sent is not missed, nor what no row uses
    other = {**INFO, "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [[], {}]}}}}
    del other["DETEXLoadEmbeddings"]
    assert lacking(needs, other) == [
        "it has no node named DETEXLoadEmbeddings",
        'it lacks "sd15.ckpt" (CheckpointLoaderSimple.ckpt_name)',
    ]
    assert lacking(Needs(), {}) == []


COMPOSE = {
    "1": {"class_type": "DETEXLoadEmbeddings", "inputs": {"file": "dog.safetensors"}},
    "2": {
        "class_type": "DETEXComposePrompt",
        "inputs": {"concept": ["1", 1], "text": "a [V] dog", "pose": 0, "background": 0},
    },
}
FOUR = ["V", "P1", "P2", "P3", "P4", "B1", "B2", "B3", "B4"]


def row(number: int, **values: Any) -> Job:
    return Job(number, "", "", "", {("2", name): value for name, value in values.items()})


@pytest.mark.parametrize("asked", [{"pose": 9}, {"text": "a [V] dog with [P9] pose"}])
def test_words_that_the_concept_has_not_are_refused(asked):
    jobs = [row(1, pose=4, background=1), row(2, **asked)]
    with pytest.raises(ValueError, match=r"^Row 2 asks for \[P9\], but dog.safetensors has \[V\],"):
        check_words(jobs, COMPOSE, lambda _: FOUR)


def test_a_concept_whose_words_nobody_knows_passes():
    check_words([row(1, pose=9)], COMPOSE, lambda _: None)


def test_words_are_read_from_the_head_of_a_file(tmp_path: Path):
    keys = ["words.B10.l", "words.B2.l", "words.V.l", "words.P1.l", "words.V.g", "thumbnails"]
    head = json.dumps(dict.fromkeys(keys, {})).encode()
    (tmp_path / "c.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    assert words_in(tmp_path / "c.safetensors") == ["V", "P1", "B2", "B10"]
    (tmp_path / "other").write_bytes(b"not a concept")
    assert words_in(tmp_path / "other") is None
