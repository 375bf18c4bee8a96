"""The labelled contact sheet: a page for the browser, with every row's pictures and values."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..concept.files import replace_file
from .job import Job
from .view import SHEET, View

ON_A_PAGE = 500  # rows
SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")  # what a browser shows as a picture
STYLE = (
    "body{font:14px sans-serif;margin:1em}main{display:flex;flex-wrap:wrap;gap:1em}"
    "figure{margin:0;width:256px}img{width:100%}figcaption{overflow-wrap:anywhere}"
)


def write_sheet(view: View) -> None:
    """Write contact_sheet.html, and contact_sheet_2.html... for what does not fit on one."""
    rows = [(job, names) for job in view.jobs if (names := view.pictures(job))]
    pages = [rows[at : at + ON_A_PAGE] for at in range(0, len(rows), ON_A_PAGE)]
    names = [SHEET, *(f"{Path(SHEET).stem}_{n}.html" for n in range(2, len(pages) + 1))]
    links = " ".join(f'<a href="{name}">{number}</a>' for number, name in enumerate(names, 1))
    for name, page in zip(names, pages, strict=False):
        figures = "".join(_figure(job, files) for job, files in page)
        navigation = f"<nav>{links}</nav>" if len(pages) > 1 else ""
        replace_file(view.path / name, _page(navigation + f"<main>{figures}</main>").encode())


def _page(body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Contact sheet</title>'
        f"<style>{STYLE}</style>{body}</html>\n"
    )


def _figure(job: Job, files: Sequence[str]) -> str:
    shown = "".join(
        f'<a href="{quote(file)}"><img loading="lazy" src="{quote(file)}" alt=""></a>'
        if file.lower().endswith(SHOWN)
        else f'<a href="{quote(file)}">{escape(file)}</a>'
        for file in files
    )
    label = [f"<b>{job.row} {escape(job.name)}</b>"]
    label += [f"{escape(column)}: {escape(text)}" for column, text in job.cells.items()]
    return f"<figure>{shown}<figcaption>{'<br>'.join(label)}</figcaption></figure>"
