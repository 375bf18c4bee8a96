"""DisenDiff Train."""

from comfy_api.latest import io

from ..detex.methods.disendiff import RELEASED, DisenDiff, DisenDiffConfig
from .sockets import CATEGORY, PhotoSocket
from .train import concept_outputs, train_method, waited_for
from .train_inputs import (
    detach_input,
    model_inputs,
    optimisation_inputs,
    presentation_inputs,
    prior_weight_input,
    rank_input,
    seed_input,
    stratified_input,
)

RECOMMENDED = DisenDiffConfig.recommended()


class DisenDiffTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXDisenDiffTrain",
            display_name="DisenDiff Train",
            category=CATEGORY,
            description="Learns the subjects of one photo apart from each other, as [V], [V2]... "
            "MODEL and CLIP stay as they are: the training works on copies.",
            search_aliases=["disendiff", "several subjects", "multi concept", "break a scene"],
            inputs=[
                *model_inputs(),
                PhotoSocket.Input("photo", tooltip="From Concepts in One Photo."),
                io.Image.Input(
                    "prior_images",
                    optional=True,
                    lazy=True,
                    tooltip="Pictures of the classes together that this checkpoint made, with the "
                    'prompt "photo of a cat and a dog" for the class words "cat, dog": they keep '
                    "the classes from becoming your subjects. From Class Prior Images, with the "
                    "class_word that Concepts in One Photo gives; it runs only where lambda_pr is "
                    "not 0. The paper uses 200.",
                ),
                *optimisation_inputs(
                    RELEASED,
                    steps="Optimiser steps. The released code takes 250.",
                    batch_size="Copies of the photo a step; as many prior images join them. The "
                    "released code takes 4, one after the other.",
                    learning_rate="Per sample: it is multiplied by the batch size. 2e-5 with four "
                    "photos makes the 8e-5 of the released code; the demo model needs far more.",
                ),
                io.Float.Input(
                    "lambda_bind",
                    default=RECOMMENDED.bind_weight,
                    min=0.0,
                    max=10.0,
                    step=0.0005,
                    round=False,
                    tooltip="Weight of the loss that holds each word's attention to that of its "
                    "class word, or to its mask. The released code's 0.01 is 0.0025 here.",
                ),
                io.Float.Input(
                    "lambda_separate",
                    default=RECOMMENDED.separate_weight,
                    min=0.0,
                    max=10.0,
                    step=0.0005,
                    round=False,
                    tooltip="Weight of the loss that keeps the attention of the class words apart, "
                    "or off each other's masks. One concept has none.",
                ),
                prior_weight_input(RECOMMENDED.prior_weight),
                seed_input(),
                *advanced_inputs(),
                rank_input(),
                *presentation_inputs(),
            ],
            outputs=concept_outputs(),
        )

    @classmethod
    def check_lazy_status(cls, lambda_pr, **inputs) -> list[str]:
        return waited_for(DisenDiff, lambda_pr, inputs)

    @classmethod
    def execute(cls, model, clip, photo, prior_images=None, **inputs) -> io.NodeOutput:
        return train_method(DisenDiff, model, clip, photo, prior_images, inputs)


def advanced_inputs() -> list[io.Input]:
    """What the page folds away of the method; the defaults are the paper's."""
    return [
        io.Float.Input(
            "kv_rate",
            default=RELEASED.kv_rate,
            min=0.0,
            max=1000.0,
            step=0.01,
            advanced=True,
            tooltip="Multiplies the learning rate of the deltas. 0 trains the words alone.",
        ),
        io.Float.Input(
            "token_rate",
            default=RELEASED.token_rate,
            min=0.0,
            max=1000.0,
            advanced=True,
            tooltip="Multiplies the learning rate of the words. The paper uses 1, DETEX Train 8.",
        ),
        stratified_input(),
        io.Boolean.Input(
            "use_masks",
            default=RECOMMENDED.use_masks,
            advanced=True,
            tooltip="Where the photo has masks, they take the place of the class words' attention "
            "as that which is held to and kept off. Not in the paper. Off: as in the paper.",
        ),
        io.Boolean.Input(
            "suppress",
            default=RECOMMENDED.suppress,
            advanced=True,
            tooltip="Smooth and square the attention of the class words, so that small patches "
            "fade. Off: the paper's ablation.",
        ),
        io.Boolean.Input(
            "random_order",
            default=RECOMMENDED.random_order,
            advanced=True,
            tooltip='The captions name the subjects in any order: "a [V2] dog and [V] cat" too.',
        ),
        detach_input(RECOMMENDED.detach_start_token),
    ]
