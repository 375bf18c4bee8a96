"""A cell's text as the value that a node's input wants."""

import math
from typing import Any

from .api_prompt import DYNAMIC_COMBO, UPLOADS

EMPTY_TEXT = '""'  # an empty cell keeps the workflow's value; this one sets an empty text
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SHOWN = 12  # choices that a message lists


def to_value(text: str, kind: Any, options: dict[str, Any]) -> Any:
    """The text as a value for an input of this type; kind, options as in /object_info.

    Raises ValueError, saying what the input accepts.
    """
    if isinstance(kind, list) or kind in ("COMBO", DYNAMIC_COMBO):
        return _choice(text, choices_of(kind, options))
    if kind == "STRING":
        return "" if text == EMPTY_TEXT else text
    text = text.strip()
    if kind == "BOOLEAN":
        if text.lower() not in WORDS:
            raise ValueError(f'"{text}" is neither true nor false')
        return WORDS[text.lower()]
    if kind == "INT":
        return _within(_number(int, text, "a whole number"), options)
    if kind == "FLOAT":
        return _within(_number(float, text, "a number with a decimal point"), options)
    raise ValueError(f"an input of type {kind} cannot be set from a table")


def _number(make: type[int] | type[float], text: str, wanted: str) -> float:
    try:
        number = make(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f'"{text}" is not {wanted}')
    return number


def _within(number: float, options: dict[str, Any]) -> float:
    low, high = options.get("min", number), options.get("max", number)
    if not low <= number <= high:
        raise ValueError(f"{number} is not between {low} and {high}")
    return number


def choices_of(kind: Any, options: dict[str, Any]) -> list[Any] | None:
    """What a combo offers; None where the server alone knows (files to upload, remote lists)."""
    if any(options.get(key) for key in UPLOADS) or options.get("remote"):
        return None
    if kind == DYNAMIC_COMBO:
        return [option["key"] for option in options["options"]]
    return kind if isinstance(kind, list) else options.get("options")


def _choice(text: str, choices: list[Any] | None) -> Any:
    if choices is None:
        return text
    for choice in choices:
        if str(choice).strip() == text.strip():
            return choice
    listed = ", ".join(f'"{choice}"' for choice in choices[:SHOWN])
    more = f" and {len(choices) - SHOWN} more" if len(choices) > SHOWN else ""
    raise ValueError(f'the server offers no "{text}"; it has {listed or "none"}{more}')
