"""Subject Images: photos and masks become a DETEX_SUBJECT."""

from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..detex.canvas.masks import subject_sheet
from ..detex.host.encoders import looks_of
from ..detex.host.images import (
    feature_encoder,
    latent_decoder,
    latent_encoder,
    photos_of,
    planes_of,
)
from ..detex.photos.checks import check_resolution, check_sizes, matched_masks
from ..detex.photos.photos import BLANK_COLOURS, Subject, make_photos
from ..detex.photos.recipe import with_composites
from ..detex.prompt.grammar import training_prompt, with_clauses
from .sockets import CATEGORY, PlacesSocket, SubjectSocket


class SubjectImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXSubjectImages",
            display_name="Subject Images",
            category=CATEGORY,
            description="Collects 3-5 photos of one subject and its masks, and encodes them once.",
            search_aliases=["dataset", "reference images", "training images", "dreambooth"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The photos: a batch or a list, any sizes. The first is P1 and B1, the "
                    "second P2 and B2, and so on.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask a photo, in the same order: white is the subject. From any "
                    "segmentation node, or painted. DETEX needs them; the other methods do not.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Its image features drive the pose and background words: CLIP "
                    "ViT-L/14 or ViT-H/14, whatever the checkpoint. Without one they are free "
                    "vectors.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint you train on."),
                io.String.Input(
                    "class_word", default="dog", tooltip="What the photos show: dog, boot, teapot."
                ),
                io.Combo.Input(
                    "attribute",
                    options=["auto", "pose", "view"],
                    default="auto",
                    tooltip='The word after [P]: "pose" for living things, "view" for objects and '
                    "toys. auto decides by the class word.",
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
                io.Combo.Input(
                    "blank",
                    options=[*BLANK_COLOURS, "random"],
                    default="random",  # the paper leaves it open: docs/science.md
                    advanced=True,
                    tooltip="What stands in for the background where the subject trains alone. "
                    "The paper leaves its colour open. white tends to come along with [V]; random "
                    "colours, with the other defaults, less (docs/science.md of this pack).",
                ),
                io.Int.Input(
                    "scaled_copies",
                    default=0,  # a copy moves the subject: docs/science.md
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Copies of each photo at random sizes and places, captioned far away, "
                    "close up and so on; they take its place in training, as in Custom Diffusion's "
                    "augmentation (12 come near it). 0 trains on the plain photos: a copy moves "
                    "the subject, and its place is for [P] to learn (docs/science.md of this "
                    "pack).",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Of the scaled copies, random blank colours and composites.",
                ),
                PlacesSocket.Input(
                    "places",
                    optional=True,
                    tooltip="From Place Pictures: the cut-out subject trains on these, under "
                    "prompts that name them, in place of a blank. For DETEX; not in the paper.",
                ),
            ],
            outputs=[
                SubjectSocket.Output(
                    display_name="subject", tooltip="Photos, masks and features, ready to train on."
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The photos as training sees them, with their numbers; the background "
                    "is dark. Wire it into Preview Image before you train.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images, vae, masks=None, clip_vision=None, places=None, **widgets
    ) -> io.NodeOutput:
        settings = {name: values[0] for name, values in widgets.items()}
        photos = photos_of(images)
        check_sizes(photos)
        check_resolution(settings["resolution"])
        planes = matched_masks(photos, planes_of(masks)) if masks else None
        encode_image = feature_encoder(clip_vision[0]) if clip_vision else None
        encode, report = latent_encoder(vae[0]), ProgressBar(len(photos)).update_absolute
        if places:
            settings["blank"] = None
        encoded = make_photos(photos, planes, encode_image, encode, report=report, **settings)
        if places:
            where, seed = places[0], settings["seed"]
            encoded = with_composites(
                encoded, photos, planes, where, encode, seed=seed, report=report
            )
        looks = looks_of(clip_vision[0], photos, planes) if clip_vision else None
        subject = Subject(encoded, encode, latent_decoder(vae[0]), looks)
        (named,) = encoded.named
        prompt = training_prompt(named.class_word, named.attribute, ("V",))
        said = f"Photo 1: {with_clauses(prompt, named.attribute, 1, 1)}"
        return io.NodeOutput(subject, subject_sheet(photos, planes), ui=ui.PreviewText(said))
