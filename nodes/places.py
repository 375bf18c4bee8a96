"""Place Pictures."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..detex.host.images import rgb
from ..detex.host.places import PROMPT, check_length, drawn_places
from ..detex.host.prior import PriorConfig
from ..detex.photos.folder import files_hash, folder_of
from ..detex.photos.places import (
    DEFAULT_PLACES,
    Places,
    own_places,
    place_files,
    place_names,
    places_in,
)
from .prior import progress
from .sockets import CATEGORY, PlacesSocket


class PlacePictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXPlacePictures",
            display_name="Place Pictures",
            category=CATEGORY,
            description="Pictures of places, each with its name, for Subject Images: the subject "
            "trains on them in place of blanks. Drawn by the untrained model, or your own.",
            search_aliases=["backgrounds", "background images", "composites", "cut and paste"],
            inputs=[
                io.String.Input(
                    "names",
                    default="\n".join(DEFAULT_PLACES),
                    multiline=True,
                    tooltip='One place a line, as a prompt names it: "in sandy beach background". '
                    "With pictures of your own: their names, in the same order.",
                ),
                io.Int.Input(
                    "resolution",
                    default=PriorConfig.resolution,
                    min=64,
                    max=1024,
                    step=64,
                    tooltip="Side of the pictures, in pixels: as in Subject Images.",
                ),
                io.Int.Input(
                    "each",
                    default=1,
                    min=1,
                    max=50,
                    tooltip="Pictures drawn of each place. Every one takes as long as one picture "
                    "of your KSampler.",
                ),
                io.Model.Input("model", optional=True, tooltip="The checkpoint that you train on."),
                io.Clip.Input("clip", optional=True, tooltip="Its CLIP."),
                io.Vae.Input("vae", optional=True, tooltip="Its VAE."),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures of your own, one for each name; nothing is drawn then.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    optional=True,
                    tooltip="A folder with pictures of your own, each with its name in a text file "
                    "beside it: beach.jpg and beach.txt. Nothing is drawn then, and names is not "
                    "read.",
                ),
                io.String.Input(
                    "prompt",
                    default=PROMPT,
                    optional=True,
                    advanced=True,
                    tooltip="What is drawn; {place} stands for the name.",
                ),
                io.Int.Input(
                    "steps",
                    default=PriorConfig.steps,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Sampling steps a picture.",
                ),
                io.Float.Input(
                    "cfg",
                    default=PriorConfig.cfg,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Guidance.",
                ),
                io.Int.Input(
                    "seed",
                    default=PriorConfig.seed,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    optional=True,
                    advanced=True,
                    tooltip="Of all pictures; each place adds a number of its own to it.",
                ),
            ],
            outputs=[
                PlacesSocket.Output(display_name="places", tooltip="For places of Subject Images."),
                io.Image.Output(display_name="images", tooltip="The pictures, to look at."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = "", **_) -> str | float:
        if folder is None:  # wired: its value is not known yet, so look every time
            return float("nan")  # a new one each time: ComfyUI compares by identity too
        try:
            return files_hash(place_files(_folder(folder))) if folder.strip() else ""
        except (OSError, ValueError) as error:  # execute will say it to the user
            return str(error)

    @classmethod
    def execute(
        cls, names, resolution, each, images=None, folder="", clip=None, **drawing
    ) -> io.NodeOutput:
        if folder.strip():
            places, said = places_in(_folder(folder), resolution), "found in the folder"
        elif images is not None:
            own = list(rgb(images).cpu())
            places, said = own_places(own, place_names(names), resolution), "of your own"
        else:
            places, said = drawn(place_names(names), resolution, each, clip=clip, **drawing)
        if clip is not None:
            check_length(clip, places.names)
        lines = [f"{len(places.names)} pictures, {said}", *dict.fromkeys(places.names)]
        return io.NodeOutput(places, places.pictures, ui=ui.PreviewText("\n".join(lines)))


def drawn(
    names, resolution, each, *, model=None, clip=None, vae=None, prompt=PROMPT, **settings
) -> tuple[Places, str]:
    """Pictures by the wired model, and how many of them are new. Raises ValueError where something
    is not wired, and for a prompt without {place}.
    """
    if model is None or clip is None or vae is None:
        raise ValueError(
            "There is nothing to take the places from. Wire MODEL, CLIP and VAE of the checkpoint, "
            "which then draws them, or pictures of your own, or give a folder."
        )
    if "{place}" not in prompt:
        raise ValueError(
            f'The prompt "{prompt}" lacks {{place}}, which stands for the name of a place. Write '
            'for example "photo of {place}".'
        )
    config = PriorConfig(prompt=prompt, resolution=resolution, **settings)
    places, made = drawn_places(model, clip, vae, names, each, config, progress(config.steps))
    return places, f"{len(places.names) - made} found, {made} drawn"


def _folder(text: str) -> Path:
    return folder_of(text, Path(folder_paths.get_input_directory()))
