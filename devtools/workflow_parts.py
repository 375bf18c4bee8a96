"""Nodes that the bundled workflows have in common."""

from typing import Any

from .workflow_json import Node, link, node

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
SIDE = 512
SAMPLER = {"steps": 50, "cfg": 6.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
PICTURE = (300, 330)
TRAINING = (400, 800)  # DETEX Train with its live picture and its text
GREEN, BLUE, PURPLE = "#8aa88a", "#88aacc", "#aa8fcc"  # of group frames and headings


def load_checkpoint() -> Node:
    return node("checkpoint", "CheckpointLoaderSimple", size=(360, 98), ckpt_name=CHECKPOINT)


def preview(name: str, title: str, source: str, size: tuple[int, int] = PICTURE) -> Node:
    return node(name, "PreviewImage", title=title, size=size, images=link(source))


def enlarged(name: str, source: str) -> Node:
    """The demo model's small pictures, large enough to look at."""
    return node(
        name,
        "ImageScaleBy",
        title="Enlarge to look at",
        image=link(source),
        upscale_method="bicubic",
        scale_by=4.0,
    )


def empty_latent(name: str, side: int, count: int) -> Node:
    return node(name, "EmptyLatentImage", width=side, height=side, batch_size=count)


def negative(name: str, clip: str) -> Node:
    return node(name, "CLIPTextEncode", title="Negative prompt", clip=link(clip), text="")


def prior_prompt(class_word: str, clip: str) -> list[Node]:
    """A column with the prompt of the prior images, "photo of a dog", and an empty negative one."""
    words = node(
        "prior_text",
        "StringFormat",
        title="photo of a (class word)",
        size=(300, 130),
        **{"values.a": link(class_word)},
        f_string="photo of a {a}",
    )
    text = link("prior_text.STRING")
    prompt = node("prior_prompt", "CLIPTextEncode", size=(300, 96), clip=link(clip), text=text)
    nothing = negative("nothing", clip)
    nothing.size = (300, 96)
    return [words, prompt, nothing]


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
