"""The protocol's tables, and a page with them and with pictures that a rule chooses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..concept.files import replace_file
from .averages import Estimate
from .dreambench import Bench
from .evaluation import Evaluation
from .measures import measure_name
from .protocol import row_name
from .recipes import TABLES, Recipe
from .report import BOTH, ranking, score_text
from .verdict import differences, sentence
from .workflows import Protocol

COLUMNS = ("T", "I", "I fg_ref")  # of the papers' tables, for each encoder
PROMPTS_SHOWN = 5
EVERY = 5  # of 25 prompts the 1st, 6th, 11th, 16th and 21st
STYLE = (
    "body{font:14px sans-serif;margin:1em}td,th{padding:.2em .8em;text-align:left}"
    ".row{display:flex;flex-wrap:wrap;gap:.5em;margin:.5em 0}figure{margin:0;width:160px}"
    "img{width:100%}figcaption{overflow-wrap:anywhere}"
)


class ScoreTable(NamedTuple):
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    verdict: str  # what is sure and what may be noise


class Figure(NamedTuple):
    path: str  # from the page
    caption: str


class Row(NamedTuple):
    """Pictures side by side under a title; level 2 begins a chapter."""

    title: str
    figures: tuple[Figure, ...] = ()
    level: int = 4


def score_tables(found: Mapping[str, Evaluation]) -> list[ScoreTable]:
    """The papers' tables, as far as these methods fill them."""
    tables = []
    for number, (title, methods) in enumerate(TABLES.items()):
        there = [method for method in methods if method in found]
        if there and (number == 0 or there != ["detex"]):
            tables.append(score_table(title, [found[method] for method in there]))
    return tables


def score_table(title: str, evaluations: Sequence[Evaluation]) -> ScoreTable:
    """A row a method: the mean and its interval, as the papers' tables have the mean."""
    scores = [score for score in evaluations[0].scores if measure_name(score) in COLUMNS]
    rows = [(one.name, *(cell(one.estimate(score)) for score in scores)) for one in evaluations]
    verdict = ""
    if len(evaluations) > 1:
        verdict = sentence(differences(evaluations), evaluations[0].unit)
    return ScoreTable(title, ("method", *(score.name for score in scores)), tuple(rows), verdict)


def cell(found: Estimate) -> str:
    """ "0.3249 (0.3100 to 0.3390)"; of a single unit the mean alone."""
    if found.n < 2:
        return f"{found.mean:.4f}"
    return f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"


def facts(bench: Bench, protocol: Protocol, found: Mapping[str, Evaluation]) -> list[str]:
    """What the tables are of, a sentence each."""
    first = next(iter(found.values()))
    prompts = sorted({len(subject.prompts) for subject in bench.subjects})
    many = " or ".join(map(str, prompts))
    lines = [
        f"{len(bench.subjects)} of {bench.listed} subjects, {many} prompts each, "
        f"{protocol.pictures} pictures a prompt, {len(found)} methods: "
        f"{sum(len(one.prompts) for one in found.values()):,} pictures by {protocol.checkpoint}. "
        "All methods have the same seeds.",
        "Means go from pairs of picture and photo to pictures, prompts, subjects and to the mean, "
        "with equal weights at each step; in brackets the 95 % bootstrap interval over "
        f"{first.unit}. Cosines are plain.",
    ]
    if len(bench.subjects) < bench.listed:
        lines.append(
            f"These are {len(bench.subjects)} of {bench.listed} subjects: the figures cannot stand "
            "beside figures over all of them."
        )
    if not any(measure_name(score) == "I fg_ref" for score in first.scores):
        lines.append("The photos have no masks: there is no fg_ref.")
    changed = deviations(protocol)
    if changed:
        lines.append(f"Not as in the papers: {', '.join(changed)}.")
    return [*lines, f"Encoders: {'; '.join(encoder_labels(first))}."]


def encoder_labels(one: Evaluation) -> list[str]:
    """Each once, with its text side where that was used."""
    labels = dict.fromkeys(score.encoder for score in one.scores)
    return [a for a in labels if not any(b != a and b.startswith(a) for b in labels)]


