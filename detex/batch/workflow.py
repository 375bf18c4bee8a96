"""The workflow that every row renders, and the names by which a table reaches its inputs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .api_prompt import DYNAMIC_COMBO, ObjectInfo, is_widget, schema_inputs, to_api_prompt

Prompt = dict[str, dict[str, Any]]
Place = tuple[str, str]  # node, input


@dataclass(frozen=True)
class Input:
    """A widget of a node. kind, options: its type as in /object_info."""

    node: str
    title: str
    class_type: str
    name: str
    kind: Any
    options: dict[str, Any]
    source: str | None = None  # the node whose wire feeds it instead

    @property
    def place(self) -> Place:
        return self.node, self.name

    @property
    def address(self) -> str:
        return f"{self.node}.{self.name}"

    @property
    def names(self) -> tuple[str, str, str, str]:
        """All that a column may be called to reach it; an earlier name goes before a later one."""
        owners = (self.node, self.title, self.class_type)
        by_id, by_title, by_type = (_plain(f"{owner}.{self.name}") for owner in owners)
        return by_id, by_title, by_type, _plain(self.name)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def read_workflow(path: Path, info: ObjectInfo) -> Prompt:
    """The file as an API prompt: saved by the page's "Save" or by its "Export (API)".

    Raises ValueError for another file, and for nodes that the server (`info`) does not have.
    """
    try:
        workflow = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not a workflow: {error}.") from error
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        return to_api_prompt(workflow, info)
    nodes = workflow.values() if isinstance(workflow, dict) else []
    if not nodes or not all(isinstance(n, dict) and "class_type" in n for n in nodes):
        raise ValueError(
            f'{path} is not a workflow. Save one in the page, with "Save" or with "Export (API)".'
        )
    unknown = missing_nodes(workflow, info)
    if unknown:
        raise ValueError(
            f"{path}: the server has no node named {', '.join(unknown)}. Install the pack that "
            "brings it, and restart the server."
        )
    return workflow


def with_settings(base: Prompt, settings: Mapping[Place, Any]) -> Prompt:
    """The prompt with these values in it."""
    changed = dict(base)
    for (node, name), value in settings.items():
        inputs = {**changed[node]["inputs"], name: value}
        changed[node] = {**changed[node], "inputs": inputs}
    return changed


def missing_nodes(prompt: Prompt, info: ObjectInfo) -> list[str]:
    """The types of nodes that the server does not have."""
    return sorted({node["class_type"] for node in prompt.values()} - set(info))


def inputs_of(prompt: Prompt, info: ObjectInfo) -> list[Input]:
    """Every widget of every node, in the order of the workflow."""
    return [
        Input(key, title_of(node, info), node["class_type"], name, kind, options, source)
        for key, node in prompt.items()
        for name, kind, options in _widgets(node, info[node["class_type"]]["input"])
        for source in [_source(node["inputs"].get(name))]
    ]


def title_of(node: dict[str, Any], info: ObjectInfo) -> str:
    title = node.get("_meta", {}).get("title")
    return title or info[node["class_type"]].get("display_name") or node["class_type"]


def _widgets(
    node: dict[str, Any], groups: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(name, kind, options), with those that the chosen option of a dynamic combo shows."""
    for key, spec in schema_inputs(groups):
        name, kind, options = prefix + key, spec[0], (spec[1] if len(spec) > 1 else {})
        if not is_widget(kind, options):
            continue
        yield name, kind, options
        if kind == DYNAMIC_COMBO:
            for option in options["options"]:
                if option["key"] == node["inputs"].get(name):
                    yield from _widgets(node, option["inputs"], f"{name}.")


def _source(value: Any) -> str | None:
    is_wire = isinstance(value, list) and len(value) == 2
    return str(value[0]) if is_wire else None


def find_input(column: str, inputs: list[Input]) -> Input:
    """The one input that this column names: by id, by title, by type or, where it is the only one
    of its name, by that alone.

    Raises ValueError where none or several are meant, or where a wire feeds it.
    """
    for level in range(4):
        found = [i for i in inputs if i.names[level] == _plain(column)]
        wired = [i for i in found if i.source is not None]
        free = [i for i in found if i.source is None]
        if len(free) == 1:
            return free[0]
        if free:
            raise ValueError(
                f'Column "{column}" could mean {_listed(free)}. Write it with the node\'s number, '
                f'for example "{free[0].address}".'
            )
        if wired:
            raise ValueError(
                f'Column "{column}": {wired[0].address} is fed by a wire from node '
                f"{wired[0].source}. Set that node's inputs, or take the wire away."
            )
    raise ValueError(f'Column "{column}" names no input of the workflow.')


def _listed(inputs: list[Input]) -> str:
    return " or ".join(f"{i.address} ({i.title})" for i in inputs)


def listing(inputs: list[Input]) -> str:
    """What a table can set, a line each: number and name, title and name."""
    free = [i for i in inputs if i.source is None]
    width = max((len(i.address) for i in free), default=0)
    return "\n".join(f"  {i.address:<{width}}  {i.title}.{i.name}" for i in free)
