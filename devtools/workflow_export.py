"""workflows/export_concept.json: the files of a concept, and the same picture without this pack."""

from .workflow_mix import ONCE
from .workflow_nodes import MUTED, Group, Node, link, node, note
from .workflow_parts import BLUE, PURPLE
from .workflow_toy import (
    applied,
    canvas,
    demo_model,
    demo_sample,
    enlarged_pictures,
    learned_toy,
    painted,
)

NAME = "toy_export"
PLACE = "ball in water background"


def export_concept() -> list[list[Group]]:
    """A concept -> a LoRA file and embedding files that stock nodes read."""
    start = note(
        "start",
        "**Use a subject without this pack.** Press **Run**: group 2 writes its files.\n\n"
        "Then press **R**, so that the page finds them, select all nodes of group 5, press "
        "**Ctrl+M** to wake them, and press **Run** again.\n\n"
        f"{ONCE}",
        title="Start here",
    )
    return [
        [
            learned_toy("1  Learn a toy, once", [start, demo_model()]),
            Group("2  Write its files", files(), BLUE),
        ],
        [
            Group("3  Its words", [applied("train.concept"), canvas(4)], BLUE),
            painted("4  With this pack", "ours", f"photo of a [V] {PLACE}", "With [V]"),
            Group("5  The same with ComfyUI's own nodes", stock_nodes(), PURPLE),
        ],
    ]


def files() -> list[list[Node]]:
    exact = node(
        "exact",
        "DETEXSaveEmbeddings",
        title="Exact LoRA",
        size=(360, 330),
        concept=link("train.concept"),
        name=NAME,
    )
    small = node(
        "small",
        "DETEXSaveEmbeddings",
        title="LoRA of low rank, and diffusers",
        size=(360, 330),
        concept=link("train.concept"),
        name=f"{NAME}_small",
        lora_share=0.6,
        diffusers_folder=True,
    )
    what = note(
        "what",
        "**models/detex**: the concept, for this pack.\n\n"
        "**models/loras**: the deltas as a LoRA, for **Load LoRA**, A1111 and Forge. Exact, or "
        "smaller and a little off where **lora_share** is below 1.\n\n"
        "**models/embeddings**: one file for each word, for prompts: *embedding:toy_export_v*.\n\n"
        "**models/diffusers**: with **diffusers_folder**, a folder for Python's diffusers.\n\n"
        "**dry_run** writes nothing, but shows what would be, and how good the LoRA is. These "
        "three inputs are folded: right-click, *Show Advanced*.\n\n"
        "A file is never replaced: a second Save takes the next free number.",
        title="Which file is for what",
    )
    return [[exact, small], [what]]


def stock_nodes() -> list[list[Node]]:
    """Muted: the page knows the file only after group 2 has run."""
    lora = node(
        "lora",
        "LoraLoaderModelOnly",
        size=(360, 82),
        model=link("demo.model"),
        lora_name=f"{NAME}_lora.safetensors",
    )
    text = f"photo of a embedding:{NAME}_v {PLACE}"
    prompt = node("stock", "CLIPTextEncode", size=(360, 110), clip=link("demo.clip"), text=text)
    sampler = demo_sample("stock", "lora.MODEL", "stock.CONDITIONING")
    pictures = enlarged_pictures("stock", "With its LoRA and its embedding")
    columns = [[lora, prompt, sampler], pictures]
    for item in [item for column in columns for item in column]:
        item.mode = MUTED
    return columns
