"""What is nearly a placeholder: [P 2], <V>, [V|P2], [V without an end. As text it would paint a
picture without the subject, so it is found and shown beside the right form.
"""

import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from .grammar import PLACEHOLDER, bracketed, check_words

INVISIBLE = "\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
GAP = rf"[\s_#.\-\\{INVISIBLE}]*"
NAME = rf"[VPBvpb]{GAP}\d*"
OPENING, CLOSING = r"\[【〔〖<〈《「『{", r"\]】〕〗>〉》」』}"
LONGER = r"(?![^\W\d_]|[-_'’&./][^\W\d_])"  # a word that only begins so: [vase], [B&W], [v-neck]
NOTHING = "\0"  # in the place of a right one
NEARLY = re.compile(
    rf"[{OPENING}]{GAP}{NAME}{LONGER}(?:[^{OPENING}{CLOSING}{NOTHING}]{{0,24}}[{CLOSING}])?"
    rf"|(?<![\w{OPENING}])[VPB]\d*{GAP}[\]】〕〗]"  # without its opening bracket
    rf"|\\{GAP}{NOTHING}|[\[【]{GAP}{NOTHING}{GAP}[\]】]"  # \[V], [[V]]
    rf"|\(\s*[VPB]\d*\s*:[\d.\s]+\)"  # (V:1.2)
)


def check_prompt(text: str, known: Sequence[str]) -> None:
    """Raise ValueError where a placeholder of `text` is not in `known`, or is nearly one."""
    check_words(text, known)
    for found, meant in nearly_placeholders(text, known):
        hidden = (
            " (with an invisible character in it)" if re.search(f"[{INVISIBLE}]", found) else ""
        )
        raise ValueError(
            f'"{found}"{hidden} in the prompt is no placeholder, and would be read as text. Write '
            f"{bracketed(meant)}. This concept has {bracketed(known)}."
        )


class Nearly(NamedTuple):
    found: str  # as it stands in the prompt
    meant: tuple[str, ...]  # the words of the concept that are nearest


def nearly_placeholders(text: str, known: Sequence[str]) -> list[Nearly]:
    """What stands in `text` and is nearly one of `known`, in the order of the text."""
    rights = []

    def taken(match: re.Match) -> str:
        rights.append(match[1])
        return NOTHING

    rest = unicodedata.normalize("NFKC", PLACEHOLDER.sub(taken, text))
    found = []
    for match in NEARLY.finditer(rest):
        behind = rest[: match.start()].count(NOTHING)
        names = re.findall(rf"(?<![^\W_]){NAME}(?![^\W\d_])", match[0])
        if NOTHING in match[0]:
            names = rights[behind : behind + 1]
        shown = match[0].replace(NOTHING, f"[{names[0]}]") if names else match[0]
        found.append(Nearly(shown, tuple(dict.fromkeys(nearest(name, known) for name in names))))
    return found


def nearest(name: str, known: Sequence[str]) -> str:
    """ "p 2" -> "P2"; the closest of `known` where there is none of that name."""
    plain = re.sub(r"[\W_]", "", name).upper()
    close = get_close_matches(plain, [word for word in known if word[0] == plain[0]], 1, 0)
    return plain if plain in known else next(iter(close), known[0])
