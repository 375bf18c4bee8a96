"""Speed and memory of the pack; -h after a sub-command shows its options.

python -m benchmarks.speed contenders   a training step beside diffusers' and Train LoRA's
python -m benchmarks.speed memory       what fits on which card
python -m benchmarks.speed step         where the time of a step goes
python -m benchmarks.speed choices      what each choice about a step does
python -m benchmarks.speed sampling     what a concept and the capture of attention cost
python -m benchmarks.speed growth       how cost grows with photos, batch, pixels and concepts
python -m benchmarks.speed photos       real photos: places, composites, DisenDiff beside DETEX
python -m benchmarks.speed scenes       DisenDiff on real photos side by side, to its end
python -m benchmarks.speed stages       from a checkpoint to a picture, stage by stage
python -m benchmarks.speed live         what the live picture costs
python -m benchmarks.speed report       docs/performance.md of what was measured

A checkpoint is one of python -m devtools.checkpoints FOLDER sd15, or any of Stable Diffusion 1.5.
Each figure is kept in docs/performance as soon as it is there, so that a stop loses little.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module
from pathlib import Path

from .measure import default_file, keep

HELP = {
    "bench": "the folder dataset of google/dreambooth",
    "checkpoint": "the model to measure",
    "encoded": "composites that the VAE encodes; all are cut out",
    "pixels": "a side",
    "photos": "a step, and as many prior images",
    "priors": "prior images to make",
    "rounds": "how often each is measured, in turn",
}


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] not in re.findall(r"benchmarks\.speed (\w+)", str(__doc__)):
        sys.exit(__doc__)
    name = words[0]
    command = import_module(f".{name}", __package__)
    if name == "report":
        command.write_page()
        return
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.speed {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, default in command.OPTIONS.items():
        kind = Path if default is None else type(default)
        needed = default is None
        parser.add_argument(
            f"--{option}", type=kind, default=default, required=needed, help=HELP.get(option)
        )
    parser.add_argument("--out", type=Path, default=default_file(name))
    options = parser.parse_args(words[1:])
    settings = {n: value for n, value in vars(options).items() if not isinstance(value, Path)}
    command.measure(options, lambda found: keep(settings | found, options.out))


if __name__ == "__main__":
    main()
