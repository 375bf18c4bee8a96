"""Class Prior Images."""

import re

import comfy.samplers
import comfy.utils
from comfy_api.latest import io, ui

from ..detex.canvas.pictures import as_picture
from ..detex.host.prior import PriorConfig, Report, prior_pictures
from ..detex.host.progress import say
from ..detex.photos.checks import check_class_word
from ..detex.prompt.grammar import with_article
from ..detex.training.pace import Pace
from .sockets import CATEGORY


class ClassPriorImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXClassPriorImages",
            display_name="Class Prior Images",
            category=CATEGORY,
            description="Pictures of the class by the untrained model, for DETEX Train. They stay "
            "on disk: only what is missing is made, also after a cancel.",
            search_aliases=["regularization images", "prior preservation", "class images", "reg"],
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint that you train on."),
                io.Clip.Input("clip", tooltip="Its CLIP."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.String.Input(
                    "class_word",
                    default="dog",
                    tooltip="What your photos show, as in Subject Images.",
                ),
                io.Int.Input(
                    "count",
                    default=200,
                    min=1,
                    max=5000,
                    tooltip="How many pictures. The paper uses 200; more can be added later.",
                ),
                io.Int.Input(
                    "resolution",
                    default=PriorConfig.resolution,
                    min=64,
                    max=1024,
                    step=64,
                    tooltip="Side of the pictures, in pixels: as in Subject Images.",
                ),
                io.String.Input(
                    "prompt",
                    default="photo of a {class}",
                    advanced=True,
                    tooltip="{class} stands for the class word. DETEX Train trains these pictures "
                    'with the caption "photo of a dog".',
                ),
                io.Int.Input(
                    "steps",
                    default=PriorConfig.steps,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="Sampling steps a picture. The paper uses 50.",
                ),
                io.Float.Input(
                    "cfg",
                    default=PriorConfig.cfg,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Guidance. The paper uses 6.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default=PriorConfig.sampler_name,
                    advanced=True,
                    tooltip="ComfyUI's sampler. The paper uses ddim.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default=PriorConfig.scheduler,
                    advanced=True,
                    tooltip="ComfyUI's schedule of noise levels.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures made at once: more is faster and takes more memory.",
                ),
                io.Int.Input(
                    "seed",
                    default=PriorConfig.seed,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Of the first picture; each later one has the next number.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="For prior_images of DETEX Train."),
                io.String.Output(
                    display_name="folder", tooltip="Where the pictures are, to look at."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, class_word, count, prompt, batch_size, **settings
    ) -> io.NodeOutput:
        text = class_prompt(prompt, class_word)
        config = PriorConfig(prompt=text, **settings)
        images, folder, made = prior_pictures(
            model, clip, vae, config, count, batch_size, progress(config.steps)
        )
        said = f'"{text}": {count - made} pictures found, {made} made\n{folder}'
        if made < count:
            said += "\nDelete this folder and restart ComfyUI to have all of them made anew."
        return io.NodeOutput(images, str(folder), ui=ui.PreviewText(said))


def class_prompt(prompt: str, class_word: str) -> str:
    """The prompt with the class word in it. Raises ValueError where it names no class."""
    if "{class}" not in prompt:
        raise ValueError(
            f'The prompt "{prompt}" lacks {{class}}, which stands for the class word. Write for '
            'example "photo of a {class}".'
        )
    word = check_class_word(class_word)
    article = with_article(word).partition(" ")[0]  # "an" before an apple
    plain = " ".join(prompt.split())
    named = re.sub(r"\b([Aa])n? (?=\{class\})", rf"\1{article[1:]} ", plain)
    return named.replace("{class}", word)


def progress(steps: int) -> Report:
    """Moves the node's bar over the whole count, shows each batch's last picture, and says how long
    the rest takes. steps: of a picture.
    """
    bar, pace = comfy.utils.ProgressBar(1), Pace("pictures", say, warm_up=0, measured=1)

    def report(done: int, of_all: int, picture) -> None:
        preview = None
        if picture is not None:
            preview = ("JPEG", as_picture(picture), 512)
            pace.done(done // steps, of_all // steps)
        bar.update_absolute(done, of_all, preview)

    return report
