"""Varied Images: pictures of different individuals become DETEX_VARIED_IMAGES."""

from comfy.utils import ProgressBar
from comfy_api.latest import io

from ..detex.canvas.masks import varied_sheet
from ..detex.host.images import (
    feature_encoder,
    latent_decoder,
    latent_encoder,
    photos_of,
    planes_of,
)
from ..detex.photos.checks import check_resolution, check_sizes, matched_masks
from ..detex.photos.photos import Subject
from ..detex.photos.varied import check_varied, make_varied
from .sockets import CATEGORY, PlacesSocket, VariedSocket


class VariedImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXVariedImages",
            display_name="Varied Images",
            category=CATEGORY,
            description="Pictures of different individuals of one kind, for Dis²Booth Train, which "
            "learns what they have in common and how they vary. For photos of one and the same "
            "subject take Subject Images.",
            search_aliases=["dis2booth", "dataset", "distribution", "many images", "variation"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="8 to 200 pictures, one of each individual: a batch or a list, such as "
                    "the images of Load Subject Folder. Four are the least.",
                ),
                io.String.Input(
                    "class_word",
                    default="dog",
                    tooltip="What all of them are, in plain words: corgi, boot, teapot.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint you train on."),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask a picture, in the same order, white on the individual. With "
                    "them it also trains on other grounds, and what is drawn later keeps its look "
                    "and not a background. Black masks throughout count as none.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Its image features give each picture its code. CLIP ViT-L/14, "
                    "whatever the checkpoint. Without it the codes are learned freely.",
                ),
                PlacesSocket.Input(
                    "places",
                    optional=True,
                    tooltip="From Place Pictures: the cut-out individuals also train on these. "
                    "Without places they train on each other's backgrounds. Needs masks.",
                ),
                io.String.Input(
                    "backgrounds",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What is behind each individual, one line a picture in their order: "
                    "sandy beach. An empty line where no words fit; nothing at all is fine, too. "
                    "What a caption names is not learned as part of an individual.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=1024,
                    step=64,
                    tooltip="Side of the square training picture, in pixels: 512 for Stable "
                    "Diffusion 1.x, 768 for 2.x checkpoints of that size, 1024 for XL, 64 for "
                    "the demo model.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Of where and on which grounds the cut-out individuals are put.",
                ),
            ],
            outputs=[
                VariedSocket.Output(
                    display_name="varied_images", tooltip="For Dis²Booth Train (reconstruction)."
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The pictures as training sees them, with the numbers that Draw "
                    "Individuals mixes by. Wire it into Preview Image before you train.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images, vae, masks=None, clip_vision=None, places=None, **widgets
    ) -> io.NodeOutput:
        settings = {name: values[0] for name, values in widgets.items()}
        photos = photos_of(images)
        check_varied(photos)
        check_sizes(photos)
        check_resolution(settings["resolution"])
        found = planes_of(masks) if masks else []
        planes = matched_masks(photos, found) if any(mask.any() for mask in found) else None
        see = feature_encoder(clip_vision[0]) if clip_vision else None
        encode, bar = latent_encoder(vae[0]), ProgressBar(len(photos) * (2 if planes else 1))
        where = places[0] if places else None
        encoded = make_varied(
            photos, planes, see, encode, places=where, report=bar.update_absolute, **settings
        )
        subject = Subject(encoded, encode, latent_decoder(vae[0]))
        return io.NodeOutput(subject, varied_sheet(photos, planes))
