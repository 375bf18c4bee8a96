"""Best Step."""

from collections.abc import Sequence

import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..detex.canvas.charts import step_chart
from ..detex.canvas.labelled_grid import labelled_grid
from ..detex.canvas.pictures import as_picture
from ..detex.concept.file import load_concept
from ..detex.evaluate.knee import knee
from ..detex.evaluate.scoring import Masked
from ..detex.host.best_step import Models, Trial, Tried, names_of, try_states
from ..detex.host.encoders import wired_encoders
from ..detex.host.images import photos_of
from ..detex.host.prior import PriorConfig
from ..detex.host.states import states_of
from ..detex.prompt.nearly import check_prompt
from ..detex.prompt.prompt_table import SPLIT, short_names
from .evaluate import optional_planes, single
from .sockets import CATEGORY, ConceptSocket

CELL = 128  # pixels, of a picture on the sheet
SAMPLING = ("resolution", "steps", "cfg", "sampler_name", "scheduler", "seed")


class BestStep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXBestStep",
            display_name="Best Step",
            category=CATEGORY,
            description="Draws the same prompts from the states that DETEX Train has kept, scores "
            "them, and gives out the concept of the step that is best in likeness and edits.",
            search_aliases=["overfitting", "early stopping", "checkpoint picker", "which epoch"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint, without the concept."),
                io.Clip.Input("clip", tooltip="Its CLIP."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                ConceptSocket.Input(
                    "concept",
                    tooltip="From DETEX Train with keep_every above 0, or from Load Decoupled "
                    "Embeddings while the training is still on this disk.",
                ),
                io.Image.Input("photos", tooltip="The subject's photos, as it should look."),
                io.ClipVision.Input(
                    "clip_vision", tooltip="What compares the pictures, as in Evaluate Concept."
                ),
                io.Mask.Input(
                    "photo_masks",
                    optional=True,
                    tooltip="White is the subject in the photos, so that their backgrounds do not "
                    "count.",
                ),
                io.Clip.Input(
                    "score_clip",
                    optional=True,
                    tooltip="The text encoder that was trained with clip_vision, for CLIP-T: Load "
                    "CLIP with clip_l.safetensors beside CLIP ViT-L/14. Without it editability is "
                    "how far pictures of different prompts differ.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="photo of a [V] dog on the beach\nphoto of a [V] dog in the snow",
                    tooltip="One prompt a line: edits that matter to you, two or more.",
                ),
                io.Int.Input(
                    "count", default=2, min=1, max=16, tooltip="Pictures of each prompt and state."
                ),
                io.Int.Input(
                    "resolution",
                    default=PriorConfig.resolution,
                    min=64,
                    max=1024,
                    step=64,
                    tooltip="Side of the pictures, in pixels.",
                ),
                io.Int.Input(
                    "steps", default=25, min=1, max=1000, tooltip="Sampling steps a picture."
                ),
                io.Float.Input(
                    "cfg", default=6.0, min=0.0, max=30.0, step=0.1, tooltip="Guidance."
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default=PriorConfig.sampler_name,
                    tooltip="ComfyUI's sampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="ComfyUI's schedule of noise levels.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Of the first picture of each prompt; every state has the same seeds.",
                ),
            ],
            outputs=[
                ConceptSocket.Output(
                    display_name="concept", tooltip="That of the best step, to save or apply."
                ),
                io.Int.Output(display_name="step", tooltip="Its number of steps."),
                io.String.Output(display_name="table", tooltip="Both scores of each step."),
                io.Image.Output(
                    display_name="plot", tooltip="Likeness and editability along the steps."
                ),
                io.Image.Output(
                    display_name="sheet", tooltip="A row for each prompt, a column for each step."
                ),
            ],
        )

    @classmethod
    def execute(cls, concept, photos, clip_vision, prompts, count, **inputs) -> io.NodeOutput:
        lines = tuple(" ".join(line.split()) for line in prompts[0].splitlines() if line.strip())
        for line in lines:
            check_prompt(line, concept[0].word_names)
        sampling = {name: inputs[name][0] for name in SAMPLING}
        trial = Trial(check_lines(lines), count[0], sampling)
        real = Masked(photos_of(photos), optional_planes(inputs.get("photo_masks")))
        encoders, note = wired_encoders(clip_vision[:1], single(inputs, "score_clip"), "")
        states = states_of(concept[0])
        models = Models(*(inputs[name][0] for name in ("model", "clip", "vae")))
        bar = comfy.utils.ProgressBar(len(states) * trial.work)
        tried = try_states(states, models, trial, real, encoders, reporter(bar))
        best = knee([one.point for one in tried])
        step, names = tried[best].point.step, names_of(tried[best].evaluation)
        plot = step_chart([one.point for one in tried], best, names, f"best: step {step}")
        table = step_table(tried, best, names, note)
        outputs = load_concept(states[step]), step, table, plot, step_sheet(tried, trial)
        return io.NodeOutput(*outputs, ui=ui.PreviewText(table))


def check_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError for fewer than two prompts, or two alike."""
    if len(set(lines)) < 2 or len(set(lines)) < len(lines):
        raise ValueError(
            f"There are {len(set(lines))} different prompts. Write two or more, one a line, none "
            'twice, such as "photo of a [V] dog on the beach" and "photo of a [V] dog in snow".'
        )
    return lines


def reporter(bar: comfy.utils.ProgressBar):
    """Moves the node's bar, and shows the newest picture."""

    def report(done: int, picture: Tensor | None) -> None:
        preview = None if picture is None else ("JPEG", as_picture(picture), 512)
        bar.update_absolute(done, bar.total, preview)

    return report


def step_sheet(tried: Sequence[Tried], trial: Trial) -> Tensor:
    """A row for each prompt, a column for each step -> [1, H, W, 3]."""
    names = short_names(trial.prompts)
    cells = [
        (f"{names[prompt]}{SPLIT}step {one.point.step}", torch.stack(list(batch)))
        for one in tried
        for prompt, batch in zip(trial.prompts, trial.by_prompt(one.pictures), strict=True)
    ]
    return labelled_grid([batch for _, batch in cells], [label for label, _ in cells], CELL)


def step_table(tried: Sequence[Tried], best: int, names: tuple[str, str], note: str) -> str:
    """A line for each step."""
    lines = [f"best: step {tried[best].point.step}", ""]
    for place, (step, like, edits) in enumerate(one.point for one in tried):
        mark = "  <- best" if place == best else ""
        lines.append(f"step {step}: {names[0]} {like:.3f}, {names[1]} {edits:.3f}{mark}")
    return "\n".join([*lines, *([f"\n{note}"] if note else [])])
