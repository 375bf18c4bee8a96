"""What the workflows of the demo model have in common: a toy that is learned once, and pictures."""

from typing import Any

from .workflow_nodes import WIDTH, Group, Node, link, node
from .workflow_parts import (
    GREEN,
    PURPLE,
    TRAINING,
    class_priors,
    compose,
    decode,
    empty_latent,
    negative,
    preview,
    sample,
)

# The rates were chosen on two subjects that no report uses, see docs/base_model.md; the steps by
# the sweep in docs/science.md.
DEMO_TRAINING: dict[str, Any] = {
    "steps": 300,
    "learning_rate": 2.5e-4,
    "token_rate": 4.0,
    "mapper_rate": 0.4,
}
DEMO_PRIORS = 32
DEMO_SIDE = 64  # pixels
DEMO_SAMPLER = {"steps": 30, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "normal"}


def demo_model() -> Node:
    return node("demo", "DETEXDemoModel")


def learned_toy(title: str, first: list[Node], number: int = 1, mark: str = "") -> Group:
    """A group that learns toy `number`; its nodes end in `mark`, the concept is "train.concept".

    Every workflow has the same settings, so that DETEX Train finds the toy of another one on disk.
    """
    photos = node(f"photos{mark}", "DETEXDemoSubject", number=number, count=4, seed=0)
    word = f"photos{mark}.class_word"
    subject = node(
        f"subject{mark}",
        "DETEXSubjectImages",
        size=(WIDTH, 260),
        images=link(f"photos{mark}.images"),
        masks=link(f"photos{mark}.masks"),
        clip_vision=link("demo.clip_vision"),
        vae=link("demo.vae"),
        class_word=link(word),
        resolution=DEMO_SIDE,
    )
    wires = ("demo.model", "demo.clip", "demo.vae", word)
    priors = class_priors(
        f"priors{mark}", *wires, count=DEMO_PRIORS, resolution=DEMO_SIDE, **DEMO_SAMPLER
    )
    train = node(
        f"train{mark}",
        "DETEXTrain",
        size=TRAINING,
        model=link("demo.model"),
        clip=link("demo.clip"),
        subject=link(f"subject{mark}.subject"),
        prior_images=link(f"priors{mark}.images"),
        **DEMO_TRAINING,
    )
    columns = [first, [photos, subject, priors], [train]]
    return Group(title, [column for column in columns if column], GREEN)


def applied(concept: str, sheet: tuple[int, int] = (420, 200)) -> list[Node]:
    """A column with the concept on the model, and its photos with their numbers."""
    apply = node(
        "apply",
        "DETEXApplyEmbeddings",
        size=(300, 98),
        model=link("demo.model"),
        concept=link(concept),
    )
    return [apply, preview("sheet", "Which photo is which", "apply.contact_sheet", sheet)]


def canvas(count: int) -> list[Node]:
    """A column with what every picture starts from: an empty latent and no negative prompt."""
    nothing = negative("nothing", "demo.clip")
    nothing.size = (300, 96)
    return [empty_latent("latent", DEMO_SIDE, count), nothing]


def painted(
    title: str, name: str, text: str, shown: str, *, pose: int = 0, background: int = 0
) -> Group:
    """A group that paints a prompt with the learned words."""
    prompt = compose(name, "demo.clip", "apply.concept", text, pose=pose, background=background)
    sampler = demo_sample(name, "apply.model", f"{name}.conditioning")
    return Group(title, [[prompt, sampler], enlarged_pictures(name, shown)], PURPLE)


def demo_sample(name: str, model: str, positive: str) -> Node:
    wires = (model, positive, "nothing.CONDITIONING", "latent.LATENT")
    return sample(f"{name}_sample", *wires, seed=7, **DEMO_SAMPLER)


def enlarged_pictures(name: str, shown: str) -> list[Node]:
    """A column that decodes what `{name}_sample` made and shows it."""
    return [
        decode(f"{name}_pixels", f"{name}_sample.LATENT", "demo.vae"),
        enlarged(f"{name}_larger", f"{name}_pixels.IMAGE"),
        preview(f"{name}_shown", shown, f"{name}_larger.IMAGE", (300, 310)),
    ]


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
