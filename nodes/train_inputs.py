"""The inputs of DETEX Train that the page folds away."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..detex.methods import METHODS
from ..detex.methods.detex import DetexConfig
from ..detex.prompt.words import Attributes
from ..detex.training.config import TrainConfig

START_OVER = "start over"
RECOMMENDED = DetexConfig.recommended()  # the one place where the nodes' defaults stand
OF_SUBJECT = "Subject Images"  # DETEX Train has the methods that learn from its photos
# Inputs whose names differ from those of the settings; they are in saved workflows.
RENAMED = {
    "lambda_ca": "attention_weight",
    "lambda_pr": "prior_weight",
    "lambda_keep": "keep_weight",
    "lambda_bind": "bind_weight",
    "lambda_separate": "separate_weight",
    "lambda_cx": "contextual_weight",
    "lambda_delta": "delta_weight",
}
NONE_AT_0 = ("rank", "averaged_steps")
SETTLED = {
    "hidden": True
}  # questions that docs/science.md answers: in old workflows, not on the page


def config_of(method: Any, inputs: Mapping[str, Any]) -> tuple[Any, TrainConfig]:
    """The method's settings and those of the optimisation, each from the inputs that it knows."""
    given = {RENAMED.get(name, name): value for name, value in inputs.items()}
    if "attributes" in given:
        given["attributes"] = Attributes(given["attributes"])
    given |= {name: given.get(name) or None for name in NONE_AT_0}

    def known(kind: type) -> dict[str, Any]:
        return {f.name: given[f.name] for f in fields(kind) if f.name in given}

    return method.Config.recommended(**known(method.Config)), TrainConfig(**known(TrainConfig))


def only_of(setting: str) -> dict[str, list[str]]:
    """For the page: the methods that have this setting; it is folded away with any other."""
    return {"methods": [name for name in of_subject() if hasattr(METHODS[name].Config, setting)]}


def of_subject() -> list[str]:
    """The names of the methods that DETEX Train offers."""
    return [name for name, method in METHODS.items() if method.photos_from == OF_SUBJECT]


def model_inputs() -> list[io.Input]:
    return [
        io.Model.Input(
            "model", tooltip="The checkpoint to train for: Stable Diffusion 1.x, 2.x or XL."
        ),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
    ]


def optimisation_inputs(
    train: TrainConfig, *, steps: str, batch_size: str, learning_rate: str
) -> list[io.Input]:
    """Steps, photos a step and their rate, with these defaults and tooltips."""
    return [
        io.Int.Input("steps", default=train.steps, min=2, max=20000, tooltip=steps),
        io.Int.Input("batch_size", default=train.batch_size, min=1, max=32, tooltip=batch_size),
        io.Float.Input(
            "learning_rate",
            default=train.learning_rate,
            min=1e-7,
            max=1e-1,
            step=1e-7,
            round=False,
            tooltip=learning_rate,
        ),
    ]


def seed_input() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**31 - 1,
        control_after_generate=False,
        tooltip="The same seed and settings give the same concept on a CPU, nearly the "
        "same on a GPU.",
    )


def prior_weight_input(default: float, **page: Any) -> io.Input:
    return io.Float.Input(
        "lambda_pr",
        default=default,
        min=0.0,
        max=10.0,
        step=0.1,
        tooltip="Weight of the prior images' loss.",
        **page,
    )


def stratified_input() -> io.Input:
    return io.Boolean.Input(
        "stratified_timesteps",
        default=TrainConfig.stratified_timesteps,
        advanced=True,
        tooltip="Spread each batch's timesteps over the schedule: less noise in the gradient.",
    )


def detach_input(default: bool, **page: Any) -> io.Input:  # noqa: FBT001
    return io.Boolean.Input(
        "detach_start_token",
        default=default,
        advanced=True,
        tooltip="No gradient through the start token, which all prompts share.",
        **page,
    )


