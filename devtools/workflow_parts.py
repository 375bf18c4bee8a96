"""Nodes that the bundled workflows have in common."""

from typing import Any

from .workflow_nodes import WIDTH, Node, link, node

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
SIDE = 512
SAMPLER = {"steps": 50, "cfg": 6.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
PICTURE = (300, 330)
TRAINING = (400, 800)  # DETEX Train with its live picture and its text
PRIORS = (WIDTH, 460)  # Class Prior Images with the newest picture and its text
GREEN, BLUE, PURPLE = "#8aa88a", "#88aacc", "#aa8fcc"  # of group frames and headings


def load_checkpoint() -> Node:
    return node("checkpoint", "CheckpointLoaderSimple", size=(360, 98), ckpt_name=CHECKPOINT)


def preview(name: str, title: str, source: str, size: tuple[int, int] = PICTURE) -> Node:
    return node(name, "PreviewImage", title=title, size=size, images=link(source))


def empty_latent(name: str, side: int, count: int) -> Node:
    return node(name, "EmptyLatentImage", width=side, height=side, batch_size=count)


def negative(name: str, clip: str) -> Node:
    return node(name, "CLIPTextEncode", title="Negative prompt", clip=link(clip), text="")


def class_priors(
    name: str, model: str, clip: str, vae: str, class_word: str, **settings: Any
) -> Node:
    wires = {"model": model, "clip": clip, "vae": vae, "class_word": class_word}
    inputs = {key: link(value) for key, value in wires.items()}
    return node(name, "DETEXClassPriorImages", size=PRIORS, **inputs, **settings)


def sample(name: str, model: str, positive: str, negative: str, latent: str, **more: Any) -> Node:
    wires = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return node(name, "KSampler", **{key: link(value) for key, value in wires.items()}, **more)


def decode(name: str, samples: str, vae: str) -> Node:
    return node(name, "VAEDecode", samples=link(samples), vae=link(vae))


def compose(
    name: str, clip: str, concept: str, text: str, pose: int = 0, background: int = 0
) -> Node:
    return node(
        name,
        "DETEXComposePrompt",
        size=(360, 230),
        clip=link(clip),
        concept=link(concept),
        text=text,
        pose=pose,
        background=background,
    )