def deviations(protocol: Protocol) -> list[str]:
    """The options that differ from the papers' numbers: "--prior 20"."""
    usual = asdict(Protocol(checkpoint="x", clip_vision="x"))
    own = {"checkpoint", "clip_vision", "seed"}
    return [
        f"--{name.replace('_', '-')} {value}"
        for name, value in asdict(protocol).items()
        if name not in own and value != usual[name]
    ]


def gallery(
    bench: Bench,
    recipes: Mapping[str, Recipe],
    drawn: Mapping[str, Sequence[Path]],
    found: Mapping[str, Evaluation],
    out: Path,
) -> Iterator[Row]:
    """Pictures by rule: nobody chooses."""

    def link(path: Path) -> str:
        return quote(path.relative_to(out).as_posix())

    yield Row("Best, median and worst picture of each method", level=2)
    for method, recipe in recipes.items():
        paths = [
            path
            for subject in bench.subjects
            for number in range(len(subject.prompts))
            for path in drawn[row_name(method, subject, number)]
        ]
        one, order = found[method], ranking(found[method], BOTH)
        places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
        figures = [
            Figure(
                link(paths[i]), f"{which}: {one.prompts[i]} ({one.subjects[i]}), {scored(one, i)}"
            )
            for which, i in places.items()
        ]
        yield Row(recipe.title, tuple(figures))
    yield Row(f"The first picture of every {EVERY}th prompt, beginning with the first", level=2)
    for subject in bench.subjects:
        photos = [Figure(link(out / "subjects" / subject.name / files.photo.name), "photo")
                  for files in subject.photos]  # fmt: skip
        yield Row(f"{subject.name} ({subject.class_word})", tuple(photos), level=3)
        shown = range(0, len(subject.prompts), EVERY)[:PROMPTS_SHOWN]
        for method, recipe in recipes.items():
            figures = [
                Figure(link(drawn[row_name(method, subject, n)][0]), subject.prompts[n])
                for n in shown
            ]
            yield Row(recipe.title, tuple(figures))


def scored(one: Evaluation, picture: int) -> str:
    scores = [score for score in one.scores if measure_name(score) in COLUMNS]
    return ", ".join(score_text(one, score, picture) for score in scores)


def write_page(
    out: Path, tables: Sequence[ScoreTable], lines: Sequence[str], rows: Sequence[Row]
) -> None:
    """tables.md and index.html."""
    replace_file(out / "tables.md", markdown(tables, lines).encode())
    replace_file(out / "index.html", page(tables, lines, rows).encode())


def markdown(tables: Sequence[ScoreTable], lines: Sequence[str]) -> str:
    parts = ["# DreamBench", *lines]
    for table in tables:
        rows = [table.head, ["---"] * len(table.head), *table.rows]
        grid = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts += [f"## {table.title}", grid, table.verdict]
    return "\n\n".join(filter(None, parts)) + "\n"


def page(tables: Sequence[ScoreTable], lines: Sequence[str], rows: Sequence[Row]) -> str:
    body = ["<h1>DreamBench</h1>", *(f"<p>{escape(line)}</p>" for line in lines)]
    for table in tables:
        head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
        cells = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in table.rows)
        grid = "".join(f"<tr>{row}</tr>" for row in (head, *cells))
        body += [f"<h2>{escape(table.title)}</h2><table>{grid}</table>"]
        body += [f"<p>{escape(table.verdict)}</p>"] if table.verdict else []
    for row in rows:
        body.append(f"<h{row.level}>{escape(row.title)}</h{row.level}>")
        body.append(f'<div class="row">{"".join(map(figure, row.figures))}</div>')
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>DreamBench</title>'
        f"<style>{STYLE}</style>{''.join(body)}</html>\n"
    )


def figure(shown: Figure) -> str:
    return (
        f'<figure><a href="{shown.path}"><img loading="lazy" src="{shown.path}" alt=""></a>'
        f"<figcaption>{escape(shown.caption)}</figcaption></figure>"
    )
