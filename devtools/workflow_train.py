"""workflows/train_detex.json: your checkpoint and photos, with the paper's settings."""

from .workflow_json import WIDTH, Group, Node, link, node, note
from .workflow_parts import (
    BLUE,
    GREEN,
    SAMPLER,
    SIDE,
    TRAINING,
    decode,
    empty_latent,
    load_checkpoint,
    prior_prompt,
    sample,
)

VISION = "clip-vit-large-patch14.safetensors"


def train_detex() -> list[list[Group]]:
    """Your checkpoint and photos -> a concept file, with the paper's settings."""
    return [
        [
            Group("1  Checkpoint and class word", own_files(), GREEN),
            Group("2  Your photos, with the subject masked", own_photos(), GREEN),
        ],
        [
            Group("3  Prior images: what the checkpoint itself calls a dog", own_prior(), GREEN),
            Group("4  Learn, and save", own_training(), BLUE),
        ],
    ]


def own_files() -> list[list[Node]]:
    start = note(
        "start",
        "**Learn your subject from 3 to 5 photos**, in different poses and places if you can.\n\n"
        "1. Choose your checkpoint and CLIP Vision model, and write what the photos show: dog, "
        "boot, teapot.\n"
        "2. Choose a photo in each **Load Image**. Fewer photos: delete a node. More: copy one "
        "and wire it into both lists.\n"
        "3. Right-click each, **Open in MaskEditor**, paint over the *subject*, save.\n"
        "4. Press **Run**.",
        title="Start here",
    )
    files = note(
        "files",
        "**Checkpoint**: any Stable Diffusion 1.x or 2.x model in models/checkpoints.\n\n"
        "**CLIP Vision**: OpenAI's CLIP ViT-L/14: the file model.safetensors of "
        "openai/clip-vit-large-patch14 on Hugging Face, renamed, in models/clip_vision.",
        title="Files",
    )
    checkpoint = load_checkpoint()
    vision = node("vision", "CLIPVisionLoader", size=(360, 58), clip_name=VISION)
    word = node("word", "PrimitiveString", title="Class word", size=(360, 58), value="dog")
    return [[start, files], [checkpoint, vision, word]]


def own_photos() -> list[list[Node]]:
    photos = [
        node(f"photo{i}", "LoadImage", title=f"Photo {i}", size=(260, 300), image=f"photo_{i}.png")
        for i in range(1, 5)
    ]
    masks = note(
        "mask_note",
        "White in a mask is the subject. A picture whose *surroundings* are transparent gives the "
        "opposite: put **Invert Mask** behind it.\n\n"
        "The first photo is **[P1]** and **[B1]**, the second **[P2]** and **[B2]**, and so on.",
        title="Masks and numbers",
        width=WIDTH,
    )
    subject = node(
        "subject",
        "DETEXSubjectImages",
        size=(WIDTH, 260),
        images=link("images.list"),
        masks=link("masks.list"),
        clip_vision=link("vision.CLIP_VISION"),
        vae=link("checkpoint.VAE"),
        class_word=link("word.STRING"),
        resolution=SIDE,
    )
    lists = [collect("images", "IMAGE"), collect("masks", "MASK")]
    return [photos[:2], photos[2:], lists, [subject, masks]]


def collect(name: str, output: str) -> Node:
    """A list of that output of the four photos; a list lets each photo keep its size."""
    wires = {f"inputs.input{i}": link(f"photo{i + 1}.{output}") for i in range(4)}
    return node(name, "CreateList", title=f"All {name}", size=(200, 130), **wires)


def own_prior() -> list[list[Node]]:
    why = note(
        "prior_note",
        "Pictures of *any* dog, painted by the checkpoint itself, keep the word **dog** from "
        "becoming your dog. The paper uses 200. With less time, lower **batch_size** in Empty "
        "Latent Image (100 is a fair choice).\n\n"
        "**Rebatch Latents** paints them 4 at a time, so that they fit the graphics card; "
        "**Rebatch Images** makes one batch of them again. They are made once and kept until you "
        "change something here.",
        title="Why?",
        width=WIDTH,
    )
    latent = empty_latent("prior_latent", SIDE, 200)
    few = node("few", "RebatchLatents", latents=link("prior_latent.LATENT"), batch_size=4)
    wires = ("checkpoint.MODEL", "prior_prompt.CONDITIONING", "nothing.CONDITIONING", "few.LATENT")
    sampler = sample("prior_sample", *wires, seed=1, **SAMPLER)
    pixels = decode("prior_pixels", "prior_sample.LATENT", "checkpoint.VAE")
    whole = node(
        "prior_images", "RebatchImages", images=link("prior_pixels.IMAGE"), batch_size=4096
    )
    words = prior_prompt("word.STRING", "checkpoint.CLIP")
    return [words, [latent, few, why], [sampler, pixels, whole]]


def own_training() -> list[list[Node]]:
    train = node(
        "train",
        "DETEXTrain",
        size=TRAINING,
        model=link("checkpoint.MODEL"),
        clip=link("checkpoint.CLIP"),
        subject=link("subject.subject"),
        prior_images=link("prior_images.IMAGE"),
    )
    settings = note(
        "settings",
        "The settings are the paper's: 600 steps of 4 photos and 4 prior images, learning rate "
        "1e-5.\n\n"
        "While it trains, the node shows samples. **Cancel** whenever you like: run it again, and "
        "it goes on where it stopped.\n\n"
        "The file goes to models/detex. Then open the template **use_concept**.",
        title="Settings",
    )
    save = node("save", "DETEXSaveEmbeddings", size=(360, 180), concept=link("train.concept"))
    graph = node("loss", "LossGraphNode", size=(400, 330), loss=link("train.loss_map"))
    return [[train], [settings, save], [graph]]
