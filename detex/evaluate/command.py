"""The command `python -m detex.evaluate`: a paper's protocol from photos to tables."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..batch.command import ALL_DONE, exit_status
from ..batch.options import add_servers
from .benchmark import Bench, Benchmark
from .disendiff import DISENDIFF
from .dreambench import DREAMBENCH
from .folder_encoder import folder_encoder, model_type, transformers
from .protocol import Left, draw, learn, score
from .protocol_page import facts, gallery, score_tables, write_page
from .recipes import Recipe, chosen_recipes
from .workflows import DEMO, Amounts

OF_DREAMBENCH = """DreamBench's protocol: every subject is learned by every method, drawn with 25
prompts, 8 pictures each, and scored."""
OF_DISENDIFF = """DisenDiff's protocol: every photo of several concepts is learned by every method,
drawn with prompts for all of them together and for each alone, 16 pictures each, and scored."""
AGAIN = """Tables as in the papers, with intervals, and a page of pictures. Run the same command
again to go on: what is done is not done again. See docs/evaluation.md."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m detex.evaluate")
    kinds = made.add_subparsers(dest="protocol", required=True, metavar="dreambench|disendiff")
    form = kinds.add_parser("dreambench", description=f"{OF_DREAMBENCH} {AGAIN}")
    less = add_options(form, DREAMBENCH, "the folder dataset of google/dreambooth")
    form.add_argument("--clip-vision", default=Amounts.clip_vision, metavar="FILE",
        help="CLIP ViT-L/14 in models/clip_vision, for DETEX (default: %(default)s)")  # fmt: skip
    less.add_argument("--references", type=int, default=Amounts.references, metavar="N",
        help="photos a subject, the first by name; 0: all (default: %(default)s)")  # fmt: skip
    form = kinds.add_parser("disendiff", description=f"{OF_DISENDIFF} {AGAIN}")
    add_options(form, DISENDIFF, "the folder datasets of Monalissaa/DisenDiff, or one like it")
    return made


def add_options(
    form: argparse.ArgumentParser, benchmark: Benchmark, photos: str
) -> argparse._ArgumentGroup:
    """What all protocols have -> the group of amounts. photos: the help of --photos."""
    form.set_defaults(benchmark=benchmark)
    usual = Amounts(checkpoint=DEMO, **benchmark.usual)
    add = form.add_argument
    add("--photos", type=Path, required=True, metavar="DIR", help=photos)
    add("--masks", type=Path, metavar="DIR", help=benchmark.mask_example)
    add("--checkpoint", required=True, metavar="FILE",
        help=f"in models/checkpoints; {DEMO}: the pack's own little model")  # fmt: skip
    add("--methods", required=True, metavar="A,B", help=", ".join(benchmark.recipes))
    add("--encoders", type=Path, nargs="+", required=True, metavar="DIR",
        help="folders of CLIP ViT-B/32 and DINO ViT-S/16; nothing is downloaded")  # fmt: skip
    add("--picture-masks", type=Path, metavar="DIR",
        help="of the drawn pictures, under their names in OUT/pictures: adds fg_both")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="for everything that comes of it")
    add("--subjects", default="", metavar="A,B", help=f"these {benchmark.units} alone")
    less = form.add_argument_group("not as in the papers", "said on the page where it is used")
    add = less.add_argument
    add("--resolution", type=int, default=usual.resolution, metavar="N")
    add("--prior", type=int, default=usual.prior, metavar="N",
        help="pictures of the class (default: %(default)s)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="of each training, in place of each method's own")
    add("--rate", type=float, default=usual.rate, metavar="X",
        help="multiplies the learning rates")  # fmt: skip
    add("--pictures", type=int, default=usual.pictures, metavar="N",
        help="of each prompt (default: %(default)s)")  # fmt: skip
    add("--sampling-steps", type=int, default=usual.sampling_steps, metavar="N")
    add("--seed", type=int, default=usual.seed, metavar="N", help="of the pictures")
    add_servers(form)
    return less


def main(arguments: Sequence[str] | None = None) -> int:
    """The command -> its exit status, as those of `detex.batch`."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return exit_status(lambda: follow(parser().parse_args(words)))


def follow(options: argparse.Namespace) -> int:
    """All of a protocol; what can be checked is checked before anything runs."""
    benchmark: Benchmark = options.benchmark
    recipes = chosen_recipes(options.methods, benchmark.recipes)
    amounts = amounts_of(options)
    chosen = [name.strip() for name in options.subjects.split(",") if name.strip()]
    bench = benchmark.read(options.photos, options.masks, chosen, amounts)
    check_masks(recipes, bench, benchmark)
    check_picture_masks(options.picture_masks, bench, benchmark)
    check_encoders(options.encoders)
    for subject in bench.subjects:
        for asked in subject.asked:
            asked.references()
    out = options.out
    try:
        concepts = learn(benchmark, bench, recipes, amounts, out, options)
        drawn = draw(benchmark, bench, concepts, list(recipes), amounts, out, options)
    except Left as left:
        sys.stderr.write(f"{left}\n")
        return left.status
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoders = [folder_encoder(folder, device) for folder in options.encoders]
    found = score(bench, recipes, drawn, encoders, out, options.picture_masks)
    rows = list(gallery(bench, recipes, drawn, found, out))
    lines = facts(benchmark, bench, amounts, found)
    write_page(out, benchmark.title, score_tables(benchmark, found), lines, rows)
    sys.stdout.write(f"See {out / 'tables.md'} and {out / 'index.html'}\n")
    return ALL_DONE


def amounts_of(options: argparse.Namespace) -> Amounts:
    names = Amounts.__dataclass_fields__.keys() & vars(options).keys()
    return Amounts(**{name: getattr(options, name) for name in names})


def check_masks(recipes: Mapping[str, Recipe], bench: Bench, benchmark: Benchmark) -> None:
    """Raise ValueError where a method needs masks and there are none."""
    needing = [name for name, recipe in recipes.items() if recipe.needs_masks]
    if needing and not bench.is_masked:
        raise ValueError(
            f"{', '.join(needing)} needs masks of the photos: name a folder of them with --masks, "
            f"in which {benchmark.mask_example}, or choose methods without."
        )


def check_picture_masks(folder: Path | None, bench: Bench, benchmark: Benchmark) -> None:
    """Raise ValueError for a folder that is none, and for photos that lack masks: fg_both needs
    both.
    """
    if folder is None:
        return
    if not folder.is_dir():
        raise ValueError(
            f"--picture-masks {folder} is no folder. Name the one with a mask of every picture."
        )
    if not bench.is_masked:
        raise ValueError(
            "--picture-masks is for fg_both, which wants masks of the photos, too: name a folder "
            f"of them with --masks, in which {benchmark.mask_example}, or leave it out."
        )


def check_encoders(folders: Sequence[Path]) -> None:
    """Raise ValueError for folders that hold no encoder, and where transformers is missing."""
    try:
        transformers()
    except ImportError as error:
        raise ValueError(str(error)) from error
    for folder in folders:
        model_type(folder)
