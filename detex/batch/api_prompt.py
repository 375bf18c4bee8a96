"""Translate a workflow from the page's own JSON format to the format that /prompt accepts."""

from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]
ObjectInfo = dict[str, dict[str, Any]]

NOT_EXECUTED = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}  # they live in the page only
MUTED, BYPASSED = 2, 4
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COLORS", "CURVE"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
SEED_CONTROLS = {"fixed", "increment", "decrement", "randomize"}
UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload")


def to_api_prompt(workflow: dict[str, Any], object_info: ObjectInfo) -> dict[str, Node]:
    """The same graph as the page would send it.

    Notes are left out, muted nodes too (with their links), bypassed nodes hand on their first
    input of the wanted type. Raises ValueError for a node that the server does not have, for
    subgraphs, and where the saved widget values do not fit the node's widgets.
    """
    graph = _Graph(workflow)
    _refuse_unknown(graph, object_info)
    prompt = {}
    for node in graph.nodes.values():
        if node["type"] in NOT_EXECUTED or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        inputs = dict(_widget_inputs(node, object_info[node["type"]]))
        for slot in node.get("inputs") or []:
            if slot.get("link") is None:
                continue
            value = graph.source(slot["link"])
            if value is not None:
                inputs[slot["name"]] = value
        title = node.get("title") or object_info[node["type"]].get("display_name") or node["type"]
        prompt[str(node["id"])] = {
            "inputs": inputs,
            "class_type": node["type"],
            "_meta": {"title": title},
        }
    return prompt


class _Graph:
    """Nodes by id, and where each link comes from."""

    def __init__(self, workflow: dict[str, Any]):
        if "nodes" not in workflow:
            raise ValueError(
                'This JSON has no "nodes": it is not a workflow in the page\'s format. '
                'Save it with "Save" in the page, not with "Export (API)".'
            )
        self.nodes: dict[str, Node] = {str(node["id"]): node for node in workflow["nodes"]}
        self.links: dict[int, tuple[str, int, str]] = {}  # id -> origin node, origin slot, type
        for link in workflow.get("links") or []:
            if isinstance(link, dict):
                link = [link[k] for k in ("id", "origin_id", "origin_slot", "type")]
            self.links[link[0]] = (str(link[1]), link[2], str(link[-1]))

    def source(self, link: int) -> Any:
        """[node id, slot] behind this link, a primitive's value, or None where nothing is."""
        if link not in self.links:
            raise ValueError(f"A node refers to link {link}, which the workflow does not have.")
        origin, slot, kind = self.links[link]
        node = self.nodes.get(origin)
        if node is None or node.get("mode", 0) == MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            return node["widgets_values"][0]
        if node["type"] == "Reroute" or node.get("mode", 0) == BYPASSED:
            return self._through(node, slot, kind)
        return [origin, slot]

    def _through(self, node: Node, slot: int, kind: str) -> Any:
        """What stands at the first linked input that this node's output can be replaced by."""
        inputs = node.get("inputs") or []
        same_place = inputs[slot : slot + 1]
        for candidate in [*same_place, *inputs]:
            fits = node["type"] == "Reroute" or candidate.get("type") in (kind, "*")
            if fits and candidate.get("link") is not None:
                return self.source(candidate["link"])
        return None


def _refuse_unknown(graph: _Graph, object_info: ObjectInfo) -> None:
    used = {node["type"] for node in graph.nodes.values() if node.get("mode", 0) != MUTED}
    unknown = sorted(used - NOT_EXECUTED - set(object_info))
    if unknown:
        raise ValueError(
            f"The server has no node named {', '.join(unknown)}. Install the pack that brings it, "
            "or, if it is a subgraph, unpack it in the page first."
        )


def _widget_inputs(node: Node, info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(input name, value) for each widget of the node."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        yield from values.items()
        return
    rest = list(values or [])
    for name, spec in schema_inputs(info["input"], info.get("input_order")):
        yield from _take(name, spec, rest, node)
    if rest and not (rest == ["image"] or _has_upload(info)):
        raise ValueError(
            f"{_label(node)}: {len(rest)} saved widget values too many ({rest}). "
            "The workflow was saved with another version of this node; save it again."
        )


def schema_inputs(
    groups: dict[str, Any], order: dict[str, list[str]] | None = None
) -> Iterator[tuple[str, list[Any]]]:
    """(name, specification) of required, then optional inputs, in the order of the page."""
    for group in ("required", "optional"):
        specs = groups.get(group) or {}
        for name in (order or {}).get(group, specs):
            yield name, specs[name]


def _take(name: str, spec: list[Any], rest: list[Any], node: Node) -> Iterator[tuple[str, Any]]:
    """Remove from `rest` the values that belong to this input and yield them by name."""
    kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
    if not is_widget(kind, options):
        return
    if not rest:
        raise ValueError(
            f'{_label(node)}: no saved value for the widget "{name}". '
            "The workflow was saved with another version of this node; save it again."
        )
    value = rest.pop(0)
    yield name, {"__value__": value} if isinstance(value, list) else value
    if kind == DYNAMIC_COMBO:
        for inner, inner_spec in _chosen(value, name, options, node):
            yield from _take(f"{name}.{inner}", inner_spec, rest, node)
    elif _has_seed_control(name, kind, options) and rest and rest[0] in SEED_CONTROLS:
        rest.pop(0)


def _chosen(
    key: Any, name: str, options: dict[str, Any], node: Node
) -> Iterator[tuple[str, list[Any]]]:
    """The inputs that this option of a dynamic combo shows."""
    for option in options["options"]:
        if option["key"] == key:
            yield from schema_inputs(option["inputs"])
            return
    known = ", ".join(str(option["key"]) for option in options["options"])
    raise ValueError(f'{_label(node)}: "{name}" is {key!r}; it must be one of {known}.')


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in WIDGET_TYPES or kind == DYNAMIC_COMBO


def _has_seed_control(name: str, kind: Any, options: dict[str, Any]) -> bool:
    is_seed = kind == "INT" and name in ("seed", "noise_seed")
    return is_seed or bool(options.get("control_after_generate"))


def _has_upload(info: dict[str, Any]) -> bool:
    specs = (spec for _, spec in schema_inputs(info["input"]) if len(spec) > 1)
    return any(spec[1].get(key) for spec in specs for key in UPLOADS)


def _label(node: Node) -> str:
    return f"node {node['id']} ({node['type']})"
