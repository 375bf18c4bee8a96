"""Build workflows in the page's own JSON format from a short description.

A workflow is rows of groups, a group is columns of nodes. Positions, slots, widget order and
links follow from the node schemas (/object_info), so that they cannot go stale by hand.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .api_prompt import ObjectInfo, is_widget, schema_inputs

TITLE, BADGE = 30, 20  # above a node's box: its title bar, the name of its pack
SLOT, WIDGET = 20, 24  # heights that the page gives a socket and a widget
TEXT = 60  # the least height of a text box
WIDTH, TEXT_WIDTH = 280, 360
COLUMN_GAP, ROW_GAP = 60, 40  # between nodes
PADDING, HEADING = 30, 50  # between a group's frame and its nodes; its heading
GROUP_GAP = 50
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}
VIEW = {"scale": 0.6, "offset": [110, 140]}  # as first seen: small, but every text readable
SEEDS = ("seed", "noise_seed")


@dataclass(frozen=True)
class Link:
    """Output `output` of the node named `node`."""

    node: str
    output: str


def link(text: str) -> Link:
    """link("demo.clip"): the output "clip" of the node "demo"."""
    return Link(*text.split("."))


@dataclass
class Node:
    """One node. inputs: a Link for a wire, else a widget's value; the rest keep their defaults."""

    name: str
    type: str
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    size: tuple[int, int] | None = None
    mode: int = 0


def node(name: str, type: str, /, *, title: str = "", size=None, **inputs: Any) -> Node:
    return Node(name, type, inputs, title, size)


def note(name: str, text: str, *, title: str = "Note", width: int = TEXT_WIDTH) -> Node:
    """A note on the canvas, in Markdown, tall enough for its text."""
    lines = sum(math.ceil(len(line) * 6 / (width - 40)) for line in text.splitlines())
    height = max(100, 36 + 15 * lines + 8 * text.count("\n\n"))
    return Node(name, "MarkdownNote", {"text": text}, title, (width, height))


@dataclass
class Group:
    """Columns of nodes with a frame and a heading."""

    title: str
    columns: Sequence[Sequence[Node]]
    colour: str = "#3f789e"

    @property
    def nodes(self) -> Iterator[Node]:
        for column in self.columns:
            yield from column


def build(rows: Sequence[Sequence[Group]], info: ObjectInfo) -> dict[str, Any]:
    """The workflow's JSON."""
    nodes = [item for row in rows for group in row for item in group.nodes]
    ids = {item.name: number for number, item in enumerate(nodes, 1)}
    if len(ids) != len(nodes):
        raise ValueError("Two nodes have the same name.")
    frames, places = _lay_out(rows, info)
    by_name = {item.name: item for item in nodes}
    entries = {item.name: _entry(item, ids[item.name], places[item.name], info) for item in nodes}
    links: list[list[Any]] = []
    for item in nodes:
        for name, value in item.inputs.items():
            if isinstance(value, Link):
                source = by_name[value.node]
                slot = _output_names(source, info).index(value.output)
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
    sockets, widgets = _inputs(item, info)
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
    value = item.inputs.get(name, _default(options))
    values = [_default(options) if isinstance(value, Link) else value]
    if has_seed_control(name, options):
        values.append("fixed")
    if options.get("image_upload"):
        values.append("image")
    return values


def has_seed_control(name: str, options: dict[str, Any]) -> bool:
    """Whether the page adds "control after generate" to this widget."""
    return bool(options.get("control_after_generate", name in SEEDS))


def _default(options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    choices = options.get("options") or []
    return choices[0] if choices else ""


Slot = tuple[str, str, dict[str, Any]]  # name, type, options


def _inputs(item: Node, info: ObjectInfo) -> tuple[list[Slot], list[Slot]]:
    """(sockets, widgets) in the order of the page."""
    sockets: list[Slot] = []
    widgets: list[Slot] = []
    schema = info[item.type]
    for name, spec in schema_inputs(schema["input"], schema.get("input_order")):
        kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
        optional = name in (schema["input"].get("optional") or {})
        if isinstance(kind, list):  # the old way to write a combo
            kind, options = "COMBO", {**options, "options": kind}
        if is_widget(kind, options):
            widgets.append((name, kind, options))
        elif kind == "COMFY_AUTOGROW_V3":
            sockets += _grown(item, name, options["template"])
        else:
            sockets.append((name, kind, {"shape": 7} if optional else {}))
    return sockets, widgets


def _grown(item: Node, name: str, template: dict[str, Any]) -> list[Slot]:
    """The sockets of an input that grows: those in use and the next, empty one."""
    used = [key for key in item.inputs if key.startswith(f"{name}.")]
    (spec,) = template["input"]["required"].values()
    kind = "*" if spec[0].startswith("COMFY_MATCHTYPE") else spec[0]
    if "names" in template:
        names = template["names"][: len(used) + 1]
    else:
        names = [f"{template['prefix']}{number}" for number in range(len(used) + 1)]
    first = template.get("min", 0)
    return [
        (f"{name}.{key}", kind, {"label": key} | ({"shape": 7} if i >= first else {}))
        for i, key in enumerate(names)
    ]


def _output_names(item: Node, info: ObjectInfo) -> list[str]:
    return list(info[item.type]["output_name"])


def size_of(item: Node, info: ObjectInfo) -> tuple[int, int]:
    """Width and height of the node's box, advanced widgets folded away (web/detex.js)."""
    if item.size:
        return item.size
    sockets, widgets = _inputs(item, info)
    slots = max(len(sockets), len(info[item.type]["output"]))
    shown = [(name, options) for name, _, options in widgets if not options.get("advanced")]
    texts = sum(bool(options.get("multiline")) for _, options in shown)
    added = sum(has_seed_control(name, options) for name, options in shown)
    added += sum(bool(options.get("image_upload")) for _, options in shown)
    height = SLOT * slots + 6
    if shown:
        height += WIDGET * (len(shown) - texts + added) + (TEXT + 4) * texts + 8
    return (TEXT_WIDTH if texts else WIDTH), height


def _lay_out(
    rows: Sequence[Sequence[Group]], info: ObjectInfo
) -> tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]:
    """The groups' frames, and where each node stands."""
    frames, places, top = [], {}, 0
    for row in rows:
        left, heights = 0, []
        for group in row:
            width, height = _place_group(group, left, top, info, places)
            frames.append(
                {
                    "id": len(frames) + 1,
                    "title": group.title,
                    "bounding": [left, top, width, height],
                    "color": group.colour,
                    "font_size": 24,
                    "flags": {},
                }
            )
            left += width + GROUP_GAP
            heights.append(height)
        for frame in frames[-len(row) :]:
            frame["bounding"][3] = max(heights)
        top += max(heights) + GROUP_GAP
    return frames, places


def _place_group(
    group: Group, left: int, top: int, info: ObjectInfo, places: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """Stand the group's nodes in columns; -> its width and height."""
    x, bottom = left + PADDING, top
    for column in group.columns:
        y = top + HEADING
        for item in column:
            y += TITLE + BADGE
            places[item.name] = (x, y)
            y += size_of(item, info)[1] + ROW_GAP
        bottom = max(bottom, y - ROW_GAP + PADDING)
        x += max(size_of(item, info)[0] for item in column) + COLUMN_GAP
    return x - COLUMN_GAP + PADDING - left, bottom - top
