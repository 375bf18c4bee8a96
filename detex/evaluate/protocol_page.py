"""The protocol's tables, and a page with them and with pictures that a rule chooses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..concept.files import replace_file
from .averages import Estimate
from .benchmark import Bench, Benchmark
from .evaluation import Evaluation
from .measures import measure_name
from .protocol import Found, row_name
from .recipes import Recipe
from .report import BOTH, ranking, score_text
from .verdict import differences, sentence
from .workflows import Amounts

COLUMNS = ("T", "I", "I fg_ref", "I fg_both")  # of the papers' tables, for each encoder
PROMPTS_SHOWN = 5  # of 25 the 1st, 6th, 11th, 16th and 21st
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


def score_tables(benchmark: Benchmark, found: Found) -> list[ScoreTable]:
    """The paper's tables for each kind of prompts, as far as these methods fill them. A table whose
    methods all stand in the first one is left out.
    """
    tables, first = [], next(iter(benchmark.tables.values()))
    for kind, by_method in found.items():
        for title, methods in benchmark.tables.items():
            there = [method for method in methods if method in by_method]
            if there and (methods == first or not set(there) <= set(first)):
                some = [by_method[method] for method in there]
                tables.append(score_table(titled(kind, title), some, benchmark.units))
    return tables


def score_table(title: str, evaluations: Sequence[Evaluation], units: str) -> ScoreTable:
    """A row a method: the mean and its interval, as the papers' tables have the mean."""
    scores = [score for score in evaluations[0].scores if measure_name(score) in COLUMNS]
    rows = [(one.name, *(cell(one.estimate(score)) for score in scores)) for one in evaluations]
    verdict = ""
    if len(evaluations) > 1:
        verdict = sentence(differences(evaluations), unit_of(evaluations[0], units))
    return ScoreTable(title, ("method", *(score.name for score in scores)), tuple(rows), verdict)


def unit_of(one: Evaluation, units: str) -> str:
    """What the intervals are drawn over; units: what this protocol calls its subjects."""
    return units if one.unit == "subjects" else one.unit


def cell(found: Estimate) -> str:
    """ "0.3249 (0.3100 to 0.3390)"; of a single unit the mean alone."""
    if found.n < 2:
        return f"{found.mean:.4f}"
    return f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"


def facts(benchmark: Benchmark, bench: Bench, amounts: Amounts, found: Found) -> list[str]:
    """What the tables are of, a sentence each."""
    evaluations = [one for by_method in found.values() for one in by_method.values()]
    first, units = evaluations[0], benchmark.units
    prompts = sorted({len(asked.prompts) for one in bench.subjects for asked in one.asked})
    kinds = f" of each kind ({', '.join(found)})" if len(found) > 1 else ""
    lines = [
        f"{len(bench.subjects)} of {bench.listed} {units}, {' or '.join(map(str, prompts))} "
        f"prompts each{kinds}, {amounts.pictures} pictures a prompt, "
        f"{len(next(iter(found.values())))} methods: "
        f"{sum(len(one.prompts) for one in evaluations):,} pictures by {amounts.checkpoint}. "
        "All methods have the same seeds.",
        "Means go from pairs of picture and photo to pictures, prompts, "
        f"{units} and to the mean, with equal weights at each step; in brackets the 95 % bootstrap "
        f"interval over {unit_of(first, units)}. Cosines are plain.",
    ]
    if len(bench.subjects) < bench.listed:
        lines.append(
            f"These are {len(bench.subjects)} of {bench.listed} {units}: the figures cannot stand "
            "beside figures over all of them."
        )
    if not any(measure_name(score) == "I fg_ref" for score in first.scores):
        lines.append("The photos have no masks: there is no fg_ref.")
    changed = deviations(benchmark, amounts)
    if changed:
        lines.append(f"Not as in the papers: {', '.join(changed)}.")
    return [*lines, *bench.notes, f"Encoders: {'; '.join(encoder_labels(first))}."]


def encoder_labels(one: Evaluation) -> list[str]:
    """Each once, with its text side where that was used."""
    labels = dict.fromkeys(score.encoder for score in one.scores)
    return [a for a in labels if not any(b != a and b.startswith(a) for b in labels)]


