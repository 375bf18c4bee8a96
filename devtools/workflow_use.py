"""workflows/use_concept.json and attention_preview.json: what a saved concept is good for."""

from .workflow_nodes import Group, Node, link, node, note
from .workflow_parts import (
    BLUE,
    GREEN,
    PURPLE,
    SAMPLER,
    SIDE,
    compose,
    decode,
    empty_latent,
    load_checkpoint,
    negative,
    preview,
    sample,
)

CONCEPT = "my_subject.safetensors"


def use_concept() -> list[list[Group]]:
    """A saved concept -> pictures."""
    start = note(
        "start",
        "**Use a subject that you have learned.**\n\n"
        "1. Choose the checkpoint it was learned on, and its file. Not in the list? Press **R**.\n"
        "2. The contact sheet shows which photo each number stands for.\n"
        "3. Write your prompt, press **Run**.",
        title="Start here",
    )
    checkpoint = load_checkpoint()
    load = load_concept()
    text = "photo of a [V] dog"
    prompt = compose("prompt", "checkpoint.CLIP", "load.concept", text, pose=1, background=2)
    advice = note(
        "advice",
        "**pose** 1 gives the pose of photo 1, **background** 2 the background of photo 2; 0 "
        "leaves the choice to your words. The same written by hand:\n\n"
        "*photo of a [V] dog with [P1] pose in [B2] background*\n\n"
        "Try also\n"
        "- *photo of a [V] dog on the beach*, with background 0\n"
        "- *a watercolor of a ([V]:1.2) dog with [P2] pose*\n\n"
        "Write **[V]** right before the class word that you trained with.",
        title="Prompts",
    )
    nothing = negative("negative", "checkpoint.CLIP")
    wires = ("load.model", "prompt.conditioning", "negative.CONDITIONING", "latent.LATENT")
    return [
        [
            Group(
                "1  The learned subject",
                [
                    [start, checkpoint, load],
                    [preview("sheet", "Which photo is which", "load.contact_sheet", (420, 520))],
                ],
                GREEN,
            ),
            Group("2  What to paint", [[prompt, nothing], [advice]], BLUE),
            Group(
                "3  Paint",
                [
                    [
                        empty_latent("latent", SIDE, 4),
                        sample("sample", *wires, seed=7, **SAMPLER),
                        decode("pixels", "sample.LATENT", "checkpoint.VAE"),
                    ],
                    [
                        node(
                            "pictures",
                            "SaveImage",
                            size=(480, 520),
                            images=link("pixels.IMAGE"),
                            filename_prefix="detex",
                        )
                    ],
                ],
                PURPLE,
            ),
        ]
    ]


def attention_preview() -> list[list[Group]]:
    """Attention maps: of the words of any prompt, and of [V], [P], [B]."""
    return [
        [
            Group(
                "A  Any prompt, any Stable Diffusion 1.x, 2.x or XL checkpoint", stock_maps(), BLUE
            )
        ],
        [Group("B  The words of a learned subject", concept_maps(), PURPLE)],
    ]


def stock_maps() -> list[list[Node]]:
    start = note(
        "start",
        "**See where the words of a prompt look.**\n\n"
        "List the words in **Capture Attention**, separated by commas, as they stand in the "
        "prompt. It goes between the model and any sampler and does not change the picture.\n\n"
        "No concept file yet? Select the nodes of group B and press **Ctrl+M** to mute them.",
        title="Start here",
    )
    checkpoint = load_checkpoint()
    text = node(
        "text",
        "PrimitiveStringMultiline",
        title="Prompt",
        size=(360, 110),
        value="a dog and a red ball on the beach",
    )
    prompt = node(
        "prompt",
        "CLIPTextEncode",
        size=(360, 96),
        clip=link("checkpoint.CLIP"),
        text=link("text.STRING"),
    )
    capture = watch("capture", "checkpoint.MODEL", "text.STRING", "dog, red ball, beach")
    wires = ("capture.model", "prompt.CONDITIONING", "negative.CONDITIONING", "latent.LATENT")
    nothing = negative("negative", "checkpoint.CLIP")
    nothing.size = (360, 96)
    return [
        [start, checkpoint],
        [text, prompt, nothing],
        [capture, empty_latent("latent", SIDE, 1)],
        *maps_of("stock", wires, "Where each word looks"),
    ]


def concept_maps() -> list[list[Node]]:
    load = load_concept()
    text = "photo of a [V] dog"
    prompt = compose("words", "checkpoint.CLIP", "load.concept", text, pose=1, background=2)
    capture = watch("watch", "load.model", "words.text", "[V], dog, [P1], [B2]")
    wires = ("watch.model", "words.conditioning", "negative.CONDITIONING", "latent.LATENT")
    right = note(
        "right",
        "In a well-learned concept **[V]** and **[P1]** look at the subject, **[B2]** at "
        "everything around it.",
        title="What to look for",
    )
    shown = maps_of("concept", wires, "Where the learned words look")
    return [[load, right], [prompt], [capture], *shown]


def load_concept() -> Node:
    wire = link("checkpoint.MODEL")
    return node("load", "DETEXLoadEmbeddings", size=(360, 122), model=wire, file=CONCEPT)


def watch(name: str, model: str, text: str, words: str) -> Node:
    return node(
        name,
        "DETEXCaptureAttention",
        size=(360, 170),
        model=link(model),
        clip=link("checkpoint.CLIP"),
        text=link(text),
        words=words,
    )


def maps_of(name: str, wires: tuple[str, str, str, str], shown: str) -> list[list[Node]]:
    """Sample through Capture Attention (wires[0]) and draw its maps."""
    capture = wires[0].split(".")[0]
    maps = node(
        f"{name}_maps",
        "DETEXAttentionPreview",
        attention=link(f"{capture}.attention"),
        image=link(f"{name}_pixels.IMAGE"),
    )
    return [
        [
            sample(f"{name}_sample", *wires, seed=7, **SAMPLER),
            decode(f"{name}_pixels", f"{name}_sample.LATENT", "checkpoint.VAE"),
            maps,
        ],
        [preview(f"{name}_shown", shown, f"{name}_maps.heat_maps", (860, 460))],
    ]
