"""DreamBench's protocol through the batch engine: a table of trainings, a table of pictures, then
the scores.

OUT/subjects/<subject>      photos and masks as they are sent to the servers
OUT/trainings/<workflow>    concepts, `detex.batch`'s folder of results
OUT/pictures                pictures, another
OUT/scores/<method>/<subject>.json   an `Evaluation` and what it was made from
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
from ..photos.pixels import rgb_of
from .dreambench import Bench, BenchSubject, opened
from .encoder import Encoder
from .evaluation import Evaluation, joined
from .recipes import Recipe, settings_of
from .scoring import Masked, Sampled, evaluate
from .workflows import Graph, Protocol, drawing, training

Files = dict[str, list[Path]]  # a row's name -> what it has brought
Row = dict[str, Any]  # of a table, by column


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
    """Copy each subject's photos and masks into a folder of its own, as Load Subject Folder reads
    it, and take away what an earlier run has put there besides.
    """
    for subject in bench.subjects:
        own = folder / subject.name
        own.mkdir(parents=True, exist_ok=True)
        wanted = {photo.photo.name: photo.photo for photo in subject.photos}
        wanted |= {f"{p.photo.stem}.mask{p.mask.suffix}": p.mask for p in subject.photos if p.mask}
        for left in own.iterdir():
            if left.name not in wanted:
                left.unlink()
        for name, source in wanted.items():
            bring(source, own / name)


def bring(source: Path, target: Path) -> None:
    """Copy a file, unless it is there, whole."""
    if not target.exists() or digest_of(target) != digest_of(source):
        shutil.copyfile(source, target)


def learn(
    bench: Bench,
    recipes: Mapping[str, Recipe],
    protocol: Protocol,
    out: Path,
    options: argparse.Namespace,
) -> dict[str, Path]:
    """Every subject by every method -> the concepts' files by "method subject"."""
    lay_out(bench, out / "subjects")
    masked = all(subject.is_masked for subject in bench.subjects)
    found: Files = {}
    for kind in dict.fromkeys(recipe.graph for recipe in recipes.values()):
        rows = [
            training_row(subject, method, recipe, protocol)
            for method, recipe in recipes.items()
            if recipe.graph == kind
            for subject in bench.subjects
        ]
        graph = training(protocol, kind, masked=masked)
        found |= render(graph, rows, out / "trainings" / kind, options)
    return {name: one_file(name, files) for name, files in found.items()}


def training_row(subject: BenchSubject, method: str, recipe: Recipe, protocol: Protocol) -> Row:
    values = settings_of(recipe, protocol.steps, protocol.rate)
    return {
        "name": f"{method} {subject.name}",
        "folder.folder": f"../subjects/{subject.name}",  # from where the table lies
        "class.value": subject.class_word,
        "subject.blank": recipe.blank,
        "subject.scaled_copies": str(recipe.copies),
        "save.name": f"dreambench_{method}_{subject.name}",
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
    bench: Bench,
    concepts: Mapping[str, Path],
    methods: Sequence[str],
    protocol: Protocol,
    out: Path,
    options: argparse.Namespace,
) -> Files:
    """The pictures of each method, subject and prompt, by `row_name`. All methods have the same
    seeds.
    """
    sent = laid_out(concepts, out / "concepts")
    rows = [
        {
            "name": row_name(method, subject, number),
            "concept.file": str(sent[f"{method} {subject.name}"].relative_to(out)),
            "prompt.text": prompt,
            "sampler.seed": protocol.seed + number,
        }
        for method in methods
        for subject in bench.subjects
        for number, prompt in enumerate(subject.prompts)
    ]
    found = render(drawing(protocol), rows, out / "pictures", options)
    for name, files in found.items():
        if len(files) != protocol.pictures:
            raise ValueError(
                f"{name} has {len(files)} of {protocol.pictures} pictures as they were drawn in "
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
        files[name] = folder / f"{name.replace(' ', '_')}.safetensors"
        bring(path, files[name])
    return files


def row_name(method: str, subject: BenchSubject, prompt: int) -> str:
    """Of the pictures of one prompt, whose index is given: "detex dog 1" has its first."""
    return f"{method} {subject.name} {prompt + 1}"


def score(
    bench: Bench,
    recipes: Mapping[str, Recipe],
    drawn: Files,
    encoders: Sequence[Encoder],
    out: Path,
) -> dict[str, Evaluation]:
    """Each method's evaluation over all subjects; what was scored before is read."""
    photos = {subject.name: opened(subject) for subject in bench.subjects}
    found = {}
    for method, recipe in recipes.items():
        parts = []
        for subject in bench.subjects:
            rows = [drawn[row_name(method, subject, n)] for n in range(len(subject.prompts))]
            path = out / "scores" / method / f"{subject.name}.json"
            parts.append(score_one(recipe, subject, rows, photos[subject.name], encoders, path))
        found[method] = joined(recipe.title, parts)
    return found


def score_one(
    recipe: Recipe,
    subject: BenchSubject,
    rows: Sequence[Sequence[Path]],
    photos: Masked,
    encoders: Sequence[Encoder],
    path: Path,
) -> Evaluation:
    """One method on one subject. rows: the pictures of each prompt; path: where it is kept."""
    pictures = [file for files in rows for file in files]
    prompts = [prompt for prompt, files in zip(subject.prompts, rows, strict=True) for _ in files]
    key = key_of(subject, pictures, prompts, encoders)
    kept = read_json(path, "Delete it; the pictures will be scored again.")
    if kept.get("made from") == key:
        return Evaluation.from_json(json.dumps(kept))
    sys.stdout.write(f"Scoring {recipe.title}, {subject.name}: {len(pictures)} pictures\n")
    sampled = Sampled(Masked([picture_of(file) for file in pictures], whose="picture"), prompts)
    found = evaluate(recipe.title, subject.name, sampled, photos, encoders)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({**json.loads(found.to_json()), "made from": key}).encode())
    return found


def key_of(
    subject: BenchSubject,
    pictures: Sequence[Path],
    prompts: Sequence[str],
    encoders: Sequence[Encoder],
) -> str:
    """Hash of all that the scores are made from."""
    labels = [[encoder.label, encoder.reader and encoder.reader.label] for encoder in encoders]
    photos = [[digest_of(file) for file in pair if file] for pair in subject.photos]
    facts = [[digest_of(file) for file in pictures], list(prompts), photos, labels]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def picture_of(path: Path) -> Tensor:
    """[H, W, 3] in [0, 1]"""
    with Image.open(path) as image:
        return rgb_of(image, path.name)
