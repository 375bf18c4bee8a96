"""DETEX Train."""

from collections.abc import Mapping, Sequence

import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..detex.concept.file import Concept
from ..detex.host.images import rgb
from ..detex.host.progress import LiveView, say
from ..detex.host.runs import Keeper
from ..detex.host.training import train_concept
from ..detex.training.config import Attributes, DetexConfig, TrainConfig
from .sockets import CATEGORY, ConceptSocket, SubjectSocket
from .train_inputs import (
    ADVANCED_DETEX,
    CENTER_POSES,
    START_OVER,
    SUBJECT_ATTENTION,
    advanced_inputs,
    later_inputs,
    presentation_inputs,
)

METHODS = {"DETEX": DetexConfig, "Custom Diffusion": DetexConfig.custom_diffusion}


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
                io.Model.Input(
                    "model",
                    tooltip="The checkpoint to train for: Stable Diffusion 1.x, 2.x or XL.",
                ),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
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
                    options=list(METHODS),
                    default="DETEX",
                    tooltip="DETEX, or plain Custom Diffusion for comparison: [V] alone, no [P] or "
                    "[B]; gamma and lambda_ca do nothing then.",
                ),
                io.Int.Input(
                    "steps",
                    default=TrainConfig.steps,
                    min=2,
                    max=20000,
                    tooltip="Optimiser steps. The paper uses 600.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=TrainConfig.batch_size,
                    min=1,
                    max=32,
                    tooltip="Photos a step; as many prior images join them. The paper uses 4.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=TrainConfig.learning_rate,
                    min=1e-7,
                    max=1e-1,
                    step=1e-7,
                    round=False,
                    tooltip="Per sample: it is multiplied by the batch size. The paper uses 1e-5; "
                    "the demo model needs far more, see the quickstart workflow.",
                ),
                io.Float.Input(
                    "gamma",
                    default=DetexConfig.gamma,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Chance that a sample trains on the subject alone, on a blank ground.",
                ),
                io.Float.Input(
                    "lambda_ca",
                    default=DetexConfig.attention_weight,
                    min=0.0,
                    max=10.0,
                    step=0.001,
                    round=False,
                    tooltip="Weight of the cross-attention loss that keeps [P] on the subject and "
                    "[B] off it.",
                ),
                io.Float.Input(
                    "lambda_pr",
                    default=DetexConfig.prior_weight,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="Weight of the prior images' loss.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="The same seed and settings give the same concept on a CPU, nearly the "
                    "same on a GPU.",
                ),
                *advanced_inputs(),
                *presentation_inputs(),
                *later_inputs(),
            ],
            outputs=[
                ConceptSocket.Output(
                    display_name="concept", tooltip="The learned words and K, V deltas."
                ),
                io.LossMap.Output(
                    display_name="loss_map", tooltip="Loss at each step, for Plot Loss Graph."
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, lambda_pr, **inputs) -> list[str]:
        waiting = "prior_images" in inputs and inputs["prior_images"] is None
        return ["prior_images"] if waiting and lambda_pr else []

    @classmethod
    def execute(
        cls,
        model,
        clip,
        subject,
        method,
        lambda_ca,
        lambda_pr,
        resume,
        snapshot_every,
        preview_every,
        prior_images=None,
        rank=0,
        subject_attention=SUBJECT_ATTENTION,
        center_poses=CENTER_POSES,
        **settings,
    ) -> io.NodeOutput:
        detex = {name: settings.pop(name) for name in ("gamma", *ADVANCED_DETEX)}
        detex["attributes"] = Attributes(detex["attributes"])
        detex |= {"subject_attention": subject_attention, "center_poses": center_poses}
        config = METHODS[method](attention_weight=lambda_ca, prior_weight=lambda_pr, **detex)
        train = TrainConfig(rank=rank or None, **settings)
        prior = prior_latents(subject, prior_images) if lambda_pr else None
        view = LiveView(train.steps, preview_every, subject.decode)
        keeper = Keeper(snapshot_every, start_over=resume == START_OVER, say=say)
        concept, history = train_concept(model, clip, subject, prior, config, train, [view], keeper)
        note = prior_note(subject, prior_images) if lambda_pr else ""
        text = "\n".join(filter(None, [keeper.note, note, summary(concept)]))
        losses = total_loss(history, config)
        return io.NodeOutput(concept, {"loss": losses}, ui=ui.PreviewText(text))


def prior_latents(subject, images: torch.Tensor | None) -> torch.Tensor | None:
    """Prior images [R, H, W, 3], centre-cropped to the subject's resolution, as latents."""
    if images is None:
        return None
    side = min(images.shape[1:3])
    top, left = (images.shape[1] - side) // 2, (images.shape[2] - side) // 2
    square = rgb(images)[:, top : top + side, left : left + side].movedim(-1, 1)
    if side != subject.resolution:
        size = (subject.resolution, subject.resolution)
        square = torch.nn.functional.interpolate(square, size=size, mode="bicubic", antialias=True)
    bar, latents = ProgressBar(len(square)), []
    for picture in square.movedim(1, -1).clamp(0, 1).split(1):
        latents.append(subject.encode(picture))
        bar.update(1)
    return torch.cat(latents)


def prior_note(subject, images: torch.Tensor | None) -> str:
    """What to know of prior images [R, H, W, 3] that are smaller than the subject's resolution."""
    if images is None or (side := min(images.shape[1:3])) >= subject.resolution:
        return ""
    return (
        f"The prior images of {side} pixels were enlarged to {subject.resolution}, and are "
        f"blurred. Make them at {subject.resolution}."
    )


def total_loss(history: Mapping[str, Sequence[float]], config: DetexConfig) -> list[float]:
    """The weighted sum at each step."""
    weights = {"prior": config.prior_weight, "attention": config.attention_weight}
    columns = [[weights.get(name, 1.0) * v for v in values] for name, values in history.items()]
    return [sum(step) for step in zip(*columns, strict=True)]


def summary(concept: Concept) -> str:
    """What the run did, in a few lines for the node."""
    lines = [f"{concept.method}: {concept.config['steps']} steps"]
    for name, (first, last) in concept.report["losses"].items():
        lines.append(f"{name} loss {first:.4f} -> {last:.4f}")
    before, after = concept.report["overlap"]["before"], concept.report["overlap"]["after"]
    for name in after:
        lines.append(f"{name} map on its region (IoU) {before[name]:.2f} -> {after[name]:.2f}")
    if concept.photo_count == 1:
        lines.append("One photo cannot tell subject, pose and background apart: use two or more.")
    return "\n".join(lines)
