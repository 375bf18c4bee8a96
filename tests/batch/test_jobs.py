"""Columns find their inputs; rows become jobs that are known by their content."""

import json
from pathlib import Path
from typing import Any

import pytest

from detex_pack.detex.batch.job import make_jobs
from detex_pack.detex.batch.table import Row, Table
from detex_pack.detex.batch.workflow import find_input, inputs_of, listing, read_workflow


def schema(name: str, **inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "display_name": name}


TEXT, SEED = ["STRING", {"multiline": True}], ["INT", {"min": 0, "max": 100}]
SIZES = [{"key": "to", "inputs": {"required": {"width": ["INT", {}]}}}]
INFO = {
    "Encode": schema("Prompt", text=TEXT, clip=["CLIP"]),
    "Sample": schema("KSampler", seed=SEED, positive=["CONDITIONING"]),
    "Save": schema("Save Image", prefix=["STRING", {}], images=["IMAGE"]),
    "Resize": schema("Resize", size=["COMFY_DYNAMICCOMBO_V3", {"options": SIZES}]),
}


def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


@pytest.fixture
def workflow() -> dict[str, Any]:
    return {
        "1": node("Encode", "Positive", text="a ball", clip=["9", 0]),
        "2": node("Encode", "Negative", text="", clip=["9", 0]),
        "3": node("Sample", seed=7, positive=["1", 0]),
        "4": node("Save", prefix=["8", 0], images=["3", 0]),
        "5": node("Resize", **{"size": "to", "size.width": 64}),
    }


@pytest.fixture
def inputs(workflow: dict[str, Any]):
    return inputs_of(workflow, INFO)


def table(*columns: str, rows: tuple[dict[str, str], ...]) -> Table:
    return Table(columns, tuple(Row(n, cells) for n, cells in enumerate(rows, 1)))


@pytest.mark.parametrize(
    ("column", "address"),
    [
        ("1.text", "1.text"),  # by number
        ("Positive.text", "1.text"),  # by title
        ("  negative.TEXT ", "2.text"),
        ("KSampler.seed", "3.seed"),  # by the name that the page shows
        ("Sample.seed", "3.seed"),  # by type
        ("seed", "3.seed"),  # alone of its name
        ("Resize.size.width", "5.size.width"),
    ],
)
def test_a_column_finds_its_input(column, address, inputs):
    assert find_input(column, inputs).address == address


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("text", r"could mean 1.text \(Positive\) or 2.text \(Negative\).*example \"1.text\""),
        ("Encode.text", "could mean 1.text"),
        ("6.seed", "names no input"),
        ("3.positive", "names no input"),
        ("4.prefix", "4.prefix is fed by a wire from node 8"),
    ],
)
def test_a_column_that_names_none_or_several_is_refused(column, message, inputs):
    with pytest.raises(ValueError, match=message):
        find_input(column, inputs)


def test_two_nodes_of_one_title_are_told_apart_by_number(workflow):
    workflow["2"]["_meta"]["title"] = "Positive"
    inputs = inputs_of(workflow, INFO)
    with pytest.raises(ValueError, match="could mean 1.text .* or 2.text"):
        find_input("Positive.text", inputs)
    assert find_input("2.text", inputs).node == "2"


def test_the_listing_has_what_a_table_can_set_and_no_wires(inputs):
    listed = listing(inputs)
    assert "1.text        Positive.text" in listed
    assert "prefix" not in listed and "positive" not in listed.splitlines()


def test_all_faults_are_told_at_once_with_the_names_that_exist(workflow, inputs):
    asked = table("text", "sed", rows=({"text": "x"},))
    with pytest.raises(ValueError, match=r'(?s)"text" could mean.*"sed" names no.*3\.seed'):
        make_jobs(asked, workflow, inputs)


def test_wrong_cells_are_told_with_row_and_column(workflow, inputs):
    asked = table("seed", rows=({"seed": "1"}, {"seed": "x"}, {"seed": "101"}))
    with pytest.raises(ValueError, match=r'(?s)Row 2, column "seed": "x".*Row 3.*between 0 and'):
        make_jobs(asked, workflow, inputs)


def test_many_faults_are_cut_short(workflow, inputs):
    asked = table("seed", rows=({"seed": "x"},) * 30)
    with pytest.raises(ValueError, match=r"Row 20,(?s:.*)\.\.\. and 10 more\.$"):
        make_jobs(asked, workflow, inputs)


def test_one_input_may_not_have_two_columns(workflow, inputs):
    asked = table("seed", "3.seed", rows=({"seed": "1"},))
    with pytest.raises(ValueError, match='Columns "seed" and "3.seed" both set 3.seed'):
        make_jobs(asked, workflow, inputs)


def test_a_job_holds_the_row_s_values_and_the_workflow_s_own(workflow, inputs):
    asked = table("seed", "Positive.text", rows=({"seed": "1"}, {"Positive.text": "a cat"}))
    first, second = make_jobs(asked, workflow, inputs)
    assert first.prompt(workflow)["3"]["inputs"]["seed"] == 1
    assert first.prompt(workflow)["1"]["inputs"]["text"] == "a ball"
    assert second.prompt(workflow)["1"]["inputs"] == {"text": "a cat", "clip": ["9", 0]}
    assert workflow["1"]["inputs"]["text"] == "a ball"


def test_the_key_changes_with_what_is_rendered_and_with_nothing_else(workflow, inputs):
    def key(cells: dict[str, str], name: str = "", number: int = 1) -> str:
        return make_jobs(Table(("seed",), (Row(number, cells, name),)), workflow, inputs)[0].key

    same = key({"seed": "7"})
    assert key({}) == same  # the workflow's own value
    assert key({"seed": "7"}, name="ball", number=12) == same
    assert key({"seed": "8"}) != same
    workflow["1"]["_meta"]["title"] = "Prompt"
    assert key({"seed": "7"}) == same
    workflow["1"]["inputs"]["text"] = "a cube"
    assert key({"seed": "7"}) != same


@pytest.mark.parametrize(
    ("number", "name", "stem"),
    [
        (7, "", "0007"),
        (7, "red ball", "0007_red ball"),
        (12345, "x", "12/12345_x"),  # a folder for each thousand rows of a long table,
        (1, 'a/b\\c:"d"?', "0001_a_b_c_d"),
        (1, "../..", "0001"),
        (1, "x" * 300, "0001_" + "x" * 80),
    ],
)
def test_the_row_names_its_files_safely(number, name, stem, workflow, inputs):
    rows = (Row(number, {"seed": "1"}, name),)
    assert make_jobs(Table(("seed",), rows), workflow, inputs)[0].stem == stem


def test_an_exported_workflow_is_read_as_it_is(workflow, tmp_path: Path):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(workflow))
    assert read_workflow(path, INFO) == workflow


def test_a_saved_workflow_is_translated(tmp_path: Path):
    path = tmp_path / "w.json"
    nodes = [{"id": 3, "type": "Sample", "mode": 0, "widgets_values": [7, "fixed"], "title": "S"}]
    path.write_text(json.dumps({"nodes": nodes, "links": []}))
    assert read_workflow(path, INFO) == {"3": node("Sample", "S", seed=7)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a workflow: "),
        ("[1]", 'is not a workflow. Save one in the page, with "Save" or with'),
        ("{}", "is not a workflow"),
        ('{"1": {"class_type": "Nope", "inputs": {}}}', "no node named Nope. Install the pack"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path: Path):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_workflow(path, INFO)
