"""Dis²Booth Train (reconstruction)."""

from comfy_api.latest import io

from ..detex.methods.dis2booth import CODES, SCHEDULES, Dis2Booth, Dis2BoothConfig
from ..detex.training.config import TrainConfig
from .sockets import CATEGORY, DistributionSocket, VariedSocket
from .train import course_outputs, train_method, waited_for
from .train_inputs import (
    model_inputs,
    optimisation_inputs,
    presentation_inputs,
    prior_weight_input,
    seed_input,
    stratified_input,
)

RECOMMENDED = Dis2BoothConfig.recommended()


class Dis2BoothTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXDis2BoothTrain",
            display_name="Dis²Booth Train (reconstruction)",
            category=CATEGORY,
            description="Learns from pictures of different individuals what they have in common "
            "and how they vary, for Draw Individuals. A reconstruction: of the paper only the "
            "abstract is public. MODEL and CLIP stay as they are.",
            search_aliases=["dis2booth", "distribution", "variation", "many individuals", "lora"],
            inputs=[
                *model_inputs(),
                VariedSocket.Input("varied_images", tooltip="From Varied Images."),
                io.Image.Input(
                    "prior_images",
                    optional=True,
                    lazy=True,
                    tooltip="Pictures of the class that this checkpoint made, from Class Prior "
                    "Images, which runs only where lambda_pr is not 0. They keep the class itself "
                    "as it is; varied pictures need them less than those of one subject.",
                ),
                *optimisation_inputs(
                    TrainConfig(),
                    steps="Optimiser steps.",
                    batch_size="Pictures a step.",
                    learning_rate="Per sample: it is multiplied by the batch size, and by 2.5 for "
                    "the LoRAs. 1e-5 with four pictures makes 1e-4; the demo model needs far more.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=[*SCHEDULES],
                    default=RECOMMENDED.schedule,
                    tooltip="joint: both LoRAs in every step, a reading of our own. The "
                    "abstract names an asynchronous optimisation; readings of it are alternate "
                    "(one step for what is common, two for what varies), two_timescale (what is "
                    "common at a tenth of the rate) and sequential (one after the other).",
                ),
                io.Combo.Input(
                    "codes",
                    options=[*CODES],
                    default=RECOMMENDED.codes,
                    tooltip="Where a picture's code comes from. mapper: from its image features. "
                    "free: learned for each picture. shared: the same for all, two plain LoRAs "
                    "without individuals. auto: mapper where CLIP_VISION is wired, else free.",
                ),
                io.Float.Input(
                    "code_dropout",
                    default=RECOMMENDED.code_dropout,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Chance that a sample trains without its code, so that the anchor "
                    "learns what all have in common. For joint and two_timescale.",
                ),
                io.Float.Input(
                    "lambda_cx",
                    default=RECOMMENDED.contextual_weight,
                    min=0.0,
                    max=10.0,
                    step=0.005,
                    round=False,
                    tooltip="Weight of the contextual loss: what the anchor makes of one picture "
                    "should be like what it makes of another, wherever it stands. More keeps more "
                    "in common, and prompts are obeyed less.",
                ),
                io.Float.Input(
                    "lambda_delta",
                    default=RECOMMENDED.delta_weight,
                    min=0.0,
                    max=10.0,
                    step=0.005,
                    round=False,
                    tooltip="Weight of the delta loss: codes of about unit size, and a Delta LoRA "
                    "that reads other directions than the anchor.",
                ),
                prior_weight_input(RECOMMENDED.prior_weight),
                seed_input(),
                *advanced_inputs(),
                *presentation_inputs(),
            ],
            outputs=[
                DistributionSocket.Output(
                    display_name="distribution", tooltip="For Draw Individuals."
                ),
                *course_outputs(),
            ],
        )

    @classmethod
    def check_lazy_status(cls, lambda_pr, **inputs) -> list[str]:
        return waited_for(Dis2Booth, lambda_pr, inputs)

    @classmethod
    def execute(cls, model, clip, varied_images, prior_images=None, **inputs) -> io.NodeOutput:
        return train_method(Dis2Booth, model, clip, varied_images, prior_images, inputs)


def advanced_inputs() -> list[io.Input]:
    """What the page folds away of the method."""
    return [
        io.Int.Input(
            "warm_up",
            default=RECOMMENDED.warm_up,
            min=0,
            max=20000,
            advanced=True,
            tooltip="Steps of the anchor alone at the start, with the schedules alternate and "
            "sequential. They must be fewer than steps, or nothing will vary.",
        ),
        io.Float.Input(
            "composites",
            default=RECOMMENDED.composites,
            min=0.0,
            max=1.0,
            step=0.05,
            advanced=True,
            tooltip="Chance that a sample shows its individual on another ground, where Varied "
            "Images has masks.",
        ),
        io.Boolean.Input(
            "masked_loss",
            default=RECOMMENDED.masked_loss,
            advanced=True,
            tooltip="A picture that trains with its code counts its individual alone, where there "
            "are masks: so the code does not learn the background.",
        ),
        io.Boolean.Input(
            "high_noise",
            default=RECOMMENDED.high_noise,
            advanced=True,
            tooltip="Samples with a code train at high noise more often: there it is decided what "
            "an individual looks like.",
        ),
        io.Int.Input(
            "anchor_rank",
            default=RECOMMENDED.anchor_rank,
            min=1,
            max=128,
            advanced=True,
            tooltip="Rank of the LoRA of what all have in common.",
        ),
        io.Int.Input(
            "delta_rank",
            default=RECOMMENDED.delta_rank,
            min=1,
            max=128,
            advanced=True,
            tooltip="Rank of the LoRA of what varies: of how many numbers a code is made. An "
            "individual is a LoRA of both ranks together.",
        ),
        io.Float.Input(
            "token_rate",
            default=TrainConfig.recommended().token_rate,
            min=0.0,
            max=1000.0,
            advanced=True,
            tooltip="Multiplies the learning rate of [V].",
        ),
        io.Float.Input(
            "mapper_rate",
            default=TrainConfig.mapper_rate,
            min=0.0,
            max=1000.0,
            step=0.01,
            advanced=True,
            tooltip="Multiplies the learning rate of the codes.",
        ),
        stratified_input(),
    ]
