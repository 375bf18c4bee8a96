"""A protocol through the batch engine: a table of trainings, a table of pictures, then the scores.

OUT/subjects/<subject>      photos and masks as they are sent to the servers
OUT/trainings/<workflow>    concepts, `detex.batch`'s folder of results
OUT/pictures                pictures, another
OUT/scores/<method>/<asked>.json   an `Evaluation` and what it was made from
OUT/tables.md, index.html   the page
Whatever is there and was made from the same things is not made again.
"""

import argparse
import csv
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..batch.command import ALL_DONE, run_table
from ..batch.view import RESULTS
from ..concept.files import digest_of, read_json, replace_file, write_json
from ..photos.folder import PhotoFile, masked_name, read_photo
from ..photos.names import SUFFIXES
from ..photos.pixels import rgb_of
from .benchmark import SHOWN_FAULTS, Asked, Bench, Benchmark, Learned
from .encoder import Encoder
from .evaluation import Evaluation, joined
from .masked import subject_alone
from .recipes import Recipe, settings_of
from .scoring import Masked, Sampled, evaluate
from .workflows import Amounts, Graph, drawing

Files = dict[str, list[Path]]  # a row's name -> what it has brought
Row = dict[str, Any]  # of a table, by column
Found = dict[str, dict[str, Evaluation]]  # by kind of what was asked, then by method


class Left(Exception):
    """A table is not rendered to its end; status: what the command ends with."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def render(graph: Graph, rows: Sequence[Row], out: Path, options: argparse.Namespace) -> Files:
    """All rows of a table through a workflow, on the servers of these options -> their files.

    The workflow and the table are written beside `out`. Raises Left where rows failed or are left.
    """
    workflow, table = out.with_suffix(".json"), out.with_suffix(".csv")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(workflow, graph)
    write_table(table, rows)
    asked = {"workflow": workflow, "table": table, "out": out, "product": False}
    status = run_table(argparse.Namespace(**{**vars(options), **asked}))
    if status != ALL_DONE:
        raise Left(
            f"The files of {out} are not all there, so nothing goes on from them. Run the same "
            "command again; what failed is tried again with --retry-failed, or its subject left "
            "out with --subjects.",
            status,
        )
    return files_of(out)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)


def files_of(out: Path) -> Files:
    """The files of each row, by its name, of a folder of results."""
    with (out / RESULTS).open(encoding="utf-8-sig", newline="") as file:
        return {
            line["name"]: [out / name for name in line["files"].split("; ") if name]
            for line in csv.DictReader(file)
        }


def lay_out(bench: Bench, folder: Path) -> None:
    """Copy what the servers are sent into folders that Load Subject Folder reads, and take away
    what an earlier run has put there besides.
    """
    wanted = {name: files for subject in bench.subjects for name, files in subject.folders.items()}
    for name, files in wanted.items():
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        for left in own.iterdir():
            if left.name not in files:
                left.unlink()
        for target, source in files.items():
            bring(source, own / target)


def bring(source: Path, target: Path) -> None:
    """Copy a file, unless it is there, whole."""
    if not target.exists() or digest_of(target) != digest_of(source):
        shutil.copyfile(source, target)


def learn(
    benchmark: Benchmark,
    bench: Bench,
    recipes: Mapping[str, Recipe],
    amounts: Amounts,
    out: Path,
    options: argparse.Namespace,
) -> dict[str, Path]:
    """Every subject by every method -> the concepts' files by "method subject"."""
    lay_out(bench, out / "subjects")
    found: Files = {}
    for kind in dict.fromkeys(recipe.graph for recipe in recipes.values()):
        graph = benchmark.training(amounts, kind, masked=bench.is_masked)
        rows = [
            training_row(benchmark, subject, method, amounts)
            for method, recipe in recipes.items()
            if recipe.graph == kind
            for subject in bench.subjects
        ]
        found |= render(graph, rows, out / "trainings" / kind, options)
    return {name: one_file(name, files) for name, files in found.items()}


def training_row(benchmark: Benchmark, subject: Learned, method: str, amounts: Amounts) -> Row:
    recipe = benchmark.recipes[method]
    values = settings_of(recipe, amounts.steps, amounts.rate)
    return {
        "name": f"{method} {subject.name}",
        **benchmark.row(subject, recipe),
        "save.name": f"{benchmark.name}_{method}_{subject.name}",
        **{f"train.{name}": str(value) for name, value in values.items()},
    }


def one_file(name: str, files: Sequence[Path]) -> Path:
    if len(files) != 1:
        raise ValueError(
            f"The training {name} has brought {len(files)} files where one concept was to come, or "
            f"the file was changed since. Move what stands in its place away and run again."
        )
    return files[0]


def draw(
    benchmark: Benchmark,
    bench: Bench,
    concepts: Mapping[str, Path],
    methods: Sequence[str],
    amounts: Amounts,
    out: Path,
    options: argparse.Namespace,
) -> Files:
    """The pictures of each method, subject and prompt, by `row_name`. All methods have the same
    seeds.
    """
    sent = laid_out(concepts, out / "concepts")
    rows = [
        {
            "name": row_name(method, asked, number),
            "concept.file": str(sent[f"{method} {subject.name}"].relative_to(out)),
            "prompt.text": prompt,
            "sampler.seed": amounts.seed + number,
        }
        for method in methods
        for subject in bench.subjects
        for asked in subject.asked
        for number, prompt in enumerate(asked.prompts)
    ]
    graph = drawing(amounts, benchmark.sampler, benchmark.name)
    found = render(graph, rows, out / "pictures", options)
    for name, files in found.items():
        if len(files) != amounts.pictures:
            raise ValueError(
                f"{name} has {len(files)} of {amounts.pictures} pictures as they were drawn in "
                f"{out / 'pictures'}: others were changed since. Move those away and run again."
            )
    return found


