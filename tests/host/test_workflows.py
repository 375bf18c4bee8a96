"""The bundled workflows fit the nodes of a real server, and lie on the canvas without a clash."""

import copy
import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from PIL import ImageChops
from workflow_files import NAMES, box, inside, overlaps, server_with_files

from detex_pack.detex.batch.api_prompt import is_widget, schema_inputs
from devtools import workflows
from devtools.graphs import Graph, with_demo_model
from devtools.server import ComfyServer, to_api_prompt
from devtools.thumbnails import DRAW
from devtools.workflows import (
    FOLDER,
    demo_settings,
    has_seed_control,
    in_step,
    read_workflow,
    widget_values,
)

NOTES = ("MarkdownNote",)
SMALL = {  # by node type
    "EmptyLatentImage": {"batch_size": 1},
    "DETEXPlacePictures": {"names": "grass\nsnow", "steps": 2},
    "DETEXClassPriorImages": {"count": 1, "steps": 2},
    "DETEXTrain": {"steps": 2, "batch_size": 1},
    "DETEXDis2BoothTrain": {"steps": 2, "batch_size": 1},
    "KSampler": {"steps": 2},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with server_with_files(tmp_path_factory.mktemp("workflows") / "base") as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    return server.object_info()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def workflow(name: str) -> dict[str, Any]:
    return read_workflow(name)


def test_every_workflow_has_a_thumbnail_and_is_tested():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES) == set(DRAW)
    assert {path.stem for path in FOLDER.glob("*.jpg")} == set(NAMES)


@pytest.mark.pinned_host
def test_every_node_is_in_step_with_its_schema(workflow, object_info):
    """Else run `python -m devtools.workflows --update`."""
    assert in_step(workflow, object_info) == workflow


def test_a_node_takes_on_the_inputs_and_outputs_that_its_schema_gets(object_info):
    info = copy.deepcopy(object_info)
    train = info["DETEXTrain"]
    first = {"warmth": ["MODEL"], **train["input"]["required"], "colour": ["INT", {"default": 3}]}
    first.pop("gamma")
    train["input"]["required"] = first
    train["input_order"]["required"] = list(first)
    train["output"], train["output_name"] = ["INT", *train["output"]], ["n", *train["output_name"]]
    before = read_workflow("prompt_grid")
    after = in_step(before, info)
    old, new = first_of("DETEXTrain", before), first_of("DETEXTrain", after)
    assert new["inputs"][0] == {"name": "warmth", "type": "MODEL", "link": None}
    assert widget_values(new) | {"gamma": 0.5} == widget_values(old) | {"colour": 3}
    assert "gamma" not in widget_values(new)
    assert new["outputs"][0] == {"name": "n", "type": "INT", "links": None}
    assert len(before["links"]) == len(after["links"])
    test_links_join_sockets_of_one_type(after)


def test_the_command_fails_until_a_file_that_was_left_behind_is_updated(
    server, tmp_path, monkeypatch, capsys
):
    path, file = tmp_path / "old.json", read_workflow("quickstart")
    first_of("DETEXTrain", file)["inputs"].pop()
    path.write_text(json.dumps(file, indent=1) + "\n")
    monkeypatch.setattr(workflows, "workflow_files", lambda: [path])
    monkeypatch.setattr(workflows, "ComfyServer", lambda: nullcontext(server))
    monkeypatch.setattr(workflows, "exit_on_terminate", lambda: None)
    for options, status in ([], 1), (["--update"], 0), ([], 0):
        monkeypatch.setattr("sys.argv", ["workflows", *options])
        assert workflows.main() == status
    assert capsys.readouterr().out.count("old.json") == 2


def test_an_input_that_is_gone_from_under_its_wire_is_told(object_info):
    info = copy.deepcopy(object_info)
    del info["DETEXTrain"]["input"]["required"]["subject"]
    info["DETEXTrain"]["input_order"]["required"].remove("subject")
    with pytest.raises(ValueError, match=r"DETEXTrain \(node \d+\) has no subject any more"):
        in_step(read_workflow("prompt_grid"), info)


