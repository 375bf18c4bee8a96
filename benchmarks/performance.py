"""Writes docs/performance.md from the files in docs/performance: python -m benchmarks.performance

The files are of benchmarks.train_step, .fits, .profile, .choices, .inference, .growth and .stages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib import pyplot as plt

from .figures import COLOURS, save
from .machine import FOLDER

PAGE = FOLDER.parent / "performance.md"
KINDS = {"cpu": "On a CPU", "cuda": "On a graphics card"}
NOT_MEASURED = "Not measured yet."
MODELS = {"sd15": "Stable Diffusion 1.5", "sd21": "Stable Diffusion 2.1", "sdxl": "SDXL"}
WHOLE_RUNS = {"stages": "Stable Diffusion 1.5", "stages_sdxl": "SDXL at its full size"}
Section = Callable[[dict[str, Any], str], str]  # (report, "cpu" or "cuda") -> Markdown
LABELS = {
    "photos": "photos",
    "batch": "photos a step",
    "pixels": "pixels a side",
    "concepts": "concepts loaded, sampling",
}


def main() -> None:
    parts = [
        "# Speed and memory",
        "Written by `python -m benchmarks.performance`. Do not edit it by hand.",
        "## A training step",
        "Stable Diffusion 1.5 with random weights (`python -m devtools.checkpoints`). The two of\n"
        "a row are processes that take their steps in turn, but for Train LoRA, which comes after\n"
        "ours because both do not fit; medians. **diffusers**: the step of its Custom Diffusion\n"
        "example on its own classes; the example encodes the photos in each step, *latents kept*\n"
        "does not. **Train LoRA**: ComfyUI's own node, rank 16, checkpointing off; a step is half\n"
        "of what a run of three takes longer than a run of one (on a card: a fortieth, of 41),\n"
        "measured once, as ours in that row. *of the possible*: the operations that torch\n"
        "counts, over the rate of a large matrix product. On a CPU *peak* is the process'\n"
        "resident memory while a step runs.\n"
        "Ours includes MODEL, CLIP and VAE of the graph. Training reads the MODEL's own weights;\n"
        "the CLIP it computes with is a copy in float32. *gradient checkpointing* is ours alone:\n"
        "what the preflight chooses where memory is short.",
        *(_section(kind, "train_step", _train_step) for kind in KINDS),
        "## What fits on which card",
        "By the preflight's own account, which no card has confirmed yet: bfloat16, prior images,\n"
        "random weights' shapes (`python -m benchmarks.fits`). In brackets what is taken of the\n"
        "card, weights included.",
        _fits(),
        "## Where the time of a step goes",
        "DETEX on the same checkpoint: each kind of operation's share, after a first step.",
        *(_section(kind, "profile", _profile) for kind in KINDS),
        "## What each choice about a step does",
        "The same run, its steps in turn as they are and with one thing changed; medians. What\n"
        "was foretold stands in the program, written before the first measurement. *first*: the\n"
        "first step after the change, with all that it sets up. *channels last* holds the\n"
        "convolutions' weights twice here, so as to put them back.",
        *(_section(kind, "choices", _choices) for kind in KINDS),
        "## Sampling",
        "KSampler on the same checkpoint, each MODEL in turn, after a first step that puts its\n"
        "weights in place. A concept's deltas are added to the weights then. Operations: the\n"
        "matrix products and convolutions that torch counts in a step. Ratio: of the seconds to\n"
        "the plain run of the same round, the Hodges-Lehmann estimate over the rounds with its\n"
        "bootstrap interval.",
        *(_section(kind, "inference", _inference) for kind in KINDS),
        "## How cost grows",
        "On the demo model: a training step with prior images, and four sampling steps.",
        *(_section(kind, "growth", _growth) for kind in KINDS),
        "## A whole run",
        "From the checkpoint to a picture, stage by stage; four photos, random features in place\n"
        "of an image encoder's, no live picture.",
        *(part for name, model in WHOLE_RUNS.items() for part in _whole_runs(name, model)),
        "## How this was made",
        "`python -m benchmarks.train_step --checkpoint FILE`, and so `profile`, `choices`,\n"
        "`inference` and `stages` (SDXL's with `--out docs/performance/stages_sdxl_cpu.json`; it\n"
        "needs 20 GB); `python -m benchmarks.growth`; each writes a file into docs/performance,\n"
        "on an otherwise idle machine. `benchmarks/gpu.sh` does all of it on a graphics card,\n"
        "SDXL's run where it is named.",
    ]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {PAGE}")


def _section(kind: str, name: str, section: Section) -> str:
    path = FOLDER / f"{name}_{kind}.json"
    if not path.is_file():
        return f"{KINDS[kind]}: {NOT_MEASURED}"
    report = json.loads(path.read_text(encoding="utf-8"))
    keys = ("device", "machine", "date", "commit")
    where = ", ".join(dict.fromkeys(report[key] for key in keys if report[key]))
    return f"{KINDS[kind]} ({where}):\n\n{section(report, kind)}"


def _train_step(report: dict[str, Any], kind: str) -> str:
    told = f"{_step(report['pixels'], report['photos'])}, {report['rounds']} steps each."
    head = ("ours", "theirs", "s, ours", "s, theirs", "ratio", "peak, ours", "peak, theirs")
    head += ("ratio", "of the possible, ours", "theirs")
    errors = (
        f"{pair['ours']['foretold_gb'] / pair['ours']['peak_gb'] - 1:+.0%}"
        for pair in report["pairs"]
    )
    return (
        f"{_table(told, head, map(_pair, report['pairs']))}\n\n"
        f"What the preflight foretold of our peaks, row by row: {', '.join(errors)}."
        f"{_held(report['pairs'][0])}"
    )


def _held(pair: dict[str, Any]) -> str:
    """What the two of a row hold before training begins, which no training can do without."""
    if "theirs" not in pair:
        return ""
    ours, theirs = pair["ours"]["held_gb"], pair["theirs"]["held_gb"]
    share = ours / pair["theirs"]["peak_gb"]
    return (
        f"\nBefore training begins ours holds {ours:.1f} GB (photos encoded) and diffusers' "
        f"{theirs:.1f} GB (just\nloaded), the weights of MODEL, CLIP and VAE. What ours holds then "
        f"is {share:.2f} of diffusers'\nwhole peak."
    )


def _pair(pair: dict[str, Any]) -> tuple[str, ...]:
    ours = pair["ours"]
    name, seconds = ours["name"], f"{ours['seconds']:.2f}"
    peak, share = f"{ours['peak_gb']:.1f} GB", f"{ours['of_possible']:.0%}"
    if "theirs" not in pair:  # its packages were not there
        return (name, "not measured", seconds, "-", "-", peak, "-", "-", share, "-")
    theirs, ratio = pair["theirs"], pair["ratio"]
    return (
        name,
        theirs["name"],
        seconds,
        f"{theirs['seconds']:.2f}",
        f"**{ratio['seconds']:.2f}**",
        peak,
        f"{theirs['peak_gb']:.1f} GB",
        f"**{ratio['peak_gb']:.2f}**",
        share,
        f"{theirs['of_possible']:.0%}",
    )


def _fits() -> str:
    path = FOLDER / "fits.json"
    if not path.is_file():
        return NOT_MEASURED
    report = json.loads(path.read_text(encoding="utf-8"))
    models = report["models"]
    cards = list(next(iter(models.values()))["cards"])
    told = (
        f"{report['photos']} + {report['photos']} pictures a step; {report['spent_gb']:g} GB of "
        f"each card are left to CUDA and the screen ({report['date']}, {report['commit']})."
    )
    rows = (
        (MODELS[name], str(model["pixels"]), *map(_plan, model["cards"].values()))
        for name, model in models.items()
    )
    return _table(told, ("model", "pixels", *(f"{card} GB" for card in cards)), rows)


def _plan(plan: dict[str, Any]) -> str:
    return f"{plan['way']} ({plan['gb']:.1f} GB)" if plan["fits"] else "does not fit"


def _step(pixels: int, photos: int) -> str:
    return f"{pixels} pixels, {photos} + {photos} pictures a step"


def _table(told: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join([told, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _profile(report: dict[str, Any], kind: str) -> str:
    told = f"{_step(report['pixels'], report['photos'])}, {report['steps']} steps."
    rows = ((name, f"{share:.1%}") for name, share in report["shares"].items())
    return _table(told, ("operations", "share"), rows)


def _choices(report: dict[str, Any], kind: str) -> str:
    told = f"{_step(report['pixels'], report['photos'])}, median of {report['rounds']} steps."
    rows = (
        (
            name,
            f"{choice['foretold']}{choice['why'] and ': '}{choice['why']}",
            f"{choice['seconds']:.2f}",
            f"**{choice['ratio']:.2f}**",
            f"{choice['first_seconds']:.1f}",
            f"{choice['peak_gb']:.1f} GB",
        )
        for name, choice in report["choices"].items()
    )
    return _table(told, ("a step", "ratio, foretold", "s", "ratio", "s, first", "peak"), rows)


def _whole_runs(name: str, model: str) -> list[str]:
    return [f"### {model}", *(_section(kind, name, _stages) for kind in KINDS)]


def _stages(report: dict[str, Any], kind: str) -> str:
    told = f"{_step(report['pixels'], report['batch'])}, {report['steps']} steps"
    if report["peak_gb"]:  # else it was stopped while it trained
        told += f"; highest memory of the training {report['peak_gb']:.1f} GB"
    told += "."
    rows = [(stage, f"{seconds:.1f}") for stage, seconds in report["seconds"].items()]
    rows.append(("**together**", f"**{sum(report['seconds'].values()):.1f}**"))
    return _table(told, ("stage", "s"), rows)


def _inference(report: dict[str, Any], kind: str) -> str:
    told = f"{report['pixels']} pixels, {report['steps']} steps, median of {report['rounds']} runs."
    rows = (
        (
            name,
            f"{run['seconds']:.2f}",
            f"**{run['ratio']:.3f}**",
            "{:.3f} to {:.3f}".format(*run["interval"]),
            f"{run['operations'] / 1e9:,.3f}",
            f"{run['peak_gb']:.1f} GB",
        )
        for name, run in report["runs"].items()
    )
    head = ("MODEL", "s", "ratio", "95 %", "billion operations, one step", "peak")
    return _table(told, head, rows)


def _growth(report: dict[str, Any], kind: str) -> str:
    figure, panels = plt.subplots(
        1, len(report["seconds"]), figsize=(9.6, 2.4), layout="constrained", squeeze=False
    )
    for axes, (name, values) in zip(panels[0], report["seconds"].items(), strict=True):
        at = [int(value) for value in values]
        axes.plot(at, list(values.values()), marker="o", color=COLOURS[0])
        axes.set_ylim(0, 1.15 * max(values.values()))
        axes.set_xticks(at)
        axes.set_xlabel(LABELS[name])
        axes.grid(axis="y")
    panels[0][0].set_ylabel("seconds")
    save(figure, FOLDER / f"growth_{kind}.png")
    rows = (
        (LABELS[name], ", ".join(f"{value}: {seconds:.3f}" for value, seconds in values.items()))
        for name, values in report["seconds"].items()
    )
    picture = f"![Seconds by setting](performance/growth_{kind}.png)"
    return _table(picture, ("setting", "seconds"), rows)


if __name__ == "__main__":
    main()
