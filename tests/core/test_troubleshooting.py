"""docs/troubleshooting.md quotes messages as they stand in the source, and leaves none out."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
HOST_CHAPTER = "## ComfyUI's own messages"  # tests/host/test_troubleshooting.py looks after it
ENTRY = re.compile(r"^- \*\*(.+?)\*\*", re.MULTILINE)
VALUE = "…"  # stands for what a message fills in
SOURCES = ("detex", "nodes")
NOT_FOR_USERS = ("detex/toyland/", "detex/toys/", "detex/batch/")  # their own checks; its help


def template(node: ast.expr) -> str:
    """The text of a string expression, with … for every value in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sd]", VALUE, node.value)
    return VALUE


def parsed_sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(NOT_FOR_USERS):
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def all_texts() -> Iterator[str]:
    for _, tree in parsed_sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                yield template(node)


def is_message(node: ast.AST) -> bool:
    """raise SomeError("..."), or log.warning("...")."""
    if isinstance(node, ast.Raise):
        return isinstance(node.exc, ast.Call) and bool(node.exc.args)
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return called and node.func.attr in ("warning", "error")


def messages() -> list[tuple[str, str]]:
    """(where, text) of every error and warning that is written out where it is raised."""
    found = []
    for name, tree in parsed_sources():
        for node in filter(is_message, ast.walk(tree)):
            arguments = node.exc.args if isinstance(node, ast.Raise) else node.args
            text = template(arguments[0])
            if len(text.replace(VALUE, "")) > 3:  # else it is put together elsewhere
                found.append((f"{name}:{node.lineno}", text))
    return found


def entries() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return ENTRY.findall(text.partition(HOST_CHAPTER)[0])


@pytest.mark.parametrize("entry", entries())
def test_the_quoted_message_stands_in_the_source(entry: str):
    assert any(entry in text for text in all_texts()), "correct the quotation, or take it out"


def test_every_message_has_an_entry():
    known = entries()
    absent = [f"{where}: {text}" for where, text in messages() if not any(e in text for e in known)]
    assert not absent, "docs/troubleshooting.md does not explain:\n" + "\n".join(absent)


def test_no_message_is_explained_twice():
    known = entries()
    assert len(known) == len(set(known))


def test_a_message_is_found_with_its_values_left_open():
    tree = ast.parse('raise ValueError(f"There are {a} photos but {b} masks. " "Wire one.")')
    (found,) = filter(is_message, ast.walk(tree))
    assert template(found.exc.args[0]) == "There are … photos but … masks. Wire one."
