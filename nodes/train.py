"""DETEX Train."""

from collections.abc import Mapping
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..detex.canvas.filmstrip import filmstrip
from ..detex.concept.file import Concept
from ..detex.evaluate.live_scores import best_of_all
from ..detex.host.encoders import judge_of
from ..detex.host.images import rgb
from ..detex.host.progress import LiveView, say
from ..detex.host.runs import ResumeStore
from ..detex.host.training import train_concept
from ..detex.methods import METHODS
from ..detex.photos.checks import check_picture
from ..detex.photos.photos import Photos, Subject
from ..detex.prompt.words import Attributes
from ..detex.training.config import TrainConfig
from ..detex.training.pace import TimeLeft
from .sockets import CATEGORY, ConceptSocket, SubjectSocket
from .train_inputs import (
    RECOMMENDED,
    START_OVER,
    advanced_inputs,
    appended_inputs,
    config_of,
    model_inputs,
    of_subject,
    only_of,
    optimisation_inputs,
    presentation_inputs,
    prior_weight_input,
    seed_input,
)


def concept_outputs() -> list[io.Output]:
    learned = "The learned words and K, V deltas."
    return [ConceptSocket.Output(display_name="concept", tooltip=learned), *course_outputs()]


def course_outputs() -> list[io.Output]:
    """How the training went."""
    return [
        io.LossMap.Output(
            display_name="loss_map", tooltip="Loss at each step, for Plot Loss Graph."
        ),
        io.Image.Output(
            display_name="filmstrip", tooltip="The samples so far: a column for each step."
        ),
    ]


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXTrain",
            display_name="DETEX Train",
            category=CATEGORY,
            description="Learns the subject as [V], each photo's pose as [P1].. and background as "
            "[B1]... MODEL and CLIP stay as they are: the training works on copies.",
            search_aliases=["dreambooth", "textual inversion", "custom diffusion", "train lora"],
            inputs=[
                *model_inputs(),
                SubjectSocket.Input("subject", tooltip="From Subject Images."),
                io.Image.Input(
                    "prior_images",
                    optional=True,
                    lazy=True,
                    tooltip="Pictures of the class that this checkpoint made with the prompt "
                    '"photo of a dog" (or your class word): they keep the class from becoming your '
                    "subject. From Class Prior Images, which runs only where lambda_pr is not 0. "
                    "The paper uses 200. Without them there is no prior loss.",
                ),
                io.Combo.Input(
                    "method",
                    options=of_subject(),
                    default="DETEX",
                    tooltip="DETEX: [V] apart from poses and backgrounds. Custom Diffusion: [V] "
                    "and the K, V deltas, nothing beside. Textual Inversion: the word alone, a "
                    "file of kilobytes. DreamBooth LoRA: a LoRA on all attention.",
                ),
                *optimisation_inputs(
                    TrainConfig(),
                    steps="Optimiser steps. The paper uses 600.",
                    batch_size="Photos a step; as many prior images join them. The paper uses 4.",
                    learning_rate="Per sample: it is multiplied by the batch size. The paper uses "
                    "1e-5; the demo model needs far more, see the quickstart workflow.",
                ),
                io.Float.Input(
                    "gamma",
                    default=RECOMMENDED.gamma,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    extra_dict=only_of("gamma"),
                    tooltip="Chance that a sample trains on the cut-out subject: on a place, or "
                    "alone on a blank ground where Subject Images has no places.",
                ),
                io.Float.Input(
                    "lambda_ca",
                    default=RECOMMENDED.attention_weight,
                    extra_dict=only_of("attention_weight"),
                    min=0.0,
                    max=10.0,
                    step=0.001,
                    round=False,
                    tooltip="Weight of the cross-attention loss that keeps [P] on the subject and "
                    "[B] off it.",
                ),
                prior_weight_input(RECOMMENDED.prior_weight, extra_dict=only_of("prior_weight")),
                seed_input(),
                *advanced_inputs(),
                *presentation_inputs(),
                *appended_inputs(),
            ],
            outputs=concept_outputs(),
        )

    @classmethod
    def check_lazy_status(cls, method, lambda_pr, **inputs) -> list[str]:
        return waited_for(METHODS[method], lambda_pr, inputs)

    @classmethod
    def execute(cls, model, clip, subject, method, prior_images=None, **inputs) -> io.NodeOutput:
        inputs |= suited(subject.photos, inputs["gamma"])
        return train_method(METHODS[method], model, clip, subject, prior_images, inputs)


def suited(photos: Photos, gamma: float) -> dict[str, Any]:
    """What the photos decide. Composites without [P] teach [V] the look, and centering would give
    it the photos' place in the picture, too. Without image features [P] and [B] are free vectors.
    """
    made = photos.composites.said if gamma and photos.composites else ()
    without = any("P" not in said.words for row in made for said in row)
    centering = {"center_poses": False} if without else {}
    return centering | ({"attributes": Attributes.VECTORS} if photos.features is None else {})


