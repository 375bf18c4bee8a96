"""Pages of Markdown from figures: tables, and templates with `$names` to fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(str, line))} |" for line in (head, *rows)]
    shown = [line.replace("|  |", "| |") for line in lines]  # an empty cell
    return "\n".join([shown[0], "|---" * len(head) + "|", *shown[1:]])


def fill(template: Path, parts: Mapping[str, object]) -> str:
    """The page, its parts in place; a part that is empty leaves no gap."""
    text = Template(template.read_text(encoding="utf-8")).substitute(parts)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text
