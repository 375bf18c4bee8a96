"""Concepts in One Photo: one photo and its class words become a DETEX_PHOTO."""

from comfy_api.latest import io

from ..detex.canvas.masks import concept_sheet
from ..detex.host.images import latent_decoder, latent_encoder, photos_of, planes_of
from ..detex.photos.checks import check_resolution
from ..detex.photos.concepts import (
    COPIES,
    concept_masks,
    make_concepts,
    make_scene,
    named_concepts,
    only_photo,
)
from ..detex.photos.photos import Subject
from ..detex.prompt.grammar import joint_class
from .sockets import CATEGORY, PhotoSocket


class ConceptsInOnePhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXConceptsInOnePhoto",
            display_name="Concepts in One Photo",
            category=CATEGORY,
            description="One photo of two or three subjects, for DisenDiff Train, which learns "
            "each as a word of its own. No image encoder is needed.",
            search_aliases=["disendiff", "break a scene", "multiple subjects", "single image"],
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="The one photo that shows all of them."),
                io.String.Input(
                    "class_words",
                    default="cat, dog",
                    tooltip="What it shows, in plain words with commas between: the first becomes "
                    "[V], the second [V2], and so on. Six at most.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint you train on."),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask a class word, in the same order, white where that subject "
                    "is. With them the attention is held to the masks; without, as in the paper, "
                    "to what the model itself finds.",
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
                    "scaled_copies",
                    default=COPIES,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Copies of the photo to train on: one as it is, the others at random "
                    "sizes and places, half of them mirrored, captioned far away, close up and so "
                    "on: the augmentation of the released code. 0 trains on the plain photo alone.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Of the scaled copies.",
                ),
            ],
            outputs=[
                PhotoSocket.Output(display_name="photo", tooltip="For DisenDiff Train."),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The photo as training sees it; with masks, once for each of them. "
                    "Wire it into Preview Image before you train.",
                ),
                io.String.Output(
                    display_name="class_word",
                    tooltip='All class words in one, "cat and a dog", for Class Prior Images.',
                ),
            ],
        )

    @classmethod
    def execute(cls, image, vae, masks=None, **widgets) -> io.NodeOutput:
        settings = {name: values[0] for name, values in widgets.items()}
        resolution, words = settings.pop("resolution"), settings.pop("class_words")
        check_resolution(resolution)
        named = named_concepts(words)
        photo = only_photo(photos_of(image))
        planes = concept_masks(photo, planes_of(masks), named) if masks else None
        scene = make_scene(photo, planes, named, resolution)
        encode = latent_encoder(vae[0])
        encoded = make_concepts(photo, scene, named, encode, **settings)
        _, _, class_word = joint_class(named).partition(" ")  # the prompt has the article
        subject = Subject(encoded, encode, latent_decoder(vae[0]))
        return io.NodeOutput(subject, concept_sheet(scene, named), class_word)
