"""A small model and subjects of the pack's own, to try every graph without a download."""

from comfy_api.latest import io

from ..detex.host.demo_model import load_demo_model
from ..detex.photos.places import Places
from ..detex.toys.scene import BACKGROUNDS
from ..detex.toys.subjects import demo_places, demo_set, demo_subject
from .sockets import CATEGORY, PlacesSocket

DEMO_CATEGORY = f"{CATEGORY}/demo"


class DemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXDemoModel",
            display_name="DETEX Demo Model",
            category=DEMO_CATEGORY,
            description="A tiny text-to-image model of toys at 64x64 pixels, trained from scratch "
            "for this pack. Swap it for Load Checkpoint when the graph does what you want.",
            search_aliases=["detex", "tiny model", "example model"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="64x64 pixels, CPU-fast."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder."),
                io.Vae.Output(display_name="vae", tooltip="Its VAE, 4 pixels a latent cell."),
                io.ClipVision.Output(display_name="clip_vision", tooltip="Its image encoder."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        demo = load_demo_model()
        return io.NodeOutput(demo.model, demo.clip, demo.vae, demo.clip_vision)


class DemoSubject(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXDemoSubject",
            display_name="DETEX Demo Subject",
            category=DEMO_CATEGORY,
            description="Photos and masks of a toy that the demo model has never seen.",
            search_aliases=["detex", "example images"],
            inputs=[
                io.Int.Input("number", default=1, min=1, max=12, tooltip="Which toy."),
                io.Int.Input("count", default=4, min=1, max=16, tooltip="How many photos."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Of the photos.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The photos, 64x64 pixels."),
                io.Mask.Output(display_name="masks", tooltip="White is the toy."),
                io.String.Output(display_name="class_word", tooltip="Such as ball."),
                PlacesSocket.Output(
                    display_name="places",
                    tooltip="Pictures of six of the demo model's eight backgrounds without a toy, "
                    "for places of Subject Images. On a checkpoint: Place Pictures.",
                ),
            ],
        )

    @classmethod
    def execute(cls, number, count, seed) -> io.NodeOutput:
        subject = demo_subject(number - 1, count, seed)
        places = Places(*demo_places())
        return io.NodeOutput(subject.images, subject.masks, subject.class_word, places)


class DemoSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXDemoSet",
            display_name="DETEX Demo Set",
            category=DEMO_CATEGORY,
            description="Pictures and masks of different toys that have shape, surface and second "
            "colour in common, while main colour and size vary.",
            search_aliases=["detex", "example images", "dis2booth"],
            inputs=[
                io.Int.Input("count", default=16, min=4, max=64, tooltip="How many toys."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Of the pictures.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures, 64x64 pixels."),
                io.Mask.Output(display_name="masks", tooltip="White is the toy."),
                io.String.Output(display_name="class_word", tooltip="What all of them are."),
                io.String.Output(
                    display_name="backgrounds",
                    tooltip="What is behind each toy, a line a picture, for Varied Images.",
                ),
                PlacesSocket.Output(
                    display_name="places",
                    tooltip="Pictures of six of the demo model's eight backgrounds without a toy.",
                ),
            ],
        )

    @classmethod
    def execute(cls, count, seed) -> io.NodeOutput:
        toys = demo_set(count, seed)
        behind = "\n".join(BACKGROUNDS[i] for i in toys.scenes.background.tolist())
        places = Places(*demo_places())
        return io.NodeOutput(toys.images, toys.masks, toys.class_word, behind, places)
