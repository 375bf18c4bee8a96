"""Concept files over HTTP: sent to a server that lacks one, and brought from one that has it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from detex_pack.detex.batch.client import CONCEPT, Client, PromptError
from detex_pack.detex.batch.words import words_in
from detex_pack.detex.concept.file import Concept, concept_bytes
from devtools.server import ComfyServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(tmp_path_factory.mktemp("base")) as running:
        yield running


def test_a_concept_is_sent_listed_and_brought_back_as_it_was(server: Client, concept: Concept):
    content = concept_bytes(concept)
    assert not server.has(CONCEPT, "dog-1.safetensors")
    server.upload(CONCEPT, "dog-1.safetensors", content)
    assert server.has(CONCEPT, "dog-1.safetensors")
    assert server.image("dog-1.safetensors", type=CONCEPT) == content
    files = server.object_info()["DETEXLoadEmbeddings"]["input"]["required"]["file"]
    assert "dog-1.safetensors" in str(files)


def test_its_words_are_told_by_the_server_and_by_the_file_s_head(
    server: Client, concept: Concept, tmp_path: Path
):
    content = concept_bytes(concept)
    server.upload(CONCEPT, "words.safetensors", content)
    (tmp_path / "words.safetensors").write_bytes(content)
    known = list(concept.word_names)
    assert server.concept_words("words.safetensors") == known
    assert words_in(tmp_path / "words.safetensors") == known
    assert server.concept_words("none.safetensors") is None


def test_an_existing_concept_is_not_replaced(server: Client, concept: Concept):
    server.upload(CONCEPT, "kept.safetensors", concept_bytes(concept))
    with pytest.raises(PromptError, match="exists already"):
        server.upload(CONCEPT, "kept.safetensors", concept_bytes(concept))


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.safetensors", "damaged"), ("x.pt", "no file name"), ("..safetensors", "no file name")],
)
def test_what_is_no_concept_is_refused_and_leaves_nothing(server: ComfyServer, name, message):
    with pytest.raises(PromptError, match=message):
        server.upload(CONCEPT, name, b"not a concept")
    assert not list((server.base / "models" / "detex").glob(".*"))


def test_a_picture_is_sent_into_a_folder_of_the_input(server: ComfyServer):
    server.upload("input", "detex/a b.png", b"a picture\r\n--")
    assert (server.base / "input" / "detex" / "a b.png").read_bytes() == b"a picture\r\n--"
    assert server.has("input", "detex/a b.png")
    assert not server.has("input", "detex/c.png")