@pytest.mark.parametrize("class_type", ["DETEXTrain", "DETEXClassPriorImages"])
def test_workflows_of_the_demo_model_learn_with_the_same_settings(name, workflow, class_type):
    """So that DETEX Train finds the toy of another workflow on disk."""
    nodes = [node for node in workflow["nodes"] if node["type"] == class_type]
    on_the_demo_model = any(node["type"] == "DETEXDemoModel" for node in workflow["nodes"])
    for values in map(widget_values, nodes if on_the_demo_model else []):
        assert values == widget_values(first_of(class_type, read_workflow("prompt_grid")))
        assert values.items() >= demo_settings(class_type).items()


def test_it_becomes_a_prompt_with_every_needed_input(workflow, object_info):
    for number, entry in to_api_prompt(workflow, object_info).items():
        required = object_info[entry["class_type"]]["input"].get("required", {})
        grown = {key.split(".")[0] for key in entry["inputs"]}
        optional_growth = {k for k, spec in required.items() if spec[0] == "COMFY_AUTOGROW_V3"}
        missing = set(required) - set(entry["inputs"]) - grown - optional_growth
        assert not missing, f"node {number} ({entry['class_type']}) lacks {missing}"


def test_widget_values_are_allowed(workflow, object_info):
    for node, name, spec, value in unwired_widgets(workflow, object_info):
        assert is_allowed(value, *spec), f"{node['type']}: {name} = {value!r}"


def test_no_seed_changes_by_itself(workflow, object_info):
    """A seed that moved on after a run would train the subject anew."""
    controls = [node["widgets_values"][i + 1] for node, i in seeds(workflow, object_info)]
    assert set(controls) <= {"fixed"}


