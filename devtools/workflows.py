"""The bundled workflows: read them, keep them in step with the nodes.

    python -m devtools.workflows            name the files that the nodes have left behind, exit 1
    python -m devtools.workflows --update   give every node the slots and widgets of its schema

The JSON files are the source: change them in ComfyUI's page or by hand. After a change of a schema,
--update adds new inputs with their defaults, takes away those that are gone, and moves the links to
the new places. An input with a new name keeps its value where the JSON is given that name first; a
node that gets taller by an input is given room by hand, or in the page.
"""

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

from detex_pack.detex.batch.api_prompt import SEED_CONTROLS, is_widget, schema_inputs
from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.toys.subjects import demo_places, demo_subject

from .host_process import exit_on_terminate
from .pack_host import ROOT
from .server import ComfyServer

FOLDER = ROOT / "workflows"
SUBGRAPHS = ROOT / "subgraphs"
SAMPLING = ("steps", "cfg", "sampler_name", "scheduler")
SUITED = {  # by node type: the widgets that want other values for the demo model
    "DETEXClassPriorImages": ("count", *SAMPLING),
    "DETEXTrain": ("steps", "learning_rate", "token_rate", "mapper_rate"),
    "KSampler": SAMPLING,
}
SEEDS = ("seed", "noise_seed")

Entry = dict[str, Any]
ObjectInfo = dict[str, Entry]  # the schema of every node, as /object_info gives it


def workflow_files() -> list[Path]:
    return [*sorted(FOLDER.glob("*.json")), *sorted(SUBGRAPHS.glob("*.json"))]


def read_workflow(name: str) -> dict[str, Any]:
    """A bundled workflow, as it is in the folder."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def demo_settings(class_type: str) -> dict[str, Any]:
    """What a node of this type is best set to for the demo model, as in prompt_grid.json.

    The rates were chosen on two subjects that no report uses, see docs/base_model.md; the steps by
    the sweep in docs/science.md.
    """
    nodes = {node["type"]: node for node in read_workflow("prompt_grid")["nodes"]}
    names = SUITED.get(class_type, ())
    return {name: widget_values(nodes[class_type])[name] for name in names}


def write_photos(input_folder: Path) -> None:
    """What the workflows name: photo_1.png... of a ball, each with its mask in its transparency as
    the MaskEditor saves it, and the folder my_subject with photos and masks of a star. And the
    folder places, with pictures that the demo model, which always draws a toy, cannot draw.
    """
    folder = input_folder / "my_subject"
    folder.mkdir(parents=True, exist_ok=True)
    ball, star = demo_subject(0, 4, 0), demo_subject(1, 4, 0)
    for number, (photo, mask) in enumerate(zip(ball.images, ball.masks, strict=True), 1):
        picture = as_picture(photo)
        picture.putalpha(as_picture(1 - mask))
        picture.save(input_folder / f"photo_{number}.png")
    for number, (photo, mask) in enumerate(zip(star.images, star.masks, strict=True), 1):
        as_picture(photo).save(folder / f"photo_{number}.png")
        as_picture(mask).save(folder / f"photo_{number}.mask.png")
    places = input_folder / "places"
    places.mkdir(exist_ok=True)
    for number, (picture, name) in enumerate(zip(*demo_places(), strict=True)):
        as_picture(picture).save(places / f"{number}.png")
        (places / f"{number}.txt").write_text(name, encoding="utf-8")


def has_seed_control(name: str, options: dict[str, Any]) -> bool:
    """Whether the page adds "control after generate" to this widget."""
    return bool(options.get("control_after_generate", name in SEEDS))


def widget_values(node: Entry) -> dict[str, Any]:
    """Input -> the value that the file has for its widget."""
    rest, values = list(node["widgets_values"]), {}
    for slot in node["inputs"]:
        if "widget" not in slot:
            continue
        values[slot["name"]] = rest.pop(0)
        if slot["type"] == "INT" and rest and rest[0] in SEED_CONTROLS:
            rest.pop(0)
    return values


def in_step(workflow: dict[str, Any], info: ObjectInfo) -> dict[str, Any]:
    """A workflow or blueprint with the slots and widgets of the schemas at each of its nodes.

    Raises ValueError where a slot with a wire is gone.
    """
    fitted = copy.deepcopy(workflow)
    for graph in [fitted, *fitted.get("definitions", {}).get("subgraphs", [])]:
        for node in graph["nodes"]:
            if node["type"] not in info:  # notes and subgraphs are the page's own
                continue
            before = wired(node)
            fit_inputs(node, info[node["type"]])
            fit_outputs(node, info[node["type"]])
            if lost := before - wired(node):
                raise ValueError(
                    f"{node['type']} (node {node['id']}) has no {', '.join(sorted(lost))} any more "
                    "that a wire could reach. Take the wire away, or give the slot its new name."
                )
        place_links(graph)
    return fitted


def wired(node: Entry) -> set[str]:
    """The names of the slots that have a wire."""
    inputs = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
    return inputs | {slot["name"] for slot in node["outputs"] if slot["links"]}


def fit_inputs(node: Entry, schema: Entry) -> None:
    """Write the node's inputs, sockets first, and its widgets' values in the schema's order."""
    values, links = widget_values(node), {slot["name"]: slot["link"] for slot in node["inputs"]}
    sockets: list[Entry] = []
    widgets: list[Entry] = []
    saved: list[Any] = []
    for name, spec in schema_inputs(schema["input"], schema.get("input_order")):
        kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
        if isinstance(kind, list):  # the old way to write a combo
            kind, options = "COMBO", {**options, "options": kind}
        slot, wire = {"name": name, "type": kind}, {"link": links.get(name)}
        if is_widget(kind, options):
            widgets.append(slot | {"widget": {"name": name}} | wire)
            saved.append(values.get(name, default_of(options)))
            saved += ["fixed"] if has_seed_control(name, options) else []
            saved += ["image"] if options.get("image_upload") else []
        elif kind == "COMFY_AUTOGROW_V3":
            sockets += [old for old in node["inputs"] if old["name"].startswith(f"{name}.")]
        else:
            optional = name in (schema["input"].get("optional") or {})
            sockets.append(slot | wire | ({"shape": 7} if optional else {}))
    node["inputs"], node["widgets_values"] = sockets + widgets, saved


