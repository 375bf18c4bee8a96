"""What a bundled workflow is made of: nodes, the groups around them, and their slots."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .pack_host import register_pack

register_pack()

from detex_pack.detex.batch.api_prompt import is_widget, schema_inputs

WIDTH, TEXT_WIDTH = 280, 360
SEEDS = ("seed", "noise_seed")
MUTED = 2  # a node's mode: it does not run

ObjectInfo = dict[str, dict[str, Any]]  # the schema of every node, as /object_info gives it
Slot = tuple[str, str, dict[str, Any]]  # name, type, options


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


def has_seed_control(name: str, options: dict[str, Any]) -> bool:
    """Whether the page adds "control after generate" to this widget."""
    return bool(options.get("control_after_generate", name in SEEDS))


def default_of(options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    choices = options.get("options") or []
    return choices[0] if choices else ""


def slots_of(item: Node, info: ObjectInfo) -> tuple[list[Slot], list[Slot]]:
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


def output_names(item: Node, info: ObjectInfo) -> list[str]:
    return list(info[item.type]["output_name"])