def test_links_join_sockets_of_one_type(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, place, kind in workflow["links"]:
        output, taken = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"]
        assert taken["link"] == number
        assert output["type"] == kind
        assert taken["type"] in (kind, "*")


def test_boxes_keep_their_distance(workflow):
    boxes = {f"{node['id']} {node['type']}": box(node) for node in workflow["nodes"]}
    assert overlaps(boxes, gap=20) == []


def test_every_node_lies_in_one_group(workflow):
    frames = {
        group["title"]: (left, top, left + width, top + height)
        for group in workflow["groups"]
        for left, top, width, height in [group["bounding"]]
    }
    assert overlaps(frames) == []
    for node in workflow["nodes"]:
        assert sum(inside(box(node), frame) for frame in frames.values()) == 1, node["type"]


def test_wires_run_left_to_right_within_a_group(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, source, _, target, _, _ in workflow["links"]:
        one, two = nodes[source], nodes[target]
        if group_of(one, workflow) == group_of(two, workflow):
            assert one["pos"][0] <= two["pos"][0], f"{one['type']} -> {two['type']}"


def test_the_canvas_says_what_to_do(workflow):
    texts = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES]
    assert workflow["nodes"][0]["title"] == "Start here"
    assert all(len(text) > 40 for text in texts)


def test_the_checkpoint_workflows_run_with_the_demo_model(server, object_info):
    """The first three save what use_concept and attention_preview then load."""
    folder = server.base / "models" / "detex"
    for name in ("train_detex", "train_folder", "train_many"):
        prompt = small(with_demo_model(to_api_prompt(read_workflow(name), object_info)))
        (save,) = of_type(prompt, "DETEXSaveEmbeddings")
        save["inputs"]["name"] = name  # two alike would be one to the server's cache
        server.run(prompt, timeout=300)
        saved = folder / f"{name}.safetensors"
        assert saved.stat().st_size > 0
    for name in ("use_concept", "attention_preview"):
        prompt = small(with_demo_model(to_api_prompt(read_workflow(name), object_info)))
        for entry in of_type(prompt, "DETEXLoadEmbeddings"):
            entry["inputs"]["file"] = saved.name
        outputs = server.run(prompt, timeout=300)["outputs"]
        assert sum(bool(out.get("images")) for out in outputs.values()) == 2, name


@pytest.mark.parametrize(
    "name",
    ["pose_and_background", "several_concepts", "prompt_grid", "evaluate_concept", "whole_litter"],
)
def test_the_demo_workflows_run(server, object_info, name):
    prompt = small(to_api_prompt(read_workflow(name), object_info))
    outputs = server.run(prompt, timeout=300)["outputs"]
    for number, entry in prompt.items():
        if entry["class_type"] in ("PreviewImage", "SaveImage", "DETEXLabelledGrid"):
            assert outputs[number]["images"], entry["_meta"]["title"]


def test_the_exported_files_paint_the_same_picture_without_the_pack(server, object_info):
    workflow = read_workflow("export_concept")
    server.run(small(to_api_prompt(workflow, object_info)), timeout=300)
    for node in workflow["nodes"]:
        node["mode"] = 0
    found = server.pictures(small(to_api_prompt(workflow, object_info)))
    ours, theirs = found["With [V]"][0], found["With its LoRA and its embedding"][0]
    assert max(high for _, high in ImageChops.difference(ours, theirs).getextrema()) <= 2


def small(prompt: Graph) -> Graph:
    """The same graph with as little work as shows that it runs."""
    for entry in prompt.values():
        entry["inputs"] |= SMALL.get(entry["class_type"], {})
    return prompt


def of_type(prompt: Graph, class_type: str) -> list[dict[str, Any]]:
    return [entry for entry in prompt.values() if entry["class_type"] == class_type]


def first_of(node_type: str, workflow: dict[str, Any]) -> dict[str, Any]:
    return next(node for node in workflow["nodes"] if node["type"] == node_type)


def test_overlaps_are_found():
    boxes = {"a": (0, 0, 10, 10), "b": (9, 9, 20, 20), "c": (30, 0, 40, 10)}
    assert overlaps(boxes) == [("a", "b")]
    assert overlaps(boxes, gap=15) == [("a", "b"), ("b", "c")]


def group_of(node: dict[str, Any], workflow: dict[str, Any]) -> str:
    for group in workflow["groups"]:
        left, top, width, height = group["bounding"]
        if inside(box(node), (left, top, left + width, top + height)):
            return group["title"]
    return ""


def unwired_widgets(
    workflow: dict[str, Any], object_info: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], str, tuple[Any, dict[str, Any]], Any]]:
    """(node, input, (type, options), value) for every widget that no wire feeds."""
    prompt = to_api_prompt(workflow, object_info)
    for node in workflow["nodes"]:
        entry = prompt.get(str(node["id"]))
        schema = object_info.get(node["type"])
        if entry is None or schema is None:
            continue
        for name, spec in schema_inputs(schema["input"], schema.get("input_order")):
            kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
            value = entry["inputs"].get(name)
            if is_widget(kind, options) and not is_link(value):
                yield node, name, (kind, options), value


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def is_allowed(value: Any, kind: Any, options: dict[str, Any]) -> bool:
    if isinstance(kind, list) or kind == "COMBO":
        return value in (kind if isinstance(kind, list) else options["options"])
    types = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if not isinstance(value, types[kind]):
        return False
    low, high = options.get("min", value), options.get("max", value)
    return kind in ("STRING", "BOOLEAN") or low <= value <= high


def seeds(
    workflow: dict[str, Any], object_info: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], int]]:
    """(node, place of its seed in widgets_values) where the page adds "control after generate"."""
    for node in workflow["nodes"]:
        schema = object_info.get(node["type"])
        if schema is None:
            continue
        widgets = [
            (name, spec[1] if len(spec) > 1 else {})
            for name, spec in schema_inputs(schema["input"], schema.get("input_order"))
            if is_widget(spec[0], spec[1] if len(spec) > 1 else {})
        ]
        for place, (name, options) in enumerate(widgets):
            if has_seed_control(name, options):
                yield node, place