def laid_out(concepts: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Copies under names without a number, which stay the same where methods or subjects are added:
    a server knows a concept, and a picture its concept, by the name of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, path in concepts.items():
        files[name] = folder / f"{name.replace(' ', '_', 1)}.safetensors"
        bring(path, files[name])
    return files


def row_name(method: str, asked: Asked, prompt: int) -> str:
    """Of the pictures of one prompt, whose index is given: "detex dog 1" has its first."""
    return f"{method} {asked.name} {prompt + 1}"


def score(
    bench: Bench,
    recipes: Mapping[str, Recipe],
    drawn: Files,
    encoders: Sequence[Encoder],
    out: Path,
    picture_masks: Path | None = None,
) -> Found:
    """Each method's evaluation over all subjects; what was scored before is read.

    picture_masks: a folder with a mask of every picture. Raises ValueError where one is missing.
    """
    masks = masks_of(picture_masks, drawn) if picture_masks else {}
    parts: dict[str, dict[str, list[Evaluation]]] = {}
    for subject in bench.subjects:
        for asked in subject.asked:
            references = asked.references()
            for method, recipe in recipes.items():
                rows = [drawn[row_name(method, asked, n)] for n in range(len(asked.prompts))]
                path = out / "scores" / method / f"{asked.name}.json"
                named = (recipe.title, subject.name)
                one = score_one(named, asked, rows, masks, references, encoders, path)
                parts.setdefault(asked.kind, {}).setdefault(method, []).append(one)
    return {
        kind: {method: joined(recipes[method].title, own) for method, own in methods.items()}
        for kind, methods in parts.items()
    }


def score_one(
    named: tuple[str, str],
    asked: Asked,
    rows: Sequence[Sequence[Path]],
    masks: Mapping[Path, Path],
    references: Masked,
    encoders: Sequence[Encoder],
    path: Path,
) -> Evaluation:
    """One method on one subject, `named`. rows: the pictures of each prompt; masks: of them, or
    none; path: where it is kept.
    """
    pictures = [file for files in rows for file in files]
    prompts = [prompt for prompt, files in zip(asked.prompts, rows, strict=True) for _ in files]
    own = [masks[file] for file in pictures] if masks else []
    key = key_of([*pictures, *own], prompts, asked.files, encoders)
    kept = read_json(path, "Delete it; the pictures will be scored again.")
    if kept.get("made from") == key:
        return Evaluation.from_json(json.dumps(kept))
    sys.stdout.write(f"Scoring {named[0]}, {asked.name}: {len(pictures)} pictures\n")
    found = evaluate(*named, Sampled(shown(pictures, own), prompts), references, encoders)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({**json.loads(found.to_json()), "made from": key}).encode())
    return found


def key_of(
    pictures: Sequence[Path],
    prompts: Sequence[str],
    references: Sequence[Path],
    encoders: Sequence[Encoder],
) -> str:
    """Hash of all that the scores are made from; pictures, references: with their masks."""
    labels = [[encoder.label, encoder.reader and encoder.reader.label] for encoder in encoders]
    files = [[digest_of(file) for file in some] for some in (pictures, references)]
    return hashlib.sha256(json.dumps([*files, list(prompts), labels]).encode()).hexdigest()


def shown(pictures: Sequence[Path], masks: Sequence[Path]) -> Masked:
    """Drawn pictures, with their masks where there are any. Raises ValueError, with the file's
    name, for a mask of another size and for one that leaves nothing.
    """
    if not masks:
        return Masked([picture_of(file) for file in pictures], whose="picture")
    read = [read_photo(PhotoFile(*pair)) for pair in zip(pictures, masks, strict=True)]
    pixels, planes = [one.pixels for one in read], [one.mask for one in read]
    subject_alone(pixels, planes, [one.name for one in read])
    return Masked(pixels, planes, whose="picture")


def masks_of(folder: Path, drawn: Files) -> dict[Path, Path]:
    """The mask of each picture, by the picture's name without the number of its row, which moves
    where methods or subjects are added. Raises ValueError where one is missing.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.casefold() in SUFFIXES)
    by_name: dict[str, Path] = {}
    for file in files:
        other = by_name.setdefault(unnumbered(masked_name(file) or file.stem), file)
        if other is not file:
            raise ValueError(f"{other} and {file} are both masks of one picture. Delete one.")
    pictures = [picture for some in drawn.values() for picture in some]
    missing = [picture.name for picture in pictures if unnumbered(picture.stem) not in by_name]
    if missing:
        more = f" and {len(missing) - SHOWN_FAULTS} more" if len(missing) > SHOWN_FAULTS else ""
        raise ValueError(
            f"--picture-masks {folder} has no mask of {', '.join(missing[:SHOWN_FAULTS])}{more}. "
            "It wants a file of the same name for every picture, white on the subject."
        )
    return {picture: by_name[unnumbered(picture.stem)] for picture in pictures}


def unnumbered(stem: str) -> str:
    """ "0007_detex_dog_1_2" -> "detex_dog_1_2" """
    number, _, rest = stem.partition("_")
    return rest if number.isdigit() and rest else stem


def picture_of(path: Path) -> Tensor:
    """[H, W, 3] in [0, 1]"""
    with Image.open(path) as image:
        return rgb_of(image, path.name)
