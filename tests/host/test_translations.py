"""The Chinese and Japanese texts say all that the English ones say, of the English as it is now."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import pytest
from markdown_it import MarkdownIt

from devtools import translations
from devtools.translations import LANGUAGES, Texts

T = TypeVar("T")
Pairs = dict[str, tuple[str, str]]  # key -> (English, translation)

WORD = r"\[[VPB]\d*\]|\{\w+\}"  # [V], [P2], {class}: the same in every language
CODE = r"`[^`]+`|\]\([^)]+\)"  # code and the targets of links
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
COMPILED = re.compile(r"[{}@|]")  # signs that the page's i18n takes for its own syntax


@pytest.fixture(scope="module")
def english() -> Texts:
    return translations.english()


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def translated(language: str) -> Texts:
    return translations.translated(language)


@pytest.fixture(scope="module")
def pairs(english: Texts, translated: Texts) -> Pairs:
    return {key: (english[key], translated[key]) for key in english if key in translated}


def found(pattern: str, text: str) -> Counter[str]:
    return Counter(re.findall(pattern, text))


def lost(english: str, translated: str) -> list[str]:
    """The words, code and numbers of the English that the translation lacks or adds.

    Numbers may be added, where English spells them: one mask -> 1 枚.
    """
    exact = f"{WORD}|{CODE}"
    ours, theirs = found(exact, english), found(exact, translated)
    differ = (ours - theirs) + (theirs - ours)
    return list(differ) + list(found(NUMBER, english) - found(NUMBER, translated))


def pages(texts: Mapping[str, T]) -> dict[str, T]:
    """node -> its help page, or whatever stands under that key"""
    return {key.removesuffix(".help"): text for key, text in texts.items() if key.endswith(".help")}


def kind(line: str) -> str:
    """What a line of a page is: "## ", "- ", "3 cells", "text" or ""."""
    if line.startswith("|"):
        return f"{line.count('|') - 1} cells"
    mark = re.match(r"#+ |- ", line)
    return mark[0] if mark else "text" * bool(line)


def error_messages(page: str) -> list[str]:
    """The first column of the last table of a page whose last section lists errors."""
    _, _, section = page.rpartition("\n## ")
    return [line.split("|")[1] for line in section.splitlines() if line.startswith("|")][2:]


def test_every_text_of_every_node_is_translated_and_nothing_else(
    english: Texts, translated: Texts, language: str
):
    missing, foreign = english.keys() - translated.keys(), translated.keys() - english.keys()
    assert not missing, f"locales/{language} and web/docs lack {sorted(missing)}"
    assert not foreign, f"No node has {sorted(foreign)} any more"
    assert [key for key, text in translated.items() if not text.strip()] == []


def test_no_english_text_has_changed_since_it_was_translated(english: Texts, language: str):
    assert translations.outdated(language, english) == [], (
        f"Translate these anew into {language}, then run "
        f"`python -m devtools.translations --done {language}`."
    )
    assert translations.sources(language).keys() == english.keys()


def test_names_and_tooltips_keep_the_words_and_numbers(pairs: Pairs):
    texts = {key: pair for key, pair in pairs.items() if not key.endswith((".help", ".name"))}
    assert {key: lost(*pair) for key, pair in texts.items() if lost(*pair)} == {}


def test_names_hold_no_sign_that_the_page_takes_for_syntax(translated: Texts):
    compiled = ("display_name", "description", "name")
    names = {key: text for key, text in translated.items() if key.rpartition(".")[2] in compiled}
    assert {key: text for key, text in names.items() if COMPILED.search(text)} == {}


def test_help_pages_keep_structure_words_code_and_numbers(pairs: Pairs):
    for node, pair in pages(pairs).items():
        ours, theirs = (page.splitlines() for page in pair)
        assert [kind(line) for line in theirs] == [kind(line) for line in ours], node
        wrong = [(b, lost(a, b)) for a, b in zip(ours, theirs, strict=True) if lost(a, b)]
        assert wrong == [], node


def test_error_messages_stand_as_the_nodes_say_them(pairs: Pairs):
    for node, (ours, theirs) in pages(pairs).items():
        if "\n## Errors\n" in ours:
            assert error_messages(ours)
            assert error_messages(theirs) == error_messages(ours), node


def test_help_pages_use_the_names_that_the_page_shows(pairs: Pairs):
    for node, (ours, theirs) in pages(pairs).items():
        assert theirs.startswith(f"# {pairs[f'{node}.display_name'][1]}\n")
        sockets = [
            names
            for key, names in pairs.items()
            if key.startswith(f"{node}.") and key.endswith(".name") and names[0] in ours
        ]
        assert [names for names in sockets if not all(name in theirs for name in names)] == []


def test_texts_call_other_nodes_by_their_translated_names(pairs: Pairs):
    names = [names for key, names in pairs.items() if key.endswith(".display_name")]
    for key, texts in pairs.items():
        for ours, theirs in zip(*map(str.splitlines, texts), strict=True):
            said = [part for part in ours.split("|") if part not in theirs]  # no error messages
            wrong = [b for a, b in names if a in "".join(said) and b not in theirs]
            assert wrong == [], f"{key}: {theirs}"


def test_every_mark_of_emphasis_takes_effect(translated: Texts):
    """Next to full-width punctuation Markdown may take ** for two asterisks."""
    markdown = MarkdownIt().enable("table")
    for node, page in pages(translated).items():
        html = re.sub(r"<code>.*?</code>", "", markdown.render(page))
        assert [line for line in html.splitlines() if "*" in line] == [], node


def test_lost_words_code_and_numbers_are_found():
    english = "Wire `a.b` at 0.6 into [P2]: {class}"
    assert lost(english, "`a.b` [P2] 0.6 {class} 1") == []
    assert lost(english, "`a.b` [P3] 0.6 {class} 2") == ["[P2]", "[P3]"]
    assert lost(english, "a.b [P2] 0.5 {class}") == ["`a.b`", "0.6"]


def test_a_changed_english_text_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(translations, "LOCALES", tmp_path)
    (tmp_path / "zh").mkdir()
    texts = {"A.description": "one", "A.help": "# A"}
    assert translations.outdated("zh", texts) == ["A.description", "A.help"]
    translations.mark_done("zh", texts)
    assert translations.outdated("zh", texts) == []
    assert translations.outdated("zh", texts | {"A.help": "# B"}) == ["A.help"]
    assert json.loads((tmp_path / "zh" / "sources.json").read_text()).keys() == texts.keys()
