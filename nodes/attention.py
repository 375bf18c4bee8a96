"""Capture Attention and Attention Map Preview."""

import re

from comfy_api.latest import io

from ..detex.canvas.sheets import overlay, resize_maps, sheet
from ..detex.host.attention import capture_attention
from ..detex.host.passes import prompt_readings
from ..detex.unet.attention import AttentionMaps
from .sockets import CATEGORY, AttentionSocket


class CaptureAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXCaptureAttention",
            display_name="Capture Attention",
            category=CATEGORY,
            description="Watches where words of the prompt attend while any sampler runs. The "
            "image does not change by a bit.",
            search_aliases=["daam", "attention map", "heat map", "cross attention"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL on its way to the sampler."),
                io.Clip.Input("clip", tooltip="The CLIP that encodes the positive prompt."),
                io.String.Input(
                    "text",
                    multiline=True,
                    tooltip="The positive prompt: the text of Compose, or a stock prompt.",
                ),
                io.String.Input(
                    "words",
                    default="[V]",
                    tooltip="Words of the prompt, separated by commas: [V], [P1], dog, red ball.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Wire it into the sampler."),
                AttentionSocket.Output(
                    display_name="attention", tooltip="For Attention Map Preview."
                ),
            ],
        )

    @classmethod
    def execute(cls, model, clip, text, words) -> io.NodeOutput:
        chosen = tuple(word.strip() for word in re.split("[,，、]", words) if word.strip())
        if not chosen:
            raise ValueError('No word to watch. Name some of the prompt, such as "[V], dog".')
        readings = prompt_readings(clip, text, chosen)
        maps = AttentionMaps(tuple(dict.fromkeys(chosen)))
        patched = capture_attention(model, maps, readings[0].positions, readings)
        return io.NodeOutput(patched, maps)


class AttentionPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXAttentionPreview",
            display_name="Attention Map Preview",
            category=CATEGORY,
            description="Draws the captured maps over the sampled image.",
            search_aliases=["daam", "attention map", "heat map"],
            inputs=[
                AttentionSocket.Input("attention", tooltip="From Capture Attention."),
                io.Image.Input("image", tooltip="The image that was sampled with it."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="heat_maps", tooltip="A sheet: each image and its maps, by word."
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="The maps in [0, 1], image size: all words of image 1, then 2...",
                ),
            ],
        )

    @classmethod
    def execute(cls, attention, image) -> io.NodeOutput:
        maps = attention.heat_maps()  # [words, B, h, w]
        if maps.shape[1] != len(image):
            raise ValueError(
                f"{maps.shape[1]} images were sampled with the captured attention, but "
                f"{len(image)} are wired here. Wire the decoded images of that same sampler."
            )
        maps = resize_maps(maps, image.shape[1], image.shape[2]).transpose(0, 1)  # [B, words, H, W]
        rows = [
            [("image", picture)]
            + [
                (word, overlay(picture[None].cpu(), heat[None])[0])
                for word, heat in zip(attention.words, heats, strict=True)
            ]
            for picture, heats in zip(image, maps, strict=True)
        ]
        cell = min(max(image.shape[1:3]), 512) if max(image.shape[1:3]) >= 128 else 192
        return io.NodeOutput(sheet(rows, cell), maps.flatten(0, 1))
