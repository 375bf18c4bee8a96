"""workflows/pose_and_background.json and several_concepts.json: words of several photos."""

from .workflow_nodes import Group, Node, link, node, note
from .workflow_parts import BLUE
from .workflow_toy import applied, canvas, demo_model, learned_toy, painted

ONCE = (
    "It learns the toy first, in a minute or two. The next time, and in the other templates of "
    "the demo model, **DETEX Train** finds it on disk.\n\n"
)


def pose_and_background() -> list[list[Group]]:
    """One photo's pose, another one's background."""
    start = note(
        "start",
        "**One photo's pose before another photo's background.** Press **Run**; nothing is "
        "downloaded.\n\n"
        f"{ONCE}"
        "For a subject of yours: delete group 1, and put **Load Checkpoint** and **Load Decoupled "
        "Embeddings** in its place.",
        title="Start here",
    )
    text = "photo of a [V] ball"
    by_hand = "photo of a ([V]:1.2) ball with [P2] view in snow background"
    return [
        [learned_toy("1  Learn a toy, once", [start, demo_model()])],
        [
            Group("2  Its words", [[*applied("train.concept"), advice()], canvas(4)], BLUE),
            painted("3  All of photo 1", "same", text, "P1 in B1", pose=1, background=1),
            painted("4  Photo 1 before photo 3", "mixed", text, "P1 in B3", pose=1, background=3),
            painted("5  Written by hand", "hand", by_hand, "P2 in the snow"),
        ],
    ]


def advice() -> Node:
    return note(
        "advice",
        "**pose** and **background** of Compose are photo numbers, as on the contact sheet; 0 "
        "leaves the choice to your words. They stand for\n\n"
        "*photo of a [V] ball with [P1] view in [B3] background*\n\n"
        "The words may stand anywhere in a prompt, with weights too: *([B3]:0.8)*. Groups 3 to 5 "
        "start from the same noise, so that only the words differ.\n\n"
        "It says *view* for things and *pose* for living beings. On this small model **[P]** "
        "brings a photo's look more than its place in the picture.",
        title="Pose and background",
    )


def several_concepts() -> list[list[Group]]:
    """Two subjects, learned apart, in one concept."""
    start = note(
        "start",
        "**Two subjects in one concept, without learning them together.** Press **Run**; nothing "
        "is downloaded.\n\n"
        "It learns two toys first, in some minutes; the next time both are found on disk. "
        "**Merge Concepts** then takes seconds.",
        title="Start here",
    )
    words = note(
        "words_note",
        "The subject of **concept_1** is **[V]**, that of **concept_2** is **[V2]**. The photos "
        "of the second go on counting: the ball has **[P1]** to **[P4]**, the star **[P5]** to "
        "**[P8]**; the backgrounds likewise. Group 6 puts the star where photo 3 of the ball was "
        "taken.\n\n"
        "The demo model draws one toy a picture. With Stable Diffusion write both: *photo of a "
        "[V] dog next to a [V2] cat*.\n\n"
        "**Save Decoupled Embeddings** keeps the merged concept as one file.",
        title="The words of both",
    )
    merge = node(
        "merge",
        "DETEXMergeConcepts",
        size=(360, 270),
        clip=link("demo.clip"),
        concept_1=link("train.concept"),
        concept_2=link("train2.concept"),
    )
    use = [*applied("merge.concept", (480, 160)), *canvas(4)]
    star = "photo of a [V2] star"
    return [
        [
            learned_toy("1  Learn a ball", [start, demo_model()]),
            learned_toy("2  Learn a star", [], number=2, mark="2"),
        ],
        [
            Group("3  Merge", [[merge, words], use], BLUE),
            painted("4  The ball", "ball", "photo of a [V] ball in water background", "The ball"),
            painted("5  The star", "star", f"{star} in water background", "The star"),
            painted("6  The star on the ball's wood", "swap", star, "Swapped", background=3),
        ],
    ]