def rank_input() -> io.Input:
    return io.Int.Input(
        "rank",
        default=0,
        min=0,
        max=1280,
        optional=True,
        advanced=True,
        tooltip="Of the deltas. 0: as method and model need it, full matrices of K and V for "
        "Stable Diffusion 1.x and 2.x, rank 16 for XL and for DreamBooth LoRA. A low rank "
        "makes small files and needs less memory.",
    )


def advanced_inputs() -> list[io.Input]:
    """The settings that the page folds away."""
    return [
        io.Float.Input(
            "kv_rate",
            default=TrainConfig.kv_rate,
            min=0.0,
            max=1000.0,
            step=0.01,
            advanced=True,
            tooltip="Multiplies the learning rate of the deltas. 0 trains the words alone: the "
            "method Textual Inversion does that at its own rate. In the pack's "
            "little world 0.25 kept less of the look, obeyed new positions more often and let in "
            "more of the photos' backgrounds (docs/science.md of this pack).",
        ),
        io.Float.Input(
            "token_rate",
            default=TrainConfig.recommended().token_rate,
            min=0.0,
            max=1000.0,
            advanced=True,
            tooltip="Multiplies the learning rate of [V]. The papers use 1, at which the word "
            "hardly moves beside the deltas.",
        ),
        io.Float.Input(
            "mapper_rate",
            default=TrainConfig.recommended().mapper_rate,
            min=0.0,
            max=1000.0,
            step=0.01,
            advanced=True,
            tooltip="How fast [P] and [B] move: 1 is as fast as [V], whatever the size of the "
            "model; what differs between them is a part of that. With relative_speed off it "
            "multiplies the learning rate of the attribute mappers, or of the free vectors.",
        ),
        stratified_input(),
        io.Combo.Input(
            "attributes",
            options=[Attributes.MAPPERS.value, Attributes.VECTORS.value],
            default=RECOMMENDED.attributes.value,
            advanced=True,
            extra_dict=only_of("attributes"),
            tooltip="[P] and [B] from mappers over CLIP features (the paper), or as free vectors.",
        ),
        io.Combo.Input(
            "attention_norm",
            options=["mse", "l1", "fro"],
            default=RECOMMENDED.attention_norm,
            advanced=True,
            extra_dict=SETTLED,
            tooltip="The norm of the cross-attention loss, which the paper leaves open.",
        ),
        io.Combo.Input(
            "attention_map",
            options=["max", "max_detach", "minmax", "raw"],
            default=RECOMMENDED.attention_map,
            advanced=True,
            extra_dict=SETTLED,
            tooltip="How an attention map is scaled before it is compared with the mask.",
        ),
        io.Boolean.Input(
            "masked_loss",
            default=RECOMMENDED.masked_loss,
            advanced=True,
            extra_dict=SETTLED,
            tooltip="Where the subject trains alone, count only its pixels (worse in the paper).",
        ),
        detach_input(RECOMMENDED.detach_start_token, extra_dict=only_of("detach_start_token")),
        io.Boolean.Input(
            "center_features",
            default=RECOMMENDED.center_features,
            advanced=True,
            extra_dict=only_of("center_features"),
            tooltip="Subtract the photos' mean CLIP feature: their words start further apart. Off: "
            "as in the paper.",
        ),
        io.Combo.Input(
            "reduction",
            options=["mean", "adobe"],
            default=RECOMMENDED.reduction,
            advanced=True,
            extra_dict=SETTLED,
            tooltip="adobe: the photo loss counts four times, as in Custom Diffusion's own code.",
        ),
    ]


