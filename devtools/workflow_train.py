"""workflows/train_detex.json, train_folder.json and train_many.json: your checkpoint and photos."""

from .workflow_nodes import WIDTH, Group, Node, link, node, note
from .workflow_parts import (
    BLUE,
    GREEN,
    SIDE,
    TRAINING,
    class_priors,
    load_checkpoint,
    preview,
)

VISION = "clip-vit-large-patch14.safetensors"
SAM = "sam_vit_b_01ec64.pth"


def train_detex() -> list[list[Group]]:
    """Your checkpoint and photos -> a concept file, with the paper's settings."""
    return [
        [
            Group("1  Checkpoint and class word", own_files(), GREEN),
            Group("2  Your photos, with the subject masked", own_photos(), GREEN),
        ],
        [
            Group("3  Prior images", own_prior(), GREEN),
            Group("4  Learn, and save", own_training(), BLUE),
        ],
    ]


def train_folder() -> list[list[Group]]:
    """A folder of photos; segment-anything finds the subject."""
    return [
        [
            Group("1  Checkpoint and folder", folder_files(), GREEN),
            Group("2  Find the subject", found_subject(), GREEN),
        ],
        [
            Group("3  Prior images", own_prior(), GREEN),
            Group("4  Learn, and save", own_training(), BLUE),
        ],
    ]


def train_many() -> list[list[Group]]:
    """A subject for each row of a table, with `python -m detex.batch`."""
    subject = subject_images("photos.images", "photos.masks")
    return [
        [
            Group("1  Checkpoint, folder and class word", table_files(), GREEN),
            Group("2  The subject", [[subject], [seen()]], GREEN),
        ],
        [
            Group("3  Prior images", own_prior(), GREEN),
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
        "4. Press **Run**.\n\n"
        "Many photos, or no wish to paint? Open the template **train_folder**.",
        title="Start here",
    )
    return [[start, needed_files()], models()]


def needed_files() -> Node:
    return note(
        "files",
        "**Checkpoint**: any Stable Diffusion 1.x, 2.x or XL model in models/checkpoints.\n\n"
        "**CLIP Vision**: OpenAI's CLIP ViT-L/14: the file model.safetensors of "
        "openai/clip-vit-large-patch14 on Hugging Face, renamed, in models/clip_vision.",
        title="Files",
    )


def models() -> list[Node]:
    """A column with the checkpoint, CLIP Vision and the class word."""
    checkpoint = load_checkpoint()
    vision = node("vision", "CLIPVisionLoader", size=(360, 58), clip_name=VISION)
    word = node("word", "PrimitiveString", title="Class word", size=(360, 58), value="dog")
    return [checkpoint, vision, word]


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
    lists = [collect("images", "IMAGE"), collect("masks", "MASK")]
    subject = subject_images("images.list", "masks.list")
    return [photos[:2], photos[2:], lists, [subject, masks], [seen()]]


def subject_images(images: str, masks: str) -> Node:
    return node(
        "subject",
        "DETEXSubjectImages",
        size=(WIDTH, 260),
        images=link(images),
        masks=link(masks),
        clip_vision=link("vision.CLIP_VISION"),
        vae=link("checkpoint.VAE"),
        class_word=link("word.STRING"),
        resolution=SIDE,
    )


def seen() -> Node:
    return preview("seen", "Bright is the subject", "subject.preview", (440, 480))


def collect(name: str, output: str) -> Node:
    """A list of that output of the four photos; a list lets each photo keep its size."""
    wires = {f"inputs.input{i}": link(f"photo{i + 1}.{output}") for i in range(4)}
    return node(name, "CreateList", title=f"All {name}", size=(200, 130), **wires)


def own_prior() -> list[list[Node]]:
    why = note(
        "prior_note",
        "Pictures of *any* dog, painted by the checkpoint itself, keep the word **dog** from "
        "becoming your dog. The paper uses 200; with less time, 100 is a fair **count**.\n\n"
        "They are made once and kept on disk; after a cancel only what is missing is made. With "
        "**lambda_pr** 0 they are not made at all.",
        title="Why?",
    )
    wires = ("checkpoint.MODEL", "checkpoint.CLIP", "checkpoint.VAE", "word.STRING")
    return [[class_priors("priors", *wires), why]]


def own_training() -> list[list[Node]]:
    train = node(
        "train",
        "DETEXTrain",
        size=TRAINING,
        model=link("checkpoint.MODEL"),
        clip=link("checkpoint.CLIP"),
        subject=link("subject.subject"),
        prior_images=link("priors.images"),
    )
    settings = note(
        "settings",
        "The settings are the paper's: 600 steps of 4 photos and 4 prior images, learning rate "
        "1e-5. Three folded ones are not, because they do better: **subject_attention** and "
        "**center_poses** here, and **blank** of Subject Images.\n\n"
        "While it trains, the node shows samples. **Cancel** whenever you like: run it again, and "
        "it goes on where it stopped.\n\n"
        "The file goes to models/detex. Then open the template **use_concept**.",
        title="Settings",
    )
    save = node("save", "DETEXSaveEmbeddings", size=(360, 180), concept=link("train.concept"))
    graph = node("loss", "LossGraphNode", size=(400, 330), loss=link("train.loss_map"))
    return [[train], [settings, save], [graph]]


def folder_files() -> list[list[Node]]:
    start = note(
        "start",
        "**Learn from a folder of photos, without painting masks.**\n\n"
        "1. Choose your checkpoint and CLIP Vision model, and write what the photos show.\n"
        "2. Give the **folder**: a path, or the name of a folder in ComfyUI's input folder.\n"
        "3. Press **Run**, and **Cancel** once group 2 shows its pictures.\n"
        "4. Is a photo cut out wrongly? Type the number of a better candidate in **choice**: "
        "*2:3* takes candidate 3 of photo 2. Press **Run** again.",
        title="Start here",
    )
    folder = node("photos", "DETEXLoadSubjectFolder", size=(360, 190), folder="my_subject")
    return [[start, needed_files()], [*models(), folder]]


def found_subject() -> list[list[Node]]:
    mask = node(
        "mask", "DETEXSubjectMask", size=(520, 620), checkpoint=SAM, images=link("photos.images")
    )
    note_on_masks = note(
        "mask_note",
        "**Subject Mask** needs the package segment-anything and a checkpoint in models/sams; its "
        "help page says how. No wish for it? Put *dog.mask.png* beside *dog.jpg* (white on the "
        "subject) and wire **masks** of Load Subject Folder into Subject Images.",
        title="Masks",
        width=WIDTH,
    )
    subject = subject_images("photos.images", "mask.masks")
    return [[mask], [subject, note_on_masks], [seen()]]


def table_files() -> list[list[Node]]:
    start = note(
        "start",
        "**Learn one subject after the other, from a table.** The table *train_many.csv* beside "
        "this workflow has a row for each: folder, class word, name.\n\n"
        "1. Choose your checkpoint and CLIP Vision model here, and save the workflow.\n"
        "2. Each folder holds the photos of one subject, with the mask of *dog.jpg* beside it as "
        "*dog.mask.png*, white on the subject.\n"
        "3. In a terminal: `python -m detex.batch --workflow train_many.json --table "
        "train_many.csv --out trained`.\n\n"
        "It uses one card or many, goes on where it was stopped, and brings the concepts to "
        "*trained*: docs/batch_rendering.md of this pack.",
        title="Start here",
    )
    folder = node("photos", "DETEXLoadSubjectFolder", size=(360, 190), folder="my_subject")
    return [[start, needed_files()], [*models(), folder]]