def default_of(options: dict[str, Any]) -> Any:
    return options.get("default", next(iter(options.get("options") or [""])))


def fit_outputs(node: Entry, schema: Entry) -> None:
    """Write the node's outputs; one that takes the type of its wire keeps it."""
    old = {slot["name"]: slot for slot in node["outputs"]}
    node["outputs"] = []
    for name, kind in zip(schema["output_name"], schema["output"], strict=True):
        slot = old.get(name, {"name": name, "type": kind, "links": None})
        of_wire = kind == "*" or kind.startswith("COMFY_MATCHTYPE")
        node["outputs"].append(slot if of_wire else slot | {"type": kind})


def place_links(graph: dict[str, Any]) -> None:
    """Write at each link the places of the two slots that it joins."""
    sources: dict[int, int] = {}
    targets: dict[int, int] = {}
    for node in graph["nodes"]:
        for place, slot in enumerate(node["outputs"]):
            sources |= dict.fromkeys(slot["links"] or [], place)
        targets |= {slot["link"]: place for place, slot in enumerate(node["inputs"])}
    for link in graph["links"]:
        by_place = isinstance(link, list)  # a workflow's; a subgraph has them by name
        number, source, target = (0, 2, 4) if by_place else ("id", "origin_slot", "target_slot")
        link[source] = sources.get(link[number], link[source])  # else an end of the subgraph
        link[target] = targets.get(link[number], link[target])


def left_behind(info: ObjectInfo) -> dict[Path, str]:
    """The files that are not in step with the schemas -> their content, were they so."""
    found = {}
    for path in workflow_files():
        before = path.read_text(encoding="utf-8")
        after = json.dumps(in_step(json.loads(before), info), indent=1) + "\n"
        if before != after:
            found[path] = after
    return found


def main() -> int:
    """-> 1 where files are left behind."""
    exit_on_terminate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the files")
    update = parser.parse_args().update
    with ComfyServer() as server:
        found = left_behind(server.object_info())
    for path, content in found.items():
        print(path.parent.name, path.name, sep="/")
        if update:
            path.write_text(content, encoding="utf-8")
    return 1 if found and not update else 0


if __name__ == "__main__":
    sys.exit(main())
