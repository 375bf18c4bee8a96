"""The protocols' workflows, as ComfyUI's API takes them: a training for each, and pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..photos.places import DEFAULT_PLACES
from .recipes import PAPER, RELEASED, SCENE_COPIES

DEMO = "demo"  # in place of a checkpoint: the pack's own little model
DEMO_SIDE = 64  # pixels of its pictures
USUAL_VISION = "clip-vit-large-patch14.safetensors"  # as the templates call it
Graph = dict[str, dict[str, Any]]
WIRES = [["checkpoint", output] for output in range(3)]  # MODEL, CLIP, VAE of `loaders`


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much is drawn and learned; the defaults are those of DreamBench's papers. Raises
    ValueError for less than nothing.
    """

    checkpoint: str
    clip_vision: str = USUAL_VISION  # the file of CLIP ViT-L/14; the demo model has its own
    resolution: int = 512  # pixels of photos and pictures
    references: int = 4  # photos a subject; 0: all
    prior: int = 200  # pictures of the class
    steps: int | None = None  # of the training, in place of each method's own
    rate: float = 1.0  # multiplies each method's learning rate
    pictures: int = 8  # of each prompt
    sampling_steps: int = 50
    cfg: float = 6.0
    seed: int = 0  # of the pictures of the first prompt; each later one has the next number

    def __post_init__(self) -> None:
        least = {"prior": 1, "pictures": 1, "sampling_steps": 1, "references": 0, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; {low} is the least."
                )
        if self.steps is not None and self.steps < 2:
            raise ValueError(f"--steps is {self.steps}; 2 is the least.")
        if not self.rate > 0:
            raise ValueError(f"--rate multiplies the learning rates: above 0, got {self.rate}.")
        if not self.clip_vision and self.checkpoint != DEMO:
            raise ValueError(
                "--clip-vision is missing: name the file of CLIP ViT-L/14 in models/clip_vision."
            )

    @property
    def side(self) -> int:
        return DEMO_SIDE if self.checkpoint == DEMO else self.resolution


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def loaders(amounts: Amounts) -> Graph:
    """The checkpoint: outputs 0 MODEL, 1 CLIP, 2 VAE."""
    if amounts.checkpoint == DEMO:
        return {"checkpoint": node("DETEXDemoModel")}
    return {"checkpoint": node("CheckpointLoaderSimple", ckpt_name=amounts.checkpoint)}


def subject_training(amounts: Amounts, kind: str, *, masked: bool) -> Graph:
    """DreamBench's: a subject's folder becomes a concept's file. kind: `Recipe.graph`."""
    model, clip, vae = WIRES
    graph = loaders(amounts)
    graph["folder"] = node("DETEXLoadSubjectFolder", folder="")
    graph["class"] = node("PrimitiveString", value="")
    photos: dict[str, Any] = {"images": ["folder", 0], "vae": vae, "class_word": ["class", 0]}
    if masked:
        photos["masks"] = ["folder", 1]
    if kind != "plain":
        photos["clip_vision"] = ["checkpoint", 3]
        if amounts.checkpoint != DEMO:
            graph["vision"] = node("CLIPVisionLoader", clip_name=amounts.clip_vision)
            photos["clip_vision"] = ["vision", 0]
    if kind == "places":
        names, side = "\n".join(DEFAULT_PLACES), amounts.side
        drawn = {"names": names, "resolution": side, "each": 1, "folder": "", "seed": 0}
        drawn |= {"prompt": "photo of {place}", "steps": 50, "cfg": 6.0}
        graph["places"] = node("DETEXPlacePictures", model=model, clip=clip, vae=vae, **drawn)
        photos["places"] = ["places", 0]
    graph["subject"] = node(
        "DETEXSubjectImages",
        **photos,
        attribute="auto",
        resolution=amounts.side,
        blank="white",
        scaled_copies=0,
        seed=0,
    )
    graph["prior"] = prior(amounts, ["class", 0])
    return graph | ending("DETEXTrain", "subject", PAPER)


def scene_training(amounts: Amounts, kind: str, *, masked: bool) -> Graph:
    """DisenDiff's: a photo of several concepts becomes a concept's file. kind: `Recipe.graph`."""
    del masked  # "masks" says it: the others learn without, though there are some
    graph = loaders(amounts)
    graph["folder"] = node("DETEXLoadSubjectFolder", folder="")
    photo: dict[str, Any] = {"image": ["folder", 0], "vae": WIRES[2]}
    if kind == "masks":  # one picture a concept
        graph["mask_folder"] = node("DETEXLoadSubjectFolder", folder="")
        graph["masks"] = node("ImageToMask", image=["mask_folder", 0], channel="red")
        photo["masks"] = ["masks", 0]
    graph["photo"] = node(
        "DETEXConceptsInOnePhoto",
        **photo,
        class_words="",
        resolution=amounts.side,
        scaled_copies=SCENE_COPIES,
        seed=0,
    )
    graph["prior"] = prior(amounts, ["photo", 2])
    return graph | ending("DETEXDisenDiffTrain", "photo", RELEASED)


def prior(amounts: Amounts, class_word: list[Any]) -> dict[str, Any]:
    """The node of the class's pictures. class_word: the wire that says it."""
    model, clip, vae = WIRES
    return node(
        "DETEXClassPriorImages",
        model=model,
        clip=clip,
        vae=vae,
        class_word=class_word,
        count=amounts.prior,
        resolution=amounts.side,
        prompt="photo of a {class}",
        steps=amounts.sampling_steps,
        cfg=6.0,
        sampler_name="ddim",
        scheduler="ddim_uniform",
        batch_size=4,
        seed=0,
    )


def ending(class_type: str, photos: str, widgets: Mapping[str, Any]) -> Graph:
    """A train node and its file. photos: the input, and the node that it comes from."""
    model, clip, _ = WIRES
    wires = {"model": model, "clip": clip, photos: [photos, 0], "prior_images": ["prior", 0]}
    return {
        "train": node(class_type, **wires, **widgets),
        "save": node("DETEXSaveEmbeddings", concept=["train", 0], name="x", stock_files=False),
    }


def drawing(amounts: Amounts, sampler: str, name: str) -> Graph:
    """A concept and a prompt become pictures. name: the protocol's, for their files."""
    graph = loaders(amounts)
    side = amounts.side
    graph["concept"] = node(
        "DETEXLoadEmbeddings", model=["checkpoint", 0], file="x.safetensors", strength=1.0
    )
    graph["prompt"] = node(
        "DETEXComposePrompt",
        clip=["checkpoint", 1],
        concept=["concept", 1],
        text="",
        pose=0,
        background=0,
    )
    graph["empty"] = node("CLIPTextEncode", clip=["checkpoint", 1], text="")
    graph["latents"] = node(
        "EmptyLatentImage", width=side, height=side, batch_size=amounts.pictures
    )
    graph["sampler"] = node(
        "KSampler",
        model=["concept", 0],
        positive=["prompt", 0],
        negative=["empty", 0],
        latent_image=["latents", 0],
        seed=0,
        steps=amounts.sampling_steps,
        cfg=amounts.cfg,
        sampler_name=sampler,
        scheduler="ddim_uniform",
        denoise=1.0,
    )
    graph["pixels"] = node("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2])
    graph["save"] = node("SaveImage", images=["pixels", 0], filename_prefix=name)
    return graph
