"""DreamBench as google/dreambooth lays it out: a folder of photos for each subject, and
prompts_and_classes.txt with every subject's class word and two lists of 25 prompts, one for things
and one for living subjects (DreamBooth, arXiv 2208.12242, section 4).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..photos.folder import PhotoFile, masked_name, natural_order, photo_files, read_photo, stem_of
from ..photos.names import SUFFIXES
from .benchmark import SHOWN_FAULTS, Asked, Bench, Benchmark
from .masked import fitted, subject_alone
from .recipes import RECIPES, TABLES, SubjectRecipe
from .scoring import Masked
from .workflows import Amounts, subject_training

LIST = "prompts_and_classes.txt"
LIVE = ("cat", "dog")  # the classes whose prompts are those of living subjects
HEAD, LIVE_HEAD = "subject_name,class", "Live Subject Prompts"
QUOTED = re.compile(r"""^\s*(['"])(.+)\1\.format""", re.MULTILINE)
BLANKS = ("{0}", "{1}")  # of a prompt in the list: the learned word, the class word


class BenchSubject(NamedTuple):
    """One subject: its photos, each with its mask or none, and its prompts with [V] in them."""

    name: str
    class_word: str
    prompts: tuple[str, ...]
    photos: tuple[PhotoFile, ...]

    @property
    def is_masked(self) -> bool:
        return all(photo.mask is not None for photo in self.photos)

    @property
    def class_words(self) -> tuple[str]:
        return (self.class_word,)

    @property
    def asked(self) -> tuple[Asked]:
        """All its prompts; their pictures are compared with all its photos."""
        files = tuple(file for pair in self.photos for file in pair if file is not None)
        return (Asked(self.name, "", self.prompts, files, partial(opened, self)),)

    @property
    def folders(self) -> dict[str, dict[str, Path]]:
        """Photos and masks, named as Load Subject Folder reads them."""
        found = {photo.photo.name: photo.photo for photo in self.photos}
        found |= {f"{p.photo.stem}.mask{p.mask.suffix}": p.mask for p in self.photos if p.mask}
        return {self.name: found}


def read_bench(
    folder: Path, masks: Path | None = None, chosen: Sequence[str] = (), references: int = 4
) -> Bench:
    """The subjects of this folder, or those chosen, in the order of the list.

    masks: a folder with a folder for each subject, whose 00.png is the mask of 00.jpg; without it,
    00.mask.png beside the photo. references: so many photos a subject, the first by name; 0 takes
    all. Raises ValueError for a list or photos that are missing, and for masks that do not fit.
    """
    classes, things, living = read_list(folder)
    unknown = [name for name in chosen if name not in classes]
    if unknown:
        raise ValueError(
            f"{LIST} of {folder} has no subject {', '.join(unknown)}. It has {', '.join(classes)}."
        )
    names = [name for name in classes if name in chosen or not chosen]
    there = [name for name in names if (folder / name).is_dir()]
    absent = [name for name in chosen if name not in there]
    if absent or not there:
        raise ValueError(
            f"{folder} has no photos of {', '.join(absent or names)}: there is no folder of that "
            "name. --photos wants the folder dataset of google/dreambooth, with a folder for each "
            "subject."
        )
    subjects = []
    for name in there:
        templates = living if classes[name] in LIVE else things
        prompts = tuple(template.format("[V]", classes[name]) for template in templates)
        photos = photo_files(folder / name)[: references or None]
        subjects.append(BenchSubject(name, classes[name], prompts, tuple(photos)))
    if masks is not None:
        subjects = with_masks(subjects, masks)
    check_all_or_none(subjects)
    return Bench(tuple(subjects), len(classes))


def read_some(folder: Path, masks: Path | None, chosen: Sequence[str], amounts: Amounts) -> Bench:
    """The same, with as many photos as these amounts say."""
    return read_bench(folder, masks, chosen, amounts.references)


def read_list(folder: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """prompts_and_classes.txt -> class word by subject, prompts of things, of living subjects."""
    path = folder / LIST
    if not path.is_file():
        raise ValueError(
            f"There is no {LIST} in {folder}. --photos wants the folder dataset of "
            "google/dreambooth, where it lies beside the subjects' folders."
        )
    text = path.read_text(encoding="utf-8-sig")
    head, _, rest = text.partition(HEAD)
    rows, _, prompts = rest.partition("Prompts")
    pairs = [line.split(",", 1) for line in rows.splitlines() if "," in line]
    classes = {name.strip(): word.strip() for name, word in pairs}
    things, _, living = prompts.partition(LIVE_HEAD)
    of_things, of_living = ([m[1] for m in QUOTED.findall(part)] for part in (things, living))
    wrong = [t for t in (*of_things, *of_living) if not all(blank in t for blank in BLANKS)]
    if not (classes and of_things and of_living) or wrong:
        what = f'the prompt "{wrong[0]}"' if wrong else "no subjects or no prompts"
        raise ValueError(
            f"{path} is not laid out as in google/dreambooth: it has {what}. It wants lines "
            '"name,class" below "subject_name,class", then two lists of prompts such as '
            "'a {0} {1} in the snow'.format(...)."
        )
    return classes, of_things, of_living


def with_masks(subjects: Sequence[BenchSubject], folder: Path) -> list[BenchSubject]:
    """The same with the masks of this folder. Raises ValueError that tells all that are missing."""
    found, missing = [], []
    for subject in subjects:
        photos = [PhotoFile(p.photo, mask_in(folder / subject.name, p.photo))
                  for p in subject.photos]  # fmt: skip
        missing += [f"{subject.name}/{p.photo.name}" for p in photos if p.mask is None]
        found.append(subject._replace(photos=tuple(photos)))
    if missing:
        more = f" and {len(missing) - SHOWN_FAULTS} more" if len(missing) > SHOWN_FAULTS else ""
        raise ValueError(
            f"{folder} has no mask of {', '.join(missing[:SHOWN_FAULTS])}{more}. The mask of "
            "dog/00.jpg is dog/00.png there, white on the subject."
        )
    return found


def check_all_or_none(subjects: Sequence[BenchSubject]) -> None:
    """Raise ValueError where some photos have masks and others have not."""
    bare = [f"{s.name}/{p.photo.name}" for s in subjects for p in s.photos if p.mask is None]
    if bare and len(bare) < sum(len(subject.photos) for subject in subjects):
        raise ValueError(
            f"Some photos have masks, but not {', '.join(bare[:SHOWN_FAULTS])}. Add what is "
            "missing, or take the masks away: all subjects are scored alike."
        )


def mask_in(folder: Path, photo: Path) -> Path | None:
    """The mask of this photo in a folder of masks: 00.png, 00.mask.png or 00_mask.png."""
    there = sorted(folder.iterdir(), key=natural_order) if folder.is_dir() else []
    own = [
        file
        for file in there
        if file.suffix.casefold() in SUFFIXES
        and stem_of(photo) in (stem_of(file), masked_name(file))
    ]
    if len(own) > 1:
        raise ValueError(
            f"{folder} has two masks of {photo.name}: {own[0].name} and {own[1].name}. Take one "
            "of them away."
        )
    return own[0] if own else None


def opened(subject: BenchSubject) -> Masked:
    """The photos' pixels, and their masks where each has one.

    Raises ValueError, with the subject's name, for what cannot be read or has no subject in it.
    """
    try:
        photos = [read_photo(files) for files in subject.photos]
        pixels = [photo.pixels for photo in photos]
        if not subject.is_masked:
            return Masked(pixels)
        names = [photo.name for photo in photos]
        planes = fitted(pixels, [photo.mask for photo in photos], names)
        subject_alone(pixels, planes, names)
    except ValueError as error:
        raise ValueError(f"{subject.name}: {error}") from error
    return Masked(pixels, planes)


def row(subject: BenchSubject, recipe: SubjectRecipe) -> Mapping[str, str]:
    """Columns of the table of trainings; the folder from where that lies."""
    return {
        "folder.folder": f"../subjects/{subject.name}",
        "class.value": subject.class_word,
        "subject.blank": recipe.blank,
        "subject.scaled_copies": str(recipe.copies),
    }


DREAMBENCH = Benchmark(
    name="dreambench",
    title="DreamBench",
    units="subjects",
    recipes=RECIPES,
    tables=TABLES,
    sampler="ddim",
    mask_example="dog/00.png is the mask of dog/00.jpg",
    read=read_some,
    training=subject_training,
    row=row,
)
