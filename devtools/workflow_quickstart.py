"""workflows/quickstart.json: the demo model learns a toy."""

from .workflow_nodes import WIDTH, Group, Node, link, node, note
from .workflow_parts import (
    BLUE,
    GREEN,
    PURPLE,
    TRAINING,
    compose,
    decode,
    empty_latent,
    negative,
    preview,
    sample,
)
from .workflow_toy import (
    DEMO_PRIORS,
    DEMO_SAMPLER,
    DEMO_SIDE,
    DEMO_TRAINING,
    enlarged,
    enlarged_pictures,
)


def quickstart() -> list[list[Group]]:
    """Demo model and toy -> train -> new places, poses and backgrounds, attention maps."""
    return [
        [
            Group("1  A small model and four photos of a toy", quickstart_photos(), GREEN),
            Group("2  Prior images: what the model itself calls a ball", quickstart_prior(), GREEN),
            Group("3  Learn the toy", quickstart_training(), BLUE),
        ],
        [
            Group("4  The toy in a new place", quickstart_place(), PURPLE),
            Group("5  Pose of photo 1, background of photo 3", quickstart_words(), PURPLE),
        ],
    ]


def quickstart_photos() -> list[list[Node]]:
    start = note(
        "start",
        "**Press Run.** Everything here comes with the pack; nothing is downloaded.\n\n"
        "The graph learns one toy from four photos, then paints it in places it was never "
        "photographed in. On a laptop's CPU it takes some minutes, most of them in "
        "**DETEX Train**.\n\n"
        "- **[V]** is the toy itself.\n"
        "- **[P1]** to **[P4]** are the poses of photos 1 to 4.\n"
        "- **[B1]** to **[B4]** are their backgrounds.\n\n"
        "For your own photos open the template **train_detex**.",
        title="Start here",
    )
    demo = node("demo", "DETEXDemoModel")
    photos = node("photos", "DETEXDemoSubject", number=1, count=4, seed=0)
    subject = node(
        "subject",
        "DETEXSubjectImages",
        size=(WIDTH, 260),
        images=link("photos.images"),
        masks=link("photos.masks"),
        clip_vision=link("demo.clip_vision"),
        vae=link("demo.vae"),
        class_word=link("photos.class_word"),
        resolution=DEMO_SIDE,
    )
    larger = enlarged("larger", "photos.images")
    shown = preview("shown", "The photos", "larger.IMAGE", (300, 270))
    return [[start, demo, photos], [subject, larger, shown]]


def quickstart_prior() -> list[list[Node]]:
    why = note(
        "prior_note",
        "Pictures of *any* ball keep the word **ball** from becoming your toy. They must come "
        f"from the model that you train. The paper uses 200; {DEMO_PRIORS} will do here.\n\n"
        f"The size is {DEMO_SIDE} x {DEMO_SIDE}, the demo model's own.",
        title="Why?",
        width=300,
    )
    latent = empty_latent("prior_latent", DEMO_SIDE, DEMO_PRIORS)
    wires = ("demo.model", "prior_prompt.CONDITIONING", "nothing.CONDITIONING")
    sampler = sample("prior_sample", *wires, "prior_latent.LATENT", seed=1, **DEMO_SAMPLER)
    pixels = decode("prior_images", "prior_sample.LATENT", "demo.vae")
    words = prior_prompt("photos.class_word", "demo.clip")
    return [words, [latent, sampler], [pixels, why]]


def prior_prompt(class_word: str, clip: str) -> list[Node]:
    """A column with the prior images' prompt, "photo of a ball", and an empty negative one."""
    words = node(
        "prior_text",
        "StringConcatenate",
        title="photo of a (class word)",
        size=(300, 170),
        string_a="photo of a",
        string_b=link(class_word),
        delimiter=" ",
    )
    text = link("prior_text.STRING")
    prompt = node("prior_prompt", "CLIPTextEncode", size=(300, 96), clip=link(clip), text=text)
    nothing = negative("nothing", clip)
    nothing.size = (300, 96)
    return [words, prompt, nothing]


def quickstart_training() -> list[list[Node]]:
    train = node(
        "train",
        "DETEXTrain",
        size=TRAINING,
        model=link("demo.model"),
        clip=link("demo.clip"),
        subject=link("subject.subject"),
        prior_images=link("prior_images.IMAGE"),
        **DEMO_TRAINING,
    )
    rate = note(
        "rate_note",
        f"The {DEMO_TRAINING['steps']} steps, the learning rate of "
        f"{DEMO_TRAINING['learning_rate']:g} and the folded rates of the words are for the tiny "
        "demo model only. For Stable Diffusion keep the paper's: **600** steps, **1e-5**, rates "
        "of 1.\n\n"
        "Change a setting here and the toy is learned anew; change a prompt below and only the "
        "pictures are made again. **Cancel** whenever you like: run it again, and the learning "
        "goes on where it stopped.",
    )
    save = node(
        "save", "DETEXSaveEmbeddings", size=(360, 180), concept=link("train.concept"), name="toy"
    )
    graph = node("loss", "LossGraphNode", size=(360, 290), loss=link("train.loss_map"))
    return [[train], [rate, graph, save]]


def quickstart_place() -> list[list[Node]]:
    apply = node(
        "apply",
        "DETEXApplyEmbeddings",
        size=(300, 98),
        model=link("demo.model"),
        concept=link("train.concept"),
    )
    text = "photo of a [V] ball in water background"
    prompt = compose("place", "demo.clip", "apply.concept", text)
    advice = note(
        "place_note",
        "Write **[V]** right before the class word. The demo model knows these backgrounds: "
        "grass, brick, sky, sand, water, night, wood, snow.\n\n"
        "Another toy (**number** in group 1) needs its own class word here: ball, star, heart, "
        "box, cone or moon.",
    )
    latent = empty_latent("latent", DEMO_SIDE, 4)
    wires = ("apply.model", "place.conditioning", "nothing.CONDITIONING", "latent.LATENT")
    return [
        [apply, preview("sheet", "Which photo is which", "apply.contact_sheet", (420, 200))],
        [prompt, advice],
        [latent, sample("place_sample", *wires, seed=7, **DEMO_SAMPLER)],
        enlarged_pictures("place", "In the water"),
    ]


def quickstart_words() -> list[list[Node]]:
    text = "photo of a [V] ball"
    prompt = compose("words", "demo.clip", "apply.concept", text, pose=1, background=3)
    capture = node(
        "capture",
        "DETEXCaptureAttention",
        size=(360, 170),
        model=link("apply.model"),
        clip=link("demo.clip"),
        text=link("words.text"),
        words="[V], [P1], [B3], ball",
    )
    wires = ("capture.model", "words.conditioning", "nothing.CONDITIONING", "latent.LATENT")
    maps = node(
        "maps",
        "DETEXAttentionPreview",
        attention=link("capture.attention"),
        image=link("words_pixels.IMAGE"),
    )
    return [
        [prompt, capture],
        [
            sample("words_sample", *wires, seed=7, **DEMO_SAMPLER),
            decode("words_pixels", "words_sample.LATENT", "demo.vae"),
            maps,
        ],
        [preview("maps_shown", "Where each word looks", "maps.heat_maps", (540, 520))],
    ]
