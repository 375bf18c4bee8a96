"""Grids of prompts: every line with every pose and every background."""

import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from .grammar import with_clauses

SPLIT = " + "  # between the row and the column of a label
LONGEST = 60  # characters of a prompt in a label: it may become a file name


class GridPrompt(NamedTuple):
    text: str
    label: str  # "row + column", fit for a file name


def parse_numbers(text: str, widget: str) -> list[int]:
    """ "0, 2-4" -> [0, 2, 3, 4]. Raises ValueError for anything but such numbers."""
    numbers: list[int] = []
    for part in filter(None, re.split(r"[,\s]+", re.sub(r"\s*-\s*", "-", text.strip()))):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(
                f'{widget} has "{part}". Write photo numbers such as "0, 1, 2" or "1-3"; 0 adds '
                "none."
            )
        numbers += range(first, last + 1)
    return list(dict.fromkeys(numbers)) or [0]


def grid_prompts(
    lines: Sequence[str],
    poses: Sequence[int],
    backgrounds: Sequence[int],
    attribute_of: Callable[[int], str],
) -> list[GridPrompt]:
    """Every line with every pose and every background, and where each stands in the grid.

    attribute_of: photo number -> the word after its [P], "pose" or "view". What varies fastest is
    the column. Raises ValueError where there is no line.
    """
    prompts = [" ".join(line.split()) for line in lines if line.strip()]
    if not prompts:
        raise ValueError(
            'There is no prompt. Write one a line, such as "photo of a [V] dog on the beach".'
        )
    names = short_names(prompts)
    grid = []
    for prompt, pose, background in product(names, poses, backgrounds):
        attribute = attribute_of(pose)
        parts = [
            names[prompt] if len(names) > 1 or min(len(poses), len(backgrounds)) == 1 else "",
            (f"{attribute} P{pose}" if pose else f"any {attribute}") if len(poses) > 1 else "",
            (f"background B{background}" if background else "any background")
            if len(backgrounds) > 1
            else "",
        ]
        *rows, column = [part for part in parts if part] or [names[prompt]]
        label = f"{', '.join(rows)}{SPLIT}{column}" if rows else column
        grid.append(GridPrompt(with_clauses(prompt, attribute, pose, background), label))
    return grid


def short_names(prompts: Sequence[str]) -> dict[str, str]:
    """Each prompt without what a file name must not have, cut short, no two alike."""
    names: dict[str, str] = {}
    for prompt in dict.fromkeys(prompts):
        plain = re.sub(r'[<>:"/\\|?*%\x00-\x1f]|\.+$', "", prompt.replace(SPLIT, " "))
        name = short = plain[:LONGEST].strip() or "prompt"
        number = 2
        while name in names.values():
            name, number = f"{short} {number}", number + 1
        names[prompt] = name
    return names
