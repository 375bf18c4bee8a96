"""The subgraph blueprints: what ComfyUI lists of them, and whether they fit the nodes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from workflow_files import box, overlaps

from devtools.server import ComfyServer
from devtools.workflows import SUBGRAPHS, in_step

NAMES = ("Train a subject", "My Subject")
INPUT_NODE, OUTPUT_NODE = -10, -20  # ids that the page gives the two ends of a subgraph


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def blueprint(name: str) -> dict[str, Any]:
    return json.loads((SUBGRAPHS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def inner(blueprint: dict[str, Any]) -> dict[str, Any]:
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    return subgraph


def test_every_blueprint_is_tested():
    assert {path.stem for path in SUBGRAPHS.glob("*.json")} == set(NAMES)


@pytest.mark.pinned_host
def test_its_nodes_are_in_step_with_their_schemas(server, blueprint):
    """Else run `python -m devtools.workflows --update`."""
    assert in_step(blueprint, server.object_info()) == blueprint


def test_the_server_lists_and_serves_it(server, name, blueprint):
    listed = {
        number: entry
        for number, entry in server.get("/global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.ComfyUI-DETEX"
    }
    (number,) = [number for number, entry in listed.items() if entry["name"] == name]
    assert json.loads(server.get(f"/global_subgraphs/{number}")["data"]) == blueprint


def test_the_outer_node_stands_for_the_graph_inside(blueprint, inner):
    (outer,) = blueprint["nodes"]
    assert outer["type"] == inner["id"]
    for side in ("inputs", "outputs"):
        assert [s["name"] for s in outer[side]] == [s["name"] for s in inner[side]]
        assert [s["type"] for s in outer[side]] == [s["type"] for s in inner[side]]


def test_its_links_join_sockets_of_one_type(inner):
    nodes = {node["id"]: node for node in inner["nodes"]}
    ends = {INPUT_NODE: inner["inputs"], OUTPUT_NODE: inner["outputs"]}
    for link in inner["links"]:
        source, target = link["origin_id"], link["target_id"]
        if source in ends:
            output = ends[source][link["origin_slot"]]
            assert link["id"] in output["linkIds"]
        else:
            output = nodes[source]["outputs"][link["origin_slot"]]
            assert link["id"] in output["links"]
        if target in ends:
            taken = ends[target][link["target_slot"]]
            assert link["id"] in taken["linkIds"]
        else:
            taken = nodes[target]["inputs"][link["target_slot"]]
            assert taken["link"] == link["id"]
        assert output["type"] == link["type"] == taken["type"]


def test_every_shown_widget_exists_inside(blueprint, inner):
    (outer,) = blueprint["nodes"]
    nodes = {str(node["id"]): node for node in inner["nodes"]}
    for number, widget in outer["properties"]["proxyWidgets"]:
        names = [
            socket["widget"]["name"] for socket in nodes[number]["inputs"] if "widget" in socket
        ]
        assert widget in names


def test_boxes_inside_keep_their_distance(inner):
    boxes = {f"{node['id']} {node['type']}": box(node) for node in inner["nodes"]}
    assert overlaps(boxes, gap=20) == []


@pytest.mark.parametrize("name", ["My Subject"])
def test_the_preset_decides_the_amounts(inner):
    nodes = {node["id"]: node for node in inner["nodes"]}
    decided = set()
    for link in inner["links"]:
        source, target = nodes.get(link["origin_id"]), nodes.get(link["target_id"])
        if source and target and source["type"] == "DETEXTrainingPreset":
            amount = source["outputs"][link["origin_slot"]]["name"]
            socket = target["inputs"][link["target_slot"]]["name"]
            decided.add((amount, target["type"].removeprefix("DETEX"), socket))
    assert decided >= {
        ("resolution", "SubjectImages", "resolution"),
        ("prior_images", "ClassPriorImages", "count"),
        ("sampling_steps", "PlacePictures", "steps"),
        ("steps", "Train", "steps"),
    }