def deviations(benchmark: Benchmark, amounts: Amounts) -> list[str]:
    """The options that differ from the papers' numbers: "--prior 20"."""
    usual = asdict(Amounts(checkpoint="x", **benchmark.usual))
    own = {"checkpoint", "clip_vision", "seed"}
    return [
        f"--{name.replace('_', '-')} {value}"
        for name, value in asdict(amounts).items()
        if name not in own and value != usual[name]
    ]


def gallery(
    bench: Bench,
    recipes: Mapping[str, Recipe],
    drawn: Mapping[str, Sequence[Path]],
    found: Found,
    out: Path,
) -> Iterator[Row]:
    """Pictures by rule: nobody chooses."""
    yield Row("Best, median and worst picture of each method", level=2)
    for kind, by_method in found.items():
        for method, one in by_method.items():
            paths = [
                path
                for subject in bench.subjects
                for asked in subject.asked
                if asked.kind == kind
                for number in range(len(asked.prompts))
                for path in drawn[row_name(method, asked, number)]
            ]
            yield Row(titled(kind, one.name), tuple(extremes(one, paths, out)))
    yield Row(
        f"The first picture of {PROMPTS_SHOWN} prompts, evenly spaced, beginning with the first",
        level=2,
    )
    for subject in bench.subjects:
        photos = [Figure(link(out / "subjects" / subject.name / files.photo.name, out), "photo")
                  for files in subject.photos]  # fmt: skip
        said = f"{subject.name} ({', '.join(subject.class_words)})"
        yield Row(said, tuple(photos), level=3)
        for asked in subject.asked:
            step = max(1, len(asked.prompts) // PROMPTS_SHOWN)
            chosen = range(0, len(asked.prompts), step)[:PROMPTS_SHOWN]
            for method, recipe in recipes.items():
                figures = [
                    Figure(link(drawn[row_name(method, asked, n)][0], out), asked.prompts[n])
                    for n in chosen
                ]
                yield Row(titled(asked.kind, recipe.title), tuple(figures))


def extremes(one: Evaluation, paths: Sequence[Path], out: Path) -> Iterator[Figure]:
    """The best, median and worst picture; paths: of all, in the order of the scores."""
    order = ranking(one, BOTH)
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    for which, i in places.items():
        said = f"{which}: {one.prompts[i]} ({one.subjects[i]}), {scored(one, i)}"
        yield Figure(link(paths[i], out), said)


def link(path: Path, out: Path) -> str:
    return quote(path.relative_to(out).as_posix())


def titled(kind: str, title: str) -> str:
    return f"{kind}: {title}" if kind else title


def scored(one: Evaluation, picture: int) -> str:
    scores = [score for score in one.scores if measure_name(score) in COLUMNS]
    return ", ".join(score_text(one, score, picture) for score in scores)


def write_page(
    out: Path, title: str, tables: Sequence[ScoreTable], lines: Sequence[str], rows: Sequence[Row]
) -> None:
    """tables.md and index.html."""
    replace_file(out / "tables.md", markdown(title, tables, lines).encode())
    replace_file(out / "index.html", page(title, tables, lines, rows).encode())


def markdown(title: str, tables: Sequence[ScoreTable], lines: Sequence[str]) -> str:
    parts = [f"# {title}", *lines]
    for table in tables:
        rows = [table.head, ["---"] * len(table.head), *table.rows]
        grid = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts += [f"## {table.title}", grid, table.verdict]
    return "\n\n".join(filter(None, parts)) + "\n"


def page(
    title: str, tables: Sequence[ScoreTable], lines: Sequence[str], rows: Sequence[Row]
) -> str:
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(line)}</p>" for line in lines)]
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
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{''.join(body)}</html>\n"
    )


def figure(shown: Figure) -> str:
    return (
        f'<figure><a href="{shown.path}"><img loading="lazy" src="{shown.path}" alt=""></a>'
        f"<figcaption>{escape(shown.caption)}</figcaption></figure>"
    )
