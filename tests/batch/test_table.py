"""The table of jobs: what a spreadsheet may save, and what is refused."""

from pathlib import Path

import pytest

from detex_pack.detex.batch.table import Row, Table, read_table


@pytest.fixture
def table(tmp_path: Path):
    def read(text: str, encoding: str = "utf-8") -> Table:
        path = tmp_path / "jobs.csv"
        path.write_bytes(text.encode(encoding))
        return read_table(path)

    return read


def test_each_row_is_numbered_and_keeps_its_cells(table):
    read = table("text,6.seed\na red ball,1\na cat,2\n")
    assert read.columns == ("text", "6.seed")
    assert read.rows == (
        Row(1, {"text": "a red ball", "6.seed": "1"}),
        Row(2, {"text": "a cat", "6.seed": "2"}),
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_every_separator_of_a_spreadsheet_is_known(table, separator, line_end):
    lines = (separator.join(cells) for cells in (("text", "seed"), ("a", "1")))
    assert table(line_end.join(lines)).rows == (Row(1, {"text": "a", "seed": "1"}),)


def test_a_quoted_cell_may_hold_separators_quotes_and_lines(table):
    read = table('text,seed\n"a ""big"" ball, red\nand round",1\n')
    assert read.rows[0].cells["text"] == 'a "big" ball, red\nand round'


def test_a_byte_order_mark_is_not_part_of_the_first_name(table):
    assert table("text\na\n", encoding="utf-8-sig").columns == ("text",)


def test_an_empty_cell_is_left_out_and_an_empty_row_keeps_its_number(table):
    read = table("text,seed\na,\n,\nb,2\n")
    assert read.rows == (Row(1, {"text": "a"}), Row(3, {"text": "b", "seed": "2"}))


def test_the_name_and_the_remarks_set_nothing(table):
    read = table("name,#why,text\nred ball,for Ann,a ball\n")
    assert read.columns == ("text",)
    assert read.rows == (Row(1, {"text": "a ball"}, name="red ball"),)


def test_empty_columns_of_a_spreadsheet_are_passed_over(table):
    assert table("text,,\na,,\n").columns == ("text",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. Its first row must name the inputs"),
        ("text,seed\n", "no rows below its head"),
        ("text,text\na,b\n", 'two columns named "text". Rename or remove one'),
        ("text,,seed\na,b,1\n", "column 2 has cells but no name in the head"),
        ("text,seed\na, big ball,1\n", r"row 1 has 3 cells, but the head has 2.*needs quotes"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table, text, message):
    with pytest.raises(ValueError, match=message):
        table(text)


def test_another_encoding_is_refused_with_the_remedy(table):
    with pytest.raises(ValueError, match='Save it as "CSV UTF-8"'):
        table("text\nein Bär\n", encoding="cp1252")


def product(tmp_path: Path, text: str) -> Table:
    path = tmp_path / "lists.csv"
    path.write_text(text)
    return read_table(path, product=True)


def test_a_product_has_every_value_with_every_other_the_last_column_fastest(tmp_path):
    made = product(tmp_path, "text,#why,seed\na,x,1\nb,,2\n,,3\n")
    assert made.columns == ("text", "seed")
    cells = [(row.number, *row.cells.values()) for row in made.rows]
    assert cells == [(1, "a", "1"), (2, "a", "2"), (3, "a", "3"),
                     (4, "b", "1"), (5, "b", "2"), (6, "b", "3")]  # fmt: skip


def test_a_product_of_named_rows_or_of_too_many_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rows are not those of the file"):
        product(tmp_path, "name,seed\na,1\n")
    lists = "a,b,c\n" + "".join(f"{n},{n},{n}\n" for n in range(101))
    with pytest.raises(ValueError, match="has 1030301 rows; 1000000 are the most"):
        product(tmp_path, lists)
