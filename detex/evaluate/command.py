"""The command `python -m detex.evaluate`: a paper's protocol from photos to tables."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..batch.command import ALL_DONE, exit_status
from ..batch.options import add_servers
from .dreambench import Bench, opened, read_bench
from .folder_encoder import folder_encoder, model_type, transformers
from .protocol import Left, draw, learn, score
from .protocol_page import facts, gallery, score_tables, write_page
from .recipes import RECIPES, Recipe, chosen_recipes
from .workflows import DEMO, Protocol

DESCRIPTION = """DreamBench's protocol: every subject is learned by every method, drawn with 25
prompts, 8 pictures each, and scored: tables as in the papers, with intervals over the subjects, and
a page of pictures. Run the same command again to go on: what is done is not done again. See
docs/evaluation.md."""
USUAL_VISION = "clip-vit-large-patch14.safetensors"  # as the templates call it


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m detex.evaluate")
    dreambench = made.add_subparsers(dest="protocol", required=True, metavar="dreambench")
    form = dreambench.add_parser("dreambench", description=DESCRIPTION)
    add = form.add_argument
    add("--photos", type=Path, required=True, metavar="DIR",
        help="the folder dataset of google/dreambooth")  # fmt: skip
    add("--masks", type=Path, metavar="DIR",
        help="dog/00.png is the mask of dog/00.jpg; else 00.mask.png beside the photo")  # fmt: skip
    add("--checkpoint", required=True, metavar="FILE",
        help=f"in models/checkpoints; {DEMO}: the pack's own little model")  # fmt: skip
    add("--clip-vision", default=USUAL_VISION, metavar="FILE",
        help="CLIP ViT-L/14 in models/clip_vision, for DETEX (default: %(default)s)")  # fmt: skip
    add("--methods", required=True, metavar="A,B", help=", ".join(RECIPES))
    add("--encoders", type=Path, nargs="+", required=True, metavar="DIR",
        help="folders of CLIP ViT-B/32 and DINO ViT-S/16; nothing is downloaded")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="for everything that comes of it")
    add("--subjects", default="", metavar="A,B", help="these alone")
    less = form.add_argument_group("not as in the papers", "said on the page where it is used")
    add = less.add_argument
    add("--resolution", type=int, default=Protocol.resolution, metavar="N")
    add("--references", type=int, default=Protocol.references, metavar="N",
        help="photos a subject, the first by name; 0: all (default: %(default)s)")  # fmt: skip
    add("--prior", type=int, default=Protocol.prior, metavar="N",
        help="pictures of the class (default: %(default)s)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="of each training, in place of each method's own")
    add("--rate", type=float, default=Protocol.rate, metavar="X",
        help="multiplies the learning rates")  # fmt: skip
    add("--pictures", type=int, default=Protocol.pictures, metavar="N",
        help="of each prompt (default: %(default)s)")  # fmt: skip
    add("--sampling-steps", type=int, default=Protocol.sampling_steps, metavar="N")
    add("--seed", type=int, default=Protocol.seed, metavar="N", help="of the pictures")
    add_servers(form)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command -> its exit status, as those of `detex.batch`."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return exit_status(lambda: dreambench(parser().parse_args(words)))


def dreambench(options: argparse.Namespace) -> int:
    """All of it; what can be checked is checked before anything runs."""
    recipes = chosen_recipes(options.methods)
    protocol = protocol_of(options)
    chosen = [name.strip() for name in options.subjects.split(",") if name.strip()]
    bench = read_bench(options.photos, options.masks, chosen, protocol.references)
    check_masks(recipes, bench)
    check_encoders(options.encoders)
    for subject in bench.subjects:
        opened(subject)
    out = options.out
    try:
        concepts = learn(bench, recipes, protocol, out, options)
        drawn = draw(bench, concepts, list(recipes), protocol, out, options)
    except Left as left:
        sys.stderr.write(f"{left}\n")
        return left.status
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoders = [folder_encoder(folder, device) for folder in options.encoders]
    found = score(bench, recipes, drawn, encoders, out)
    rows = list(gallery(bench, recipes, drawn, found, out))
    write_page(out, score_tables(found), facts(bench, protocol, found), rows)
    sys.stdout.write(f"See {out / 'tables.md'} and {out / 'index.html'}\n")
    return ALL_DONE


def protocol_of(options: argparse.Namespace) -> Protocol:
    names = Protocol.__dataclass_fields__.keys() & vars(options).keys()
    return Protocol(**{name: getattr(options, name) for name in names})


def check_masks(recipes: Mapping[str, Recipe], bench: Bench) -> None:
    """Raise ValueError where a method needs masks and there are none."""
    needing = [name for name, recipe in recipes.items() if recipe.is_detex]
    if needing and not all(subject.is_masked for subject in bench.subjects):
        raise ValueError(
            f"{', '.join(needing)} needs masks of the photos: name a folder of them with --masks, "
            "in which dog/00.png is the mask of dog/00.jpg, or choose methods without."
        )


def check_encoders(folders: Sequence[Path]) -> None:
    """Raise ValueError for folders that hold no encoder, and where transformers is missing."""
    try:
        transformers()
    except ImportError as error:
        raise ValueError(str(error)) from error
    for folder in folders:
        model_type(folder)
