"""API graphs: those that the demo and the batch jobs queue, and what becomes of a workflow's."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

DEMO_SIDE = 64  # pixels, of the demo model
DEMO_SIZES = {  # by node type
    "EmptyLatentImage": {"width": DEMO_SIDE, "height": DEMO_SIDE},
    "DETEXSubjectImages": {"resolution": DEMO_SIDE},
    "DETEXClassPriorImages": {"resolution": DEMO_SIDE},
    "DETEXPlacePictures": {"resolution": DEMO_SIDE},
}
VISION = 3  # output of DETEX Demo Model
STEPS, CFG = 30, 4.0  # of the stock sampler, as the base model's gate

Graph = dict[str, dict[str, Any]]
Wire = list[Any]  # node, number of its output


@dataclass(frozen=True)
class Branch:
    """One prompt: its name in the graph, and what is rendered."""

    name: str
    text: str
    seed: int
    count: int
    pose: int = 0
    background: int = 0
    model: str = "load"  # the node whose MODEL samples: "demo" is the base model alone


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def demo_model() -> Graph:
    """The demo model, and its empty prompt."""
    return {
        "demo": node("DETEXDemoModel"),
        "empty": node("CLIPTextEncode", clip=["demo", 1], text=""),
    }


def sampled(
    name: str,
    model: Wire,
    positive: Wire,
    *,
    seed: int,
    count: int = 1,
    steps: int = STEPS,
    negative: Sequence[Any] = ("empty", 0),
    base: str = "demo",
) -> Graph:
    """Sampling at the demo model's size; "{name} pixels" has the pictures. base: who loads."""
    sampler = {"sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0}
    wires = {"model": model, "positive": positive, "negative": [*negative]}
    wires["latent_image"] = [f"{name} latent", 0]
    size = {"width": DEMO_SIDE, "height": DEMO_SIDE, "batch_size": count}
    return {
        f"{name} latent": node("EmptyLatentImage", **size),
        f"{name} sample": node("KSampler", **wires, seed=seed, steps=steps, cfg=CFG, **sampler),
        f"{name} pixels": node("VAEDecode", samples=[f"{name} sample", 0], vae=[base, 2]),
    }


def toys(steps: int) -> Graph:
    """The demo model draws a ball."""
    return {
        **demo_model(),
        "text": node("CLIPTextEncode", clip=["demo", 1], text="a ball"),
        **sampled("toy", ["demo", 0], ["text", 0], seed=0, steps=steps),
        "save": node("SaveImage", images=["toy pixels", 0], filename_prefix="toy"),
    }


def render_graph(file: str, branches: Sequence[Branch]) -> Graph:
    """Every branch on the demo model with this concept, saved by a node of the branch's name."""
    load = node("DETEXLoadEmbeddings", model=["demo", 0], file=file, strength=1.0)
    graph = demo_model() | {"load": load}
    for branch in branches:
        name, prompt = branch.name, f"{branch.name} prompt"
        words = {"text": branch.text, "pose": branch.pose, "background": branch.background}
        wires = {"clip": ["demo", 1], "concept": ["load", 1]}
        graph[prompt] = node("DETEXComposePrompt", **wires, **words)
        model = [branch.model, 0]
        graph |= sampled(name, model, [prompt, 0], seed=branch.seed, count=branch.count)
        graph[name] = node("SaveImage", images=[f"{name} pixels", 0], filename_prefix=name)
    return graph


def upstream(graph: Graph, titles: Collection[str]) -> Graph:
    """The nodes of these titles, and all that they need."""
    wanted = [number for number, entry in graph.items() if entry["_meta"]["title"] in titles]
    kept: Graph = {}
    while wanted:
        number = wanted.pop()
        kept[number] = graph[number]
        wanted += [v[0] for v in graph[number]["inputs"].values() if isinstance(v, list)]
    return kept


def with_demo_model(graph: Graph) -> Graph:
    """The graph with the demo model for Load Checkpoint and Load CLIP Vision, at its size, and
    with the folder's own masks for those of segment-anything.
    """
    moved: dict[tuple[str, int], Wire] = {}
    for number, entry in list(graph.items()):
        entry["inputs"] |= DEMO_SIZES.get(entry["class_type"], {})
        if entry["class_type"] == "CLIPVisionLoader":
            moved[number, 0] = [number, VISION]
        if entry["class_type"] == "DETEXSubjectMask":
            folder = entry["inputs"]["images"][0]
            moved[number, 0] = [folder, 1]
            del graph[number]
        if entry["class_type"] in ("CheckpointLoaderSimple", "CLIPVisionLoader"):
            entry |= {"class_type": "DETEXDemoModel", "inputs": {}}
    for entry in graph.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, list):
                entry["inputs"][name] = moved.get((value[0], value[1]), value)
    return graph