def appended_inputs() -> list[io.Input]:
    """The last of all, in the order they came, as saved workflows know inputs by their place."""
    return [
        rank_input(),
        io.Boolean.Input(
            "subject_attention",
            default=RECOMMENDED.subject_attention,
            optional=True,
            advanced=True,
            extra_dict=only_of("subject_attention"),
            tooltip="The cross-attention loss also keeps [V] on the subject; lambda_ca weighs it. "
            "With the other defaults new backgrounds are obeyed more often than in the paper's "
            "form (docs/science.md of this pack). Off: as in the paper.",
        ),
        io.Boolean.Input(
            "center_poses",
            default=RECOMMENDED.center_poses,
            optional=True,
            advanced=True,
            extra_dict=only_of("center_poses"),
            tooltip="What the [P] words of all photos have in common is taken out of them, so that "
            "[V] learns it: the look. Otherwise much of the look is learned as pose and missing "
            "where [V] stands alone (docs/science.md of this pack). A position that most photos "
            "share goes to [V], too. Where Subject Images has places it is off whatever stands "
            "here: composites without [P] teach [V] the look. Off: as in the paper.",
        ),
        io.Int.Input(
            "vectors",
            default=1,
            min=1,
            max=32,
            optional=True,
            advanced=True,
            extra_dict=only_of("vectors"),
            tooltip="Textual Inversion: of how many vectors [V] is made. More hold more of the "
            "look, take as many tokens of the prompt, and obey it less.",
        ),
        io.Boolean.Input(
            "learn_word",
            default=True,
            optional=True,
            advanced=True,
            extra_dict=only_of("learn_word"),
            tooltip="DreamBooth LoRA: [V] learns beside the LoRA. Off: it stays the rare token "
            "that it starts as, as in DreamBooth.",
        ),
        io.Boolean.Input(
            "relative_speed",
            default=RECOMMENDED.relative_speed,
            optional=True,
            advanced=True,
            extra_dict=only_of("relative_speed"),
            tooltip="mapper_rate is a speed, measured before the first step: many weights of a "
            "mapper push one word, so that at one learning rate [P] and [B] move 3 to 16 times "
            "as fast as [V]. Off: as in the paper.",
        ),
        io.Int.Input(
            "keep_every",
            default=0,
            min=0,
            max=20000,
            optional=True,
            advanced=True,
            tooltip="Steps between states of the concept that are kept on disk for Best Step, of "
            "about 77 MB each for Stable Diffusion 1.x. 0 keeps none.",
        ),
        io.Boolean.Input(
            "layout_noise",
            default=RECOMMENDED.layout_noise,
            optional=True,
            advanced=True,
            extra_dict=only_of("layout_noise"),
            tooltip="Nearly all photos train in the noisier half of the timesteps: there it is "
            "decided where the subject is and before which background, which is what [P] and [B] "
            "say. Of the samples of the subject alone, which teach its look, three in four do. "
            "Off: as in the paper.",
        ),
        io.Float.Input(
            "lambda_keep",
            default=RECOMMENDED.keep_weight,
            min=0.0,
            max=100.0,
            step=0.01,
            optional=True,
            advanced=True,
            extra_dict=only_of("keep_weight"),
            tooltip="Weight of what holds K and V still under prompts without [V], [P] and [B]: so "
            "other words go on meaning what they did, and new positions are obeyed. More of it "
            "keeps less of the look. 0: as in the paper.",
        ),
        io.Int.Input(
            "averaged_steps",
            default=TrainConfig.recommended().averaged_steps or 0,
            min=0,
            max=20000,
            optional=True,
            advanced=True,
            tooltip="The concept is the average of about so many last steps, a tenth of all at "
            "most: single steps leave noise in what is learned, and without it more of the look "
            "is kept. 0: as in the paper, what the last step leaves.",
        ),
    ]


def presentation_inputs() -> list[io.Input]:
    """What decides how a run is shown and kept, never what is learned."""
    return [
        io.Combo.Input(
            "resume",
            options=["auto", START_OVER],
            default="auto",
            advanced=True,
            tooltip="auto: go on with the same run where it was stopped, or take its result where "
            "it was finished. start over: forget what is on disk and train from the first step.",
        ),
        io.Int.Input(
            "snapshot_every",
            default=50,
            min=0,
            max=20000,
            advanced=True,
            tooltip="Steps between two snapshots on disk, of about 250 MB for Stable Diffusion, "
            "less for XL at rank 16; the last two are kept. 0 writes one only where you cancel.",
        ),
        io.Int.Input(
            "preview_every",
            default=25,
            min=0,
            max=20000,
            advanced=True,
            tooltip="The least steps between two samples in the live picture, which takes at most "
            "5 % of the time. 0 shows no picture.",
        ),
    ]
