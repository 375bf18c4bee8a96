"""Other packs and this one in one ComfyUI: do stock pictures keep their bytes, may patches stand in
any order?

    python -m devtools.coexist FOLDER [--base FOLDER] [--only WORDS]

FOLDER holds ComfyUI_IPAdapter_plus, ComfyUI-AnimateDiff-Evolved, ComfyUI-Advanced-ControlNet and
ComfyUI-KJNodes, unpacked; what they import must be installed, or lie on PYTHONPATH. All models are
of random weights and real size; it takes 6 GB of memory and 4 GB of disk.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .coexist_files import write_files
from .coexist_graphs import ONCE, PLAIN, TRIALS, TWICE, Trial, trial_graph
from .host_process import PACK_FOLDER
from .server import ComfyServer

ROUNDING = 1e-4  # largest difference of latents, of spread 1, that the order of sums explains
ORDERS = (
    ("load", "capture", "theirs"),
    ("load", "theirs", "capture"),
    ("theirs", "load", "capture"),
)


@dataclass(frozen=True)
class Made:
    """What a graph gave."""

    latents: Tensor  # [count, 4, h, w]
    files: tuple[bytes, ...]  # pixels of the pictures
    masks: tuple[bytes, ...]  # of the captured maps

    @property
    def stock(self) -> tuple[bytes, ...]:
        return self.latents.numpy().tobytes(), *self.files


def make(server: ComfyServer, trial: Trial, order: Sequence[str] = ("theirs",)) -> Made:
    """Run the trial's graph. Raises RuntimeError where the sampler's result is only remembered."""
    entry = server.run(trial_graph(trial, order))
    if "trial sample" in dict(entry["status"]["messages"])["execution_cached"]["nodes"]:
        raise RuntimeError(f"{trial.name}: the sampler did not run again.")
    outputs = entry["outputs"]
    shown = server.shown(outputs)
    picture, masks = (
        tuple(seen.tobytes() for seen in shown.get(name, ())) for name in ("picture", "masks")
    )
    (latents,) = outputs["latents"]["latents"]
    path = server.base / "output" / latents["subfolder"] / latents["filename"]
    return Made(load_file(path)["latent_tensor"], picture, masks)


@contextmanager
def bench(base: Path, packs: Path, names: Sequence[str]) -> Iterator[ComfyServer]:
    """A server with these packs alone. It forgets what the last graph did not use, so that a graph
    between two runs of another has it computed again.
    """
    paths = base / "packs.yaml"
    paths.write_text(f"packs:\n    custom_nodes: {packs.resolve().as_posix()}\n", encoding="utf-8")
    arguments = ["--extra-model-paths-config", str(paths), "--cache-classic"]
    arguments += ["--disable-all-custom-nodes"]
    arguments += ["--whitelist-custom-nodes", *names] if names else []
    with ComfyServer(base, arguments=arguments) as server:
        failed = [line for line in server.log_text().splitlines() if "IMPORT FAILED" in line]
        if failed:
            raise RuntimeError(f"{failed[0].strip()}. The log is {server.log}.")
        yield server


Row = tuple[str, str, bool]  # what was tried, what came, whether it is as it should be


def compare(
    base: Path, packs: Path, names: Sequence[str], trials: Sequence[Trial]
) -> Iterator[Row]:
    with bench(base, packs, ()) as bare:
        lone = make(bare, PLAIN)
    with bench(base, packs, names) as theirs:
        alone = {trial.name: make(theirs, trial) for trial in (PLAIN, *trials)}
    yield row(f"{PLAIN.name}: their packs beside none", lone, alone[PLAIN.name])
    with bench(base, packs, [*names, PACK_FOLDER]) as beside:
        yield row(f"{PLAIN.name}: ours beside theirs", alone[PLAIN.name], make(beside, PLAIN))
        for trial in trials:
            yield row(f"{trial.name}: without our nodes", alone[trial.name], make(beside, trial))
            yield from orders_of(beside, trial)
            yield row(f"{trial.name}: afterwards", alone[trial.name], make(beside, trial))
            yield row("  and a plain graph", alone[PLAIN.name], make(beside, PLAIN))


def orders_of(beside: ComfyServer, trial: Trial) -> Iterator[Row]:
    """Load, Capture and their patch in every order, against Load and their patch alone; what acts
    on the prompts has no place among them.
    """
    wanted = make(beside, trial, ("load", "theirs"))
    first = None
    for order in ORDERS if trial.patch else ORDERS[:1]:
        name = f"{trial.name}: {', '.join(order)}"
        try:
            made = make(beside, trial, order)
        except RuntimeError as error:  # a node has failed, or the sampler was not asked
            yield name, f"{error}", False
            continue
        first = first or made
        yield row(name, wanted, made)
        yield maps_row(trial, first, made)


def row(name: str, wanted: Made, made: Made) -> Row:
    if made.stock == wanted.stock:
        return name, "bit-equal", True
    if made.latents.shape != wanted.latents.shape:
        return name, f"another shape, {tuple(made.latents.shape)}", False
    most = (made.latents - wanted.latents).abs().max().item()
    spread = wanted.latents.std().item()
    return name, f"differs by {most:.2g} at most (spread {spread:.2g})", most < ROUNDING * spread


def maps_row(trial: Trial, first: Made, made: Made) -> Row:
    seen = [len(set(mask)) > 1 for mask in made.masks]
    same = "as before" if made.masks == first.masks else "other than before"
    well = len(seen) == 2 * trial.count and all(seen) and made.masks == first.masks
    return "  maps", f"{sum(seen)} of {2 * trial.count} show something, {same}", well


def of_their_own(base: Path, packs: Path, names: Sequence[str]) -> Iterator[Row]:
    """What goes wrong among them, without our pack."""
    with bench(base, packs, names) as theirs:
        once = make(theirs, ONCE)
        make(theirs, TWICE)
        yield row(f"{ONCE.name} alone: once, after {TWICE.name}", once, make(theirs, ONCE))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("packs", type=Path, help="the folder that holds the other packs")
    parser.add_argument("--base", type=Path, help="where the files of random weights stay")
    parser.add_argument("--only", nargs="+", default=[""], help="trials whose names have these")
    options = parser.parse_args()
    trials = [trial for trial in TRIALS if any(word in trial.name for word in options.only)]
    names = sorted(path.name for path in options.packs.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory(prefix="detex-coexist-") as folder:
        base = (options.base or Path(folder)).resolve()
        write_files(base)
        print(f"torch {torch.__version__}; packs: {', '.join(names)}")
        wrong = 0
        for name, found, well in compare(base, options.packs, names, trials):
            wrong += not well
            print(f"{'ok ' if well else 'NOT'}  {name}: {found}", flush=True)
        for name, found, _ in of_their_own(base, options.packs, names):
            print(f"     {name}: {found}", flush=True)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
