"""The table of jobs: a CSV file with a head, one job a row, or lists to be multiplied."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product as combinations
from pathlib import Path

NAME = "name"  # the column that names the row's files
REMARK = "#"  # a column whose head starts so is for people
DELIMITERS = ",;\t"
MOST_ROWS = 1_000_000  # of a product; docs/batch_rendering.md says what breaks first beyond


@dataclass(frozen=True)
class Row:
    """One row. cells: column -> text; a cell without text is left out."""

    number: int  # 1 is the first row below the head
    cells: Mapping[str, str]
    name: str = ""


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]  # those that set inputs
    rows: tuple[Row, ...]


def read_table(path: Path, *, product: bool = False) -> Table:
    """Read a CSV in UTF-8, separated by commas, semicolons or tabs, whichever the head has most of.

    product: the columns are lists, and the rows each of one with each of all others.
    Rows without any text are passed over. Raises ValueError for another encoding, a head with
    empty or equal names, a row with more cells than the head, and a table without rows.
    """
    text = _text(path)
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    if not lines:
        raise ValueError(f"{path} is empty. Its first row must name the inputs to set.")
    head = [cell.strip() for cell in lines[0]]
    while head and not head[-1]:  # a spreadsheet's empty columns
        head.pop()
    _check_head(head, lines[1:], path)
    rows = tuple(_rows(head, lines[1:], path))
    if not rows:
        raise ValueError(f"{path} has no rows below its head.")
    columns = tuple(c for c in head if c and c != NAME and not c.startswith(REMARK))
    table = Table(columns, rows)
    return multiplied(table, path) if product else table


def multiplied(table: Table, path: Path) -> Table:
    """Every value of every column with every one of the others; the last column changes fastest.

    Raises ValueError for named rows, and for more rows than are ever meant.
    """
    if any(row.name for row in table.rows):
        raise ValueError(
            f'{path}: with --product the rows are not those of the file; leave "{NAME}" out.'
        )
    lists = [[row.cells[c] for row in table.rows if c in row.cells] for c in table.columns]
    columns = [c for c, values in zip(table.columns, lists, strict=True) if values]
    lists = [values for values in lists if values]
    count = math.prod(map(len, lists))
    if count > MOST_ROWS:
        raise ValueError(f"{path}: the product has {count} rows; {MOST_ROWS} are the most.")
    cells = (dict(zip(columns, values, strict=True)) for values in combinations(*lists))
    return Table(tuple(columns), tuple(Row(n, c) for n, c in enumerate(cells, 1)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not in UTF-8 ({error}). Save it as "CSV UTF-8" in the spreadsheet.'
        ) from error


def _delimiter(text: str) -> str:
    head = text.split("\n", 1)[0]
    return max(DELIMITERS, key=lambda d: len(next(csv.reader([head], delimiter=d), [])))


def _check_head(head: list[str], lines: list[list[str]], path: Path) -> None:
    for place, column in enumerate(head):
        if column and column in head[:place]:
            raise ValueError(f'{path} has two columns named "{column}". Rename or remove one.')
        if not column and any(line[place : place + 1] not in ([], [""]) for line in lines):
            raise ValueError(
                f"{path}: column {place + 1} has cells but no name in the head. Name the input "
                f'that it sets, or start its name with "{REMARK}" if it is a remark.'
            )


def _rows(head: list[str], lines: list[list[str]], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if any(cell.strip() for cell in line[len(head) :]):
            raise ValueError(
                f"{path}: row {number} has {len(line)} cells, but the head has {len(head)}. A text "
                'with the separator in it needs quotes: "like, this".'
            )
        cells = {column: cell for column, cell in zip(head, line, strict=False) if cell.strip()}
        if cells:
            set_here = {c: v for c, v in cells.items() if c != NAME and not c.startswith(REMARK)}
            yield Row(number, set_here, cells.get(NAME, "").strip())