def train_method(
    method: Any,  # a class of the register
    model: ModelPatcher,
    clip: CLIP,
    subject: Subject,
    prior_images: torch.Tensor | None,
    inputs: dict[str, Any],
) -> io.NodeOutput:
    """What a train node does, with the inputs of its page: concept, losses, and a text to show."""
    config, train = config_of(method, inputs)
    images = prior_images if uses_prior(method, inputs["lambda_pr"]) else None
    prior = prior_latents(subject, images)
    again = inputs["resume"] == START_OVER
    store = ResumeStore(inputs["snapshot_every"], start_over=again, say=say)
    judge = judge_of(subject, clip) if inputs["preview_every"] else None
    view = LiveView(train.steps, inputs["preview_every"], subject.decode, store.keep_samples, judge)
    left = TimeLeft(lambda text: say(f"{store.note} {text}".strip()))
    concept, losses = train_concept(
        model,
        clip,
        subject.photos,
        prior,
        config,
        train,
        [left, view],
        store,
        inputs.get("keep_every", 0),
    )
    notes = prior_note(subject, images), words_note(subject.photos, config)
    best = best_of_all({int(step): s for step, s in losses.scores.items()}, train.steps)
    text = "\n".join(filter(None, [store.note, *notes, summary(concept), best]))
    curves = {"loss": losses.terms["total"], "steady_loss": list(losses.steady.values())}
    return io.NodeOutput(concept, curves, filmstrip(store.samples), ui=ui.PreviewText(text))


def waited_for(method: Any, weight: float, inputs: Mapping[str, Any]) -> list[str]:
    """The lazy inputs that the method needs and that are wired, but not there yet."""
    waiting = "prior_images" in inputs and inputs["prior_images"] is None
    return ["prior_images"] if waiting and uses_prior(method, weight) else []


def uses_prior(method: Any, weight: float) -> bool:
    """Whether the method reads prior images at all, with this weight of theirs."""
    return bool(weight) and hasattr(method.Config, "prior_weight")


def prior_latents(subject: Subject, images: torch.Tensor | None) -> torch.Tensor | None:
    """Prior images [R, H, W, 3], centre-cropped to the subject's resolution, as latents."""
    if images is None:
        return None
    check_prior(images)
    resolution = subject.photos.resolution
    side = min(images.shape[1:3])
    top, left = (images.shape[1] - side) // 2, (images.shape[2] - side) // 2
    square = rgb(images)[:, top : top + side, left : left + side].movedim(-1, 1)
    if side != resolution:
        size = (resolution, resolution)
        square = torch.nn.functional.interpolate(square, size=size, mode="bicubic", antialias=True)
    bar, latents = ProgressBar(len(square)), []
    for picture in square.movedim(1, -1).clamp(0, 1).split(1):
        latents.append(subject.encode(picture))
        bar.update(1)
    return torch.cat(latents)


def check_prior(images: torch.Tensor) -> None:
    """Raise ValueError for no prior images, and for one that is no picture."""
    if not len(images):
        raise ValueError(
            "There are no prior images: the batch is empty. Wire Class Prior Images, or unwire it."
        )
    for number, picture in enumerate(images, start=1):
        check_picture(f"Prior image {number}", picture)


def prior_note(subject: Subject, images: torch.Tensor | None) -> str:
    """What to know of prior images [R, H, W, 3] that are smaller than the subject's resolution."""
    resolution = subject.photos.resolution
    if images is None or (side := min(images.shape[1:3])) >= resolution:
        return ""
    return (
        f"The prior images of {side} pixels were enlarged to {resolution}, and are "
        f"blurred. Make them at {resolution}."
    )


def words_note(photos: Photos, config: Any) -> str:
    """What to know of [P] and [B] where there is no image encoder that they could start from."""
    if photos.features is not None or not getattr(config, "attributes", None):
        return ""
    return "Without CLIP_VISION in Subject Images: each [P] and [B] is a free vector."


def summary(concept: Concept) -> str:
    """What the run did, in a few lines for the node."""
    report = concept.report
    first, last = report["steady"]
    lines = [f"{concept.method}: {concept.config['steps']} steps"]
    lines.append(f"steady loss {first:.4f} -> {last:.4f}")
    for kind, when in report.items():
        if kind in ("losses", "steady"):
            continue
        for name, after in when["after"].items():
            lines.append(f"{name} {kind} {when['before'][name]:.2f} -> {after:.2f}")
    if concept.photo_count == 1:
        lines.append("One photo cannot tell subject, pose and background apart: use two or more.")
    return "\n".join(lines)
