"""Load Subject Folder."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..detex.host.mask_makers import go_to_training, lacking_masks
from ..detex.photos.checks import check_distinct
from ..detex.photos.folder import (
    files_hash,
    folder_of,
    in_known_order,
    photo_files,
    read_photo,
)
from ..detex.photos.photos import photo_hash
from .sockets import CATEGORY, ConceptSocket


class LoadSubjectFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DETEXLoadSubjectFolder",
            display_name="Load Subject Folder",
            category=CATEGORY,
            description="Loads all photos of a folder, with their masks, in the order of their "
            "names: photo2 before photo10.",
            search_aliases=["load images", "image folder", "dataset", "batch load", "directory"],
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="Path of the folder with the photos; a plain name is a folder in "
                    "ComfyUI's input folder. The mask of dog.jpg is dog.mask.png beside it, white "
                    "on the subject, or the photo's own transparency.",
                ),
                ConceptSocket.Input(
                    "concept",
                    optional=True,
                    tooltip="A concept trained on these photos before: each photo keeps its number "
                    "there, however the files are called now; new photos follow.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="The photos, upright, each at its own size.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="A mask for each photo; black where the folder has none.",
                ),
                io.String.Output(
                    display_name="names", is_output_list=True, tooltip="The photos' file names."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **_) -> str | float:
        if folder is None:  # wired: its value is not known yet, so look every time
            return float("nan")  # a new one each time: ComfyUI compares by identity too
        try:
            return files_hash(photo_files(_folder(folder)))
        except (OSError, ValueError) as error:  # execute will say it to the user
            return str(error)

    @classmethod
    async def execute(cls, folder, concept=None) -> io.NodeOutput:
        """ComfyUI runs what is async before all else: what is wrong in the folder is told before a
        checkpoint is loaded and pictures are drawn.
        """
        photos = [read_photo(files) for files in photo_files(_folder(folder))]
        hashes, names = [photo_hash(p.pixels) for p in photos], [p.name for p in photos]
        check_distinct(hashes, names)
        order = in_known_order(hashes, names, concept.photo_hashes if concept else ())
        photos = [photos[i] for i in order]
        lines = [
            f"P{number} B{number}  {photo.name}  ({photo.mask_from})  {hashes[i][:8]}"
            + (f"  first of {photo.frames} frames" if photo.frames > 1 else "")
            for number, (i, photo) in enumerate(zip(order, photos, strict=True), start=1)
        ]
        without = [photo.name for photo in photos if photo.mask_from == "no mask"]
        if without and cls.hidden and go_to_training(cls.hidden.prompt, cls.hidden.unique_id, 1):
            raise ValueError(lacking_masks(without))
        lines += ["", lacking_masks(without)] if without else []
        return io.NodeOutput(
            [photo.pixels[None] for photo in photos],
            [photo.mask[None] for photo in photos],
            [photo.name for photo in photos],
            ui=ui.PreviewText("\n".join(lines)),
        )


def _folder(text: str) -> Path:
    return folder_of(text, Path(folder_paths.get_input_directory()))
