"""The inputs of DETEX Train that the page folds away."""

from comfy_api.latest import io

from ..detex.training.config import Attributes, DetexConfig, TrainConfig

START_OVER = "start over"
SUBJECT_ATTENTION = True  # the paper has no such term: docs/science.md
CENTER_POSES = True  # nor this
ADVANCED_DETEX = (
    "attributes",
    "attention_norm",
    "attention_map",
    "masked_loss",
    "detach_start_token",
    "center_features",
    "reduction",
)


def advanced_inputs() -> list[io.Input]:
    """The settings that the page folds away; the defaults are the paper's."""
    return [
        io.Float.Input(
            "kv_rate",
            default=TrainConfig.kv_rate,
            min=0.0,
            max=1000.0,
            step=0.01,
            advanced=True,
            tooltip="Multiplies the learning rate of the K, V deltas. 0 trains the words alone: "
            "with Custom Diffusion that is Textual Inversion; raise token_rate then. In the pack's "
            "little world 0.25 kept less of the look, obeyed new positions more often and let in "
            "more of the photos' backgrounds (docs/science.md of this pack).",
        ),
        io.Float.Input(
            "token_rate",
            default=TrainConfig.token_rate,
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
            tooltip="Multiplies the learning rate of what [P] and [B] come from: the attribute "
            "mappers, or the free vectors.",
        ),
        io.Boolean.Input(
            "stratified_timesteps",
            default=TrainConfig.stratified_timesteps,
            advanced=True,
            tooltip="Spread each batch's timesteps over the schedule: less noise in the gradient.",
        ),
        io.Combo.Input(
            "attributes",
            options=[Attributes.MAPPERS.value, Attributes.VECTORS.value],
            default=DetexConfig.attributes.value,
            advanced=True,
            tooltip="[P] and [B] from mappers over CLIP features (the paper), or as free vectors.",
        ),
        io.Combo.Input(
            "attention_norm",
            options=["mse", "l1", "fro"],
            default=DetexConfig.attention_norm,
            advanced=True,
            tooltip="The norm of the cross-attention loss, which the paper leaves open.",
        ),
        io.Combo.Input(
            "attention_map",
            options=["max", "max_detach", "minmax", "raw"],
            default=DetexConfig.attention_map,
            advanced=True,
            tooltip="How an attention map is scaled before it is compared with the mask.",
        ),
        io.Boolean.Input(
            "masked_loss",
            default=DetexConfig.masked_loss,
            advanced=True,
            tooltip="Where the subject trains alone, count only its pixels (worse in the paper).",
        ),
        io.Boolean.Input(
            "detach_start_token",
            default=DetexConfig.detach_start_token,
            advanced=True,
            tooltip="No gradient through the start token, which all prompts share.",
        ),
        io.Boolean.Input(
            "center_features",
            default=DetexConfig.center_features,
            advanced=True,
            tooltip="Subtract the photos' mean CLIP feature: their words start further apart.",
        ),
        io.Combo.Input(
            "reduction",
            options=["mean", "adobe"],
            default=DetexConfig.reduction,
            advanced=True,
            tooltip="adobe: the photo loss counts four times, as in Custom Diffusion's own code.",
        ),
    ]


def later_inputs() -> list[io.Input]:
    """The last of all, in the order they came, as saved workflows know inputs by their place."""
    return [
        io.Int.Input(
            "rank",
            default=0,
            min=0,
            max=1280,
            optional=True,
            advanced=True,
            tooltip="Of the K, V deltas. 0: as the model needs it, full matrices for Stable "
            "Diffusion 1.x and 2.x, rank 16 for XL. A low rank makes small files and needs less "
            "memory.",
        ),
        io.Boolean.Input(
            "subject_attention",
            default=SUBJECT_ATTENTION,
            optional=True,
            advanced=True,
            tooltip="The cross-attention loss also keeps [V] on the subject; lambda_ca weighs it. "
            "With the other defaults new backgrounds are obeyed more often than in the paper's "
            "form (docs/science.md of this pack). Off: as in the paper.",
        ),
        io.Boolean.Input(
            "center_poses",
            default=CENTER_POSES,
            optional=True,
            advanced=True,
            tooltip="What the [P] words of all photos have in common is taken out of them, so that "
            "[V] learns it: the look. Otherwise much of the look is learned as pose and missing "
            "where [V] stands alone (docs/science.md of this pack). A position that most photos "
            "share goes to [V], too. Off: as in the paper.",
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
