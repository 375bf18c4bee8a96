"""API graphs that the demo queues beside the bundled workflows: many prompts of one concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STEPS, CFG = 30, 4.0  # of the stock sampler, as the base model's gate
SIDE = 64  # pixels, of the demo model


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


def base_graph(file: str) -> dict[str, Any]:
    """The demo model with a concept on it."""
    return {
        "demo": node("DETEXDemoModel"),
        "load": node("DETEXLoadEmbeddings", model=["demo", 0], file=file, strength=1.0),
        "empty": node("CLIPTextEncode", clip=["demo", 1], text=""),
    }


def sampled(graph: dict[str, Any], branch: Branch, model: list) -> list:
    """Add one prompt's sampling to the graph -> the link of its decoded pictures."""
    name, side = branch.name, SIDE
    graph[f"{name} prompt"] = node(
        "DETEXComposePrompt",
        clip=["demo", 1],
        concept=["load", 1],
        text=branch.text,
        pose=branch.pose,
        background=branch.background,
    )
    size = {"width": side, "height": side, "batch_size": branch.count}
    graph[f"{name} latent"] = node("EmptyLatentImage", **size)
    graph[f"{name} sample"] = node(
        "KSampler",
        model=model,
        positive=[f"{name} prompt", 0],
        negative=["empty", 0],
        latent_image=[f"{name} latent", 0],
        seed=branch.seed,
        steps=STEPS,
        cfg=CFG,
        sampler_name="ddim",
        scheduler="normal",
        denoise=1.0,
    )
    graph[f"{name} pixels"] = node("VAEDecode", samples=[f"{name} sample", 0], vae=["demo", 2])
    return [f"{name} pixels", 0]


def render_graph(file: str, branches: Sequence[Branch]) -> dict[str, Any]:
    """Every branch rendered and saved by a node of the branch's name."""
    graph = base_graph(file)
    for branch in branches:
        pixels = sampled(graph, branch, [branch.model, 0])
        graph[branch.name] = node("SaveImage", images=pixels, filename_prefix=branch.name)
    return graph


def attention_graph(file: str, class_word: str, seed: int) -> dict[str, Any]:
    """Maps of [V], [P1], [B1] and the class word over four pictures, saved by "heat_maps"."""
    graph = base_graph(file)
    text = f"photo of a [V] {class_word}"
    branch = Branch("maps", text, seed, 4, pose=1, background=1)
    graph["watch"] = node(
        "DETEXCaptureAttention",
        model=["load", 0],
        clip=["demo", 1],
        text=["maps prompt", 1],
        words=f"[V], {class_word}, [P1], [B1]",
    )
    pixels = sampled(graph, branch, ["watch", 0])
    preview = {"attention": ["watch", 1], "image": pixels}
    graph["draw"] = node("DETEXAttentionPreview", **preview)
    graph["heat_maps"] = node("SaveImage", images=["draw", 0], filename_prefix="attention")
    return graph
