"""Build subgraph blueprints in the page's own JSON format: one node that holds a small graph.

ComfyUI lists every <pack>/subgraphs/*.json under /global_subgraphs; the page offers it among the
nodes, under the file's name.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .workflow_json import build
from .workflow_nodes import Group, ObjectInfo, link

INPUT_NODE, OUTPUT_NODE = -10, -20  # ids that the page gives the two ends of a subgraph
LINE = 20  # height of one of their slots
END_WIDTH, END_GAP = 130, 200
PICTURES = "$$canvas-image-preview"  # the page's name for what a node shows of its pictures
LINK: tuple[str, ...] = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")

Entry = dict[str, Any]


@dataclass(frozen=True)
class Port:
    """An input or output of the blueprint: its name, and the "node.slot" that it stands for."""

    name: str
    inside: tuple[str, ...]  # an input may lead to several


def port(name: str, *inside: str) -> Port:
    return Port(name, inside)


@dataclass(frozen=True)
class Blueprint:
    """A small graph as one node of this size."""

    name: str
    description: str
    category: str
    rows: Sequence[Sequence[Group]]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    shown: str  # the node inside whose pictures it shows
    size: tuple[int, int]


def build_blueprint(blueprint: Blueprint, info: ObjectInfo) -> dict[str, Any]:
    """The blueprint's JSON."""
    inner = build(blueprint.rows, info)
    names = [node.name for row in blueprint.rows for group in row for node in group.nodes]
    nodes = dict(zip(names, inner["nodes"], strict=True))
    links: list[Entry] = [dict(zip(LINK, values, strict=True)) for values in inner["links"]]
    inputs = [_input(blueprint, i, nodes, links) for i in range(len(blueprint.inputs))]
    outputs = [_output(blueprint, i, nodes, links) for i in range(len(blueprint.outputs))]
    right = max(left + width for left, _, width, _ in (g["bounding"] for g in inner["groups"]))
    subgraph = {
        "id": _id(blueprint.name),
        "version": 1,
        "state": {
            "lastGroupId": len(inner["groups"]),
            "lastNodeId": inner["last_node_id"],
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "inputNode": _end(INPUT_NODE, -END_GAP - END_WIDTH, len(inputs)),
        "outputNode": _end(OUTPUT_NODE, right + END_GAP, len(outputs)),
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": inner["nodes"],
        "groups": inner["groups"],
        "links": links,
        "extra": {},
        "category": blueprint.category,
        "description": blueprint.description,
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [_outer(blueprint, nodes, inputs, outputs)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {},
    }


def _id(*names: str) -> str:
    """The same for the same names, so that a file changes only where its content does."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("detex", *names))))


def _end(number: int, left: float, slots: int) -> Entry:
    return {"id": number, "bounding": [left, 0, END_WIDTH, LINE * (slots + 2)]}


def _input(blueprint: Blueprint, i: int, nodes: dict[str, Entry], links: list[Entry]) -> Entry:
    """The blueprint's input i, wired to what it stands for."""
    ids, kind = [], ""
    for inside in blueprint.inputs[i].inside:
        entry, place = _slot(nodes, inside, "inputs")
        socket = entry["inputs"][place]
        kind, number = socket["type"], len(links) + 1
        socket["link"] = number
        values = (number, INPUT_NODE, i, entry["id"], place, kind)
        links.append(dict(zip(LINK, values, strict=True)))
        ids.append(number)
    name = blueprint.inputs[i].name
    return {"id": _id(blueprint.name, "in", name), "name": name, "type": kind, "linkIds": ids}


def _output(blueprint: Blueprint, i: int, nodes: dict[str, Entry], links: list[Entry]) -> Entry:
    """The blueprint's output i, wired to what it stands for."""
    (inside,) = blueprint.outputs[i].inside
    entry, place = _slot(nodes, inside, "outputs")
    socket, number = entry["outputs"][place], len(links) + 1
    socket["links"] = [*(socket["links"] or []), number]
    values = (number, entry["id"], place, OUTPUT_NODE, i, socket["type"])
    links.append(dict(zip(LINK, values, strict=True)))
    name = blueprint.outputs[i].name
    made = {"id": _id(blueprint.name, "out", name), "name": name, "type": socket["type"]}
    return made | {"linkIds": [number]}


def _slot(nodes: dict[str, Entry], inside: str, side: str) -> tuple[Entry, int]:
    """The node's entry, and the place of the slot "node.slot" in it."""
    wanted = link(inside)
    entry = nodes[wanted.node]
    return entry, [socket["name"] for socket in entry[side]].index(wanted.output)


def _outer(
    blueprint: Blueprint, nodes: dict[str, Entry], inputs: list[Entry], outputs: list[Entry]
) -> Entry:
    """The one node that is seen from outside."""
    sockets, widgets = [], []
    for port, made in zip(blueprint.inputs, inputs, strict=True):
        socket = {"name": port.name, "type": made["type"], "link": None}
        entry, place = _slot(nodes, port.inside[0], "inputs")
        if "widget" in entry["inputs"][place]:
            socket["widget"] = {"name": port.name}
            widgets.append([str(entry["id"]), entry["inputs"][place]["name"]])
        sockets.append(socket)
    shown = {"name": PICTURES, "sourcePreviewName": PICTURES}
    shown["sourceNodeId"] = str(nodes[blueprint.shown]["id"])
    return {
        "id": 1,
        "type": _id(blueprint.name),
        "pos": [0, 0],
        "size": list(blueprint.size),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": sockets,
        "outputs": [{"name": o["name"], "type": o["type"], "links": []} for o in outputs],
        "title": blueprint.name,
        "properties": {"proxyWidgets": widgets, "previewExposures": [shown]},
        "widgets_values": [],
    }
