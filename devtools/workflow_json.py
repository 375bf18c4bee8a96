"""Build workflows in the page's own JSON format from a short description.

A workflow is rows of groups, a group is columns of nodes. Positions, slots, widget order and
links follow from the node schemas (/object_info), so that they cannot go stale by hand.
"""

from collections.abc import Sequence
from typing import Any

from .workflow_layout import lay_out, size_of
from .workflow_nodes import (
    Group,
    Link,
    Node,
    ObjectInfo,
    default_of,
    has_seed_control,
    output_names,
    slots_of,
)

NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}
VIEW = {"scale": 0.6, "offset": [110, 140]}  # as first seen: small, but every text readable


def build(rows: Sequence[Sequence[Group]], info: ObjectInfo) -> dict[str, Any]:
    """The workflow's JSON."""
    nodes = [item for row in rows for group in row for item in group.nodes]
    ids = {item.name: number for number, item in enumerate(nodes, 1)}
    if len(ids) != len(nodes):
        raise ValueError("Two nodes have the same name.")
    frames, places = lay_out(rows, info)
    by_name = {item.name: item for item in nodes}
    entries = {item.name: _entry(item, ids[item.name], places[item.name], info) for item in nodes}
    links: list[list[Any]] = []
    for item in nodes:
        for name, value in item.inputs.items():
            if isinstance(value, Link):
                source = by_name[value.node]
                slot = output_names(source, info).index(value.output)
                output = entries[value.node]["outputs"][slot]
                _connect(links, entries[item.name], name, entries[value.node]["id"], slot, output)
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": list(entries.values()),
        "links": links,
        "groups": frames,
        "config": {},
        "extra": {"ds": VIEW},
        "version": 0.4,
    }


def _connect(
    links: list[list[Any]],
    entry: dict[str, Any],
    name: str,
    source: int,
    slot: int,
    output: dict[str, Any],
) -> None:
    names = [socket["name"] for socket in entry["inputs"]]
    if name not in names:
        raise ValueError(f"{entry['type']} has no input {name}; it has {', '.join(names)}.")
    place = names.index(name)
    number = len(links) + 1
    if output["type"] == "*" or output["type"].startswith("COMFY_MATCHTYPE"):
        output["type"] = entry["inputs"][place]["type"]
    links.append([number, source, slot, entry["id"], place, output["type"]])
    entry["inputs"][place]["link"] = number
    output["links"] = [*(output["links"] or []), number]


def _entry(item: Node, number: int, place: tuple[int, int], info: ObjectInfo) -> dict[str, Any]:
    """The node's JSON, its links still open."""
    entry: dict[str, Any] = {
        "id": number,
        "type": item.type,
        "pos": list(place),
        "size": list(size_of(item, info)),
        "flags": {},
        "order": number - 1,
        "mode": item.mode,
        "inputs": [],
        "outputs": [],
        "properties": {"Node name for S&R": item.type},
        "widgets_values": [],
    }
    if item.title:
        entry["title"] = item.title
    if item.type == "MarkdownNote":
        return entry | NOTE_COLOURS | {"properties": {}, "widgets_values": [item.inputs["text"]]}
    sockets, widgets = slots_of(item, info)
    entry["inputs"] = [
        {"name": name, "type": kind, "link": None, **more} for name, kind, more in sockets
    ] + [
        {"name": name, "type": kind, "widget": {"name": name}, "link": None}
        for name, kind, _ in widgets
    ]
    schema = info[item.type]
    entry["outputs"] = [
        {"name": name, "type": kind, "links": None}
        for name, kind in zip(schema["output_name"], schema["output"], strict=True)
    ]
    for name, _, options in widgets:
        entry["widgets_values"] += _saved_values(item, name, options)
    _refuse_unknown_inputs(item, entry)
    return entry


def _refuse_unknown_inputs(item: Node, entry: dict[str, Any]) -> None:
    unknown = set(item.inputs) - {socket["name"] for socket in entry["inputs"]}
    if unknown:
        raise ValueError(f"{item.type} ({item.name}) has no input {', '.join(sorted(unknown))}.")


def _saved_values(item: Node, name: str, options: dict[str, Any]) -> list[Any]:
    """The widget's value, and those of the widgets that the page adds to it."""
    value = item.inputs.get(name, default_of(options))
    values = [default_of(options) if isinstance(value, Link) else value]
    if has_seed_control(name, options):
        values.append("fixed")
    if options.get("image_upload"):
        values.append("image")
    return values
