"""Training Preset."""

from comfy_api.latest import io, ui

from ..detex.host.families import family_of, training_side
from ..detex.training.presets import PRESETS
from .sockets import CATEGORY


class TrainingPreset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXTrainingPreset",
            display_name="Training Preset",
            category=CATEGORY,
            description="The amounts of a training by one choice: resolution, prior images, steps.",
            search_aliases=["fast", "balanced", "paper", "settings"],
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint to train for: it sets the size."),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS],
                    default="balanced",
                    tooltip="fast: half the steps and a quarter of the paper's prior images, to "
                    "see whether it works. balanced: all steps, half of the prior images. paper: "
                    "the paper's 600 steps and 200 prior images of 50 steps.",
                ),
            ],
            outputs=[
                io.Int.Output(
                    display_name="resolution",
                    tooltip="Pixels a side, for Subject Images, Class Prior Images and Place "
                    "Pictures.",
                ),
                io.Int.Output(
                    display_name="prior_images", tooltip="For count of Class Prior Images."
                ),
                io.Int.Output(
                    display_name="sampling_steps",
                    tooltip="For steps of Class Prior Images and Place Pictures.",
                ),
                io.Int.Output(display_name="steps", tooltip="For steps of DETEX Train."),
            ],
        )

    @classmethod
    def execute(cls, model, preset) -> io.NodeOutput:
        side, amounts = training_side(model), PRESETS[preset]
        said = (
            f"{family_of(model)}: {side} pixels, {amounts.steps} steps; {amounts.prior_images} "
            f"prior images and all places in {amounts.sampling_steps} sampling steps each"
        )
        outputs = side, amounts.prior_images, amounts.sampling_steps, amounts.steps
        return io.NodeOutput(*outputs, ui=ui.PreviewText(said))
