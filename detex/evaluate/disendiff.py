"""DisenDiff's data set as Monalissaa/DisenDiff lays out its folder `datasets`: photos of several
concepts, prompts for all of them and for each, and pictures of each alone (arXiv 2403.18551).

images/cat_dog/any.jpg                the photo; the folder's name is its class words
prompts/cat_dog_global.txt            "photo of a <new1> cat and <new2> dog", one a line
prompts/cat_dog_subject1.txt, ...     "<new1> cat wearing sunglasses"
data_eval/cat_dog/subject1/any.jpg    what pictures of the first concept are compared with
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..photos.concepts import concept_masks, make_scene, named_concepts
from ..photos.crop import Square, cut_square
from ..photos.folder import PhotoFile, natural_order, photo_files, read_photo
from ..photos.names import SUFFIXES
from ..prompt.grammar import Named, split_placeholders
from .benchmark import Asked, Bench, Benchmark
from .masked import BLANK
from .recipes import SCENE_RECIPES, SCENE_TABLES, SceneRecipe
from .scoring import Masked
from .workflows import Amounts, scene_training

IMAGES, PROMPTS, REFERENCES = "images", "prompts", "data_eval"
COMBINED = "Combined"
MARK = re.compile(r"<([^<>]+)>")  # <new1>; <chair> for <new1> chair, as two sets have it
CUT_OUT = (
    "The references are cut out of the photos by their masks: the paper has crops by hand, as "
    "without --masks."
)


class Scene(NamedTuple):
    """One photo of several concepts, with a mask for each or none."""

    name: str
    named: tuple[Named, ...]
    photo: Path
    masks: tuple[Path, ...]
    asked: tuple[Asked, ...]

    @property
    def class_words(self) -> tuple[str, ...]:
        return tuple(one.class_word for one in self.named)

    @property
    def photos(self) -> tuple[PhotoFile, ...]:
        return (PhotoFile(self.photo, None),)

    @property
    def is_masked(self) -> bool:
        return bool(self.masks)

    @property
    def folders(self) -> dict[str, dict[str, Path]]:
        """The photo, and the masks in the order of the class words."""
        found = {self.name: {self.photo.name: self.photo}}
        if self.masks:
            numbered = enumerate(self.masks, start=1)
            found[f"{self.name}.masks"] = {f"{i}{mask.suffix}": mask for i, mask in numbered}
        return found


def read_scenes(folder: Path, masks: Path | None, chosen: Sequence[str], amounts: Amounts) -> Bench:
    """The photos of this folder, or those chosen, in the order of their names.

    masks: a folder in which cat_dog/subject1.png is the mask of the first concept. Raises
    ValueError for what is missing or does not fit.
    """
    home = folder / IMAGES
    there = [path for path in home.iterdir() if path.is_dir()] if home.is_dir() else []
    listed = [p.name for p in sorted(there, key=natural_order) if not p.name.startswith(".")]
    unknown = [name for name in chosen if name not in listed]
    if unknown or not listed:
        raise ValueError(
            f"{home} has no folder {', '.join(unknown) or 'of a photo'}. --photos wants the folder "
            "datasets of Monalissaa/DisenDiff, or one like it: images/cat_dog with a photo of a "
            "cat and a dog, prompts/cat_dog_global.txt, cat_dog_subject1.txt and "
            "cat_dog_subject2.txt, and data_eval/cat_dog/subject1 and subject2 with pictures of "
            "each."
        )
    wanted = [name for name in listed if name in chosen or not chosen]
    scenes = []
    for name in wanted:
        try:
            scenes.append(read_scene(folder, name, masks, amounts.side))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return Bench(scenes, len(listed), () if masks is None else (CUT_OUT,))


def read_scene(folder: Path, name: str, masks: Path | None, side: int) -> Scene:
    """One of them; what its training would refuse of photo and masks is refused here."""
    words = [word for word in name.split("_") if word and not word.isdigit()]
    named = named_concepts(", ".join(words))
    if len(named) < 2:
        raise ValueError(
            'the folder\'s name says what the photo shows, class words with "_" between, such as '
            "cat_dog or teddy bear_dog_2. Here there is one."
        )
    files = photo_files(folder / IMAGES / name)
    if len(files) > 1:
        raise ValueError(
            f"there are {len(files)} photos in {folder / IMAGES / name}; all is learned from one. "
            "Give each a folder of its own: cat_dog_1, cat_dog_2."
        )
    photo = files[0].photo
    drawn: tuple[Path, ...] = ()
    if masks is not None:
        drawn = tuple(mask_of(masks / name, i) for i in range(1, len(named) + 1))
    pixels, planes = scene_pixels(photo, drawn, named)
    make_scene(pixels, planes or None, named, side)
    asked = [asked_of(folder, name, photo, drawn, named, one) for one in (None, *named)]
    return Scene(name, named, photo, drawn, tuple(asked))


def asked_of(
    folder: Path,
    name: str,
    photo: Path,
    masks: Sequence[Path],
    named: Sequence[Named],
    one: Named | None,
) -> Asked:
    """What is asked of one concept; None: of all of them in one picture."""
    number = 0 if one is None else named.index(one) + 1
    part = f"subject{number}" if number else "global"
    wanted = {one.word} if one else {word.word for word in named}
    prompts = read_prompts(folder / PROMPTS / f"{name}_{part}.txt", named, wanted)
    kind, short = (f"Concept {number}", f"concept{number}") if number else (COMBINED, "combined")
    if masks:
        own = masks[number - 1 : number] if number else masks
        read = partial(cut_out, photo, tuple(masks), tuple(named), number)
        return Asked(f"{name} {short}", kind, prompts, (photo, *own), read)
    files = reference_files(folder / REFERENCES / name / part, photo, number)
    return Asked(f"{name} {short}", kind, prompts, files, partial(opened, name, files))


def read_prompts(path: Path, named: Sequence[Named], wanted: set[str]) -> tuple[str, ...]:
    """A prompt a line, with [V], [V2] in it. Raises ValueError where one has not exactly the
    words that are wanted.
    """
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"there are no prompts in {path}. Write one a line into that file.")
    prompts = tuple(MARK.sub(lambda mark: placeholder(mark[1], named), line) for line in lines)
    for line, prompt in zip(lines, prompts, strict=True):
        if {*split_placeholders(prompt)[1]} != wanted:
            marks = " and ".join(f"[{word}]" for word in sorted(wanted))
            raise ValueError(
                f'{path.name} has the prompt "{line}", which should have {marks} and no other '
                "learned word. <new1> and [V] stand for the first concept, <new2> and [V2] for the "
                "second; the class word comes behind."
            )
    return prompts


def placeholder(mark: str, named: Sequence[Named]) -> str:
    """ "new2" -> "[V2]"; "chair" -> "[V] chair", where it is a class word; else as it was."""
    number = re.search(r"(\d+)$", mark)
    if number and 1 <= int(number[1]) <= len(named):
        return f"[{named[int(number[1]) - 1].word}]"
    own = next((one for one in named if one.class_word == mark), None)
    return f"[{own.word}] {mark}" if own else f"<{mark}>"


def mask_of(folder: Path, number: int) -> Path:
    """The mask of a concept. Raises ValueError where there is none."""
    there = sorted(folder.glob(f"subject{number}.*")) if folder.is_dir() else []
    masks = [file for file in there if file.suffix.casefold() in SUFFIXES]
    if not masks:
        raise ValueError(
            f"there is no subject{number}.png in {folder}: the mask of concept {number}, white on "
            "it, of the size of the photo. Every photo needs one for each concept, or leave out "
            "--masks."
        )
    return masks[0]


def scene_pixels(
    photo: Path, masks: Sequence[Path], named: Sequence[Named]
) -> tuple[Tensor, list[Tensor]]:
    """Photo [H, W, 3] and masks [H, W], one a concept or none at all."""
    if not masks:
        return read_photo(PhotoFile(photo, None)).pixels, []
    read = [read_photo(PhotoFile(photo, mask)) for mask in masks]
    for file, one in zip(masks, read, strict=True):
        check_plain(file, one.mask)
    return read[0].pixels, concept_masks(read[0].pixels, [one.mask for one in read], named)


def check_plain(file: Path, plane: Tensor) -> None:
    """Raise ValueError for a mask that the servers, which read its red channel, take for another
    than plane [H, W].
    """
    red = read_photo(PhotoFile(file, None)).pixels[..., 0]
    if red.shape == plane.shape and (red - plane).abs().max() > 0.01:
        raise ValueError(
            f"{file} is not a grey picture: it has transparency, colours, or white that is not "
            "255. Save it as a grey picture, white on the concept and black elsewhere."
        )


def reference_files(folder: Path, photo: Path, number: int) -> tuple[Path, ...]:
    """The pictures that show a concept alone; those of all concepts, where there are none, are the
    photo itself.
    """
    there = sorted(folder.iterdir(), key=natural_order) if folder.is_dir() else []
    visible = (file for file in there if not file.name.startswith("."))
    files = tuple(file for file in visible if file.suffix.casefold() in SUFFIXES)
    if not files and number:
        raise ValueError(
            f"there is no picture in {folder}, with which those of concept {number} are compared. "
            "Put a part of the photo there that shows it alone, or name masks of the photos with "
            "--masks."
        )
    return files or (photo,)


def opened(name: str, files: Sequence[Path]) -> Masked:
    """Reference pictures. Raises ValueError, with the name of their set, for what is no picture."""
    try:
        return Masked([read_photo(PhotoFile(file, None)).pixels for file in files])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def cut_out(photo: Path, masks: Sequence[Path], named: Sequence[Named], number: int) -> Masked:
    """A concept as its mask has it, in the square around it; 0: the photo, with all of them."""
    pixels, planes = scene_pixels(photo, masks, named)
    if not number:
        return Masked([pixels], [torch.stack(planes).amax(dim=0)])
    picture, mask = squared(pixels, planes[number - 1])
    return Masked([picture], [mask])


def squared(photo: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest square around a mask's subject, of photo [H, W, 3] and mask [H, W]; white where
    it reaches outside.
    """
    box = (mask > 0.5).nonzero()
    low, high = box.amin(dim=0), box.amax(dim=0) + 1
    side = int((high - low).max())
    starts = []
    for first, last, length in zip(low.tolist(), high.tolist(), mask.shape, strict=True):
        start = (first + last - side) // 2
        starts.append(max(0, min(start, length - side)) if side <= length else start)
    planes = torch.cat([photo.movedim(-1, 0), mask[None]])
    outside = torch.tensor([BLANK] * 3 + [0.0])
    cut = cut_square(planes, Square(starts[0], starts[1], side), outside)
    return cut[:3].movedim(0, -1), cut[3]


def row(scene: Scene, recipe: SceneRecipe) -> Mapping[str, str]:
    """Columns of the table of trainings; folders from where that lies."""
    found = {
        "folder.folder": f"../subjects/{scene.name}",
        "photo.class_words": ", ".join(scene.class_words),
    }
    if recipe.needs_masks:
        found["mask_folder.folder"] = f"../subjects/{scene.name}.masks"
    return found


DISENDIFF = Benchmark(
    name="disendiff",
    title="DisenDiff",
    units="photos",
    recipes=SCENE_RECIPES,
    tables=SCENE_TABLES,
    sampler="euler_ancestral",  # DDIM with eta 1, the released script's default
    mask_example="cat_dog/subject1.png is the mask of the first concept of images/cat_dog",
    read=read_scenes,
    training=scene_training,
    row=row,
    usual={"pictures": 16},
)
