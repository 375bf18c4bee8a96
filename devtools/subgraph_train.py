"""subgraphs/Train a subject.json: photos in, a concept file out."""

from .workflow_nodes import WIDTH, Group, Node, link, node
from .workflow_parts import BLUE, GREEN, PRIORS, SIDE, TRAINING, preview
from .workflow_subgraph import Blueprint, port


def train_a_subject() -> Blueprint:
    """Photos, masks and a checkpoint -> a concept, saved."""
    return Blueprint(
        name="Train a subject",
        description="Learns your subject from 3 to 5 photos and their masks, apart from its pose "
        "and background, and saves it to models/detex. Open it to change more, and, "
        "with Nodes 2.0 off, to watch it learn.",
        category="DETEX",
        rows=[
            [
                Group("1  What the photos show", settings(), GREEN),
                Group("2  Photos and prior images", pictures(), GREEN),
                Group("3  Learn, and save", training(), BLUE),
            ]
        ],
        inputs=[
            port("model", "train.model", "priors.model"),
            port("clip", "train.clip", "priors.clip"),
            port("vae", "subject.vae", "priors.vae"),
            port("clip_vision", "subject.clip_vision"),
            port("images", "subject.images"),
            port("masks", "subject.masks"),
            port("class_word", "word.value"),
            port("resolution", "side.value"),
            port("prior_images", "priors.count"),
            port("steps", "train.steps"),
            port("learning_rate", "train.learning_rate"),
            port("seed", "train.seed"),
            port("name", "save.name"),
        ],
        outputs=[
            port("concept", "train.concept"),
            port("loss_map", "train.loss_map"),
            port("preview", "subject.preview"),
        ],
        shown="train",
        size=(400, 320),
    )


def settings() -> list[list[Node]]:
    word = node("word", "PrimitiveString", title="Class word", value="dog")
    side = node("side", "PrimitiveInt", title="Resolution", value=SIDE)
    return [[word, side]]


def pictures() -> list[list[Node]]:
    subject = node(
        "subject",
        "DETEXSubjectImages",
        size=(WIDTH, 260),
        class_word=link("word.STRING"),
        resolution=link("side.INT"),
    )
    priors = node(
        "priors",
        "DETEXClassPriorImages",
        size=PRIORS,
        class_word=link("word.STRING"),
        resolution=link("side.INT"),
    )
    return [[subject, priors], [preview("seen", "Bright is the subject", "subject.preview")]]


def training() -> list[list[Node]]:
    train = node(
        "train",
        "DETEXTrain",
        size=TRAINING,
        subject=link("subject.subject"),
        prior_images=link("priors.images"),
    )
    save = node("save", "DETEXSaveEmbeddings", size=(360, 180), concept=link("train.concept"))
    return [[train], [save]]
