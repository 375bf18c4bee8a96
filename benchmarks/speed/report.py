"""docs/performance.md from the files in docs/performance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from ..figures import COLOURS, save
from ..markdown import fill, table
from .measure import FOLDER
from .scenes import SCENES as ASKED

PAGE = FOLDER.parent / "performance.md"
TEMPLATE = Path(__file__).with_name("page.md")
KINDS = {"cpu": "On a CPU", "cuda": "On a graphics card"}
NOT_MEASURED = "Not measured yet."
MODELS = {"sd15": "Stable Diffusion 1.5", "sd21": "Stable Diffusion 2.1", "sdxl": "SDXL"}
LABELS = {
    "photos": "photos",
    "batch": "photos a step",
    "pixels": "pixels a side",
    "concepts": "concepts loaded, sampling",
}
# columns: what stands above, and what a row shows there of its values
CONTENDERS = (
    ("ours", "{ours[name]}"),
    ("theirs", "{theirs[name]}"),
    ("s, ours", "{ours[seconds]:.2f}"),
    ("s, theirs", "{theirs[seconds]:.2f}"),
    ("ratio", "**{ratio[seconds]:.2f}**"),
    ("peak, ours", "{ours[peak_gb]:.1f} GB"),
    ("peak, theirs", "{theirs[peak_gb]:.1f} GB"),
    ("ratio", "**{ratio[peak_gb]:.2f}**"),
    ("of the possible, ours", "{ours[of_possible]:.0%}"),
    ("theirs", "{theirs[of_possible]:.0%}"),
)
CHOICES = (
    ("a step", "{name}"),
    ("ratio, foretold", "{foretold}{reason}"),
    ("s", "{seconds:.2f}"),
    ("ratio", "**{ratio:.2f}**"),
    ("s, first", "{first_seconds:.1f}"),
    ("peak", "{peak_gb:.1f} GB"),
)
SAMPLING = (
    ("MODEL", "{name}"),
    ("s", "{seconds:.2f}"),
    ("ratio", "**{ratio:.3f}**"),
    ("95 %", "{interval[0]:.3f} to {interval[1]:.3f}"),
    ("billion operations, one step", "{billions:,.3f}"),
    ("peak", "{peak_gb:.1f} GB"),
)
METHODS = (
    ("a step of", "{name}"),
    ("s", "{seconds:.1f}"),
    ("ratio", "**{ratio:.2f}**"),
    ("peak", "{peak_gb:.1f} GB"),
    ("kept for the backward pass", "{kept_mb:,.0f} MB"),
)
SCENES = (
    ("side by side", "{words}"),
    ("separated by", "{held}"),
    ("s", "{seconds:.0f}"),
    ("peak", "{peak_gb:.1f} GB"),
    ("last total loss", "{losses[total]:.3f}"),
    ("a picture of it is finite", "{fine}"),
)
Report = dict[str, Any]


def write_page() -> None:
    parts = {name: "\n\n".join(section(name, kind) for kind in KINDS) for name in SECTIONS}
    found = read("memory")
    parts["memory"] = memory(found) if found else NOT_MEASURED
    PAGE.write_text(fill(TEMPLATE, parts), encoding="utf-8")
    print(f"wrote {PAGE}")


def read(name: str) -> Report | None:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def section(name: str, kind: str) -> str:
    report = read(f"{name}_{kind}")
    if report is None:
        return f"{KINDS[kind]}: {NOT_MEASURED}"
    keys = ("device", "machine", "date", "commit")
    where = ", ".join(dict.fromkeys(report[key] for key in keys if report[key]))
    return f"{KINDS[kind]} ({where}):\n\n{SECTIONS[name](report | {'kind': kind})}"


def shown(columns: Iterable[tuple[str, str]], rows: Iterable[Report]) -> str:
    """A table of values; a dash for one that is not there."""
    heads, formats = zip(*columns, strict=True)
    return table(heads, ([value(text, row) for text in formats] for row in rows))


def value(text: str, row: Report) -> str:
    try:
        return text.format(**row)
    except KeyError:
        return "-"


def size(report: Report) -> str:
    return "{pixels} pixels, {photos} + {photos} pictures a step".format(**report)


def contenders(report: Report) -> str:
    alone = {"theirs": {"name": "not measured"}, "ratio": {}}  # their packages were not there
    pairs = [alone | pair for pair in report["pairs"]]
    ours = [pair["ours"] for pair in pairs]
    errors = (f"{one['foretold_gb'] / one['peak_gb'] - 1:+.0%}" for one in ours)
    return (
        f"{size(report)}, {report['rounds']} steps each.\n\n{shown(CONTENDERS, pairs)}\n\n"
        f"What the preflight foretold of our peaks, row by row: {', '.join(errors)}."
        f"{held(**pairs[0]) if pairs[0]['ratio'] else ''}"
    )


def held(ours: Report, theirs: Report, **_: Any) -> str:
    """What the two of a row hold before training begins, which no training can do without."""
    return (
        f"\nBefore training begins ours holds {ours['held_gb']:.1f} GB (photos encoded) and "
        f"diffusers' {theirs['held_gb']:.1f} GB (just\nloaded), the weights of MODEL, CLIP and "
        f"VAE. What ours holds then is {ours['held_gb'] / theirs['peak_gb']:.2f} of diffusers'\n"
        "whole peak."
    )


def memory(report: Report) -> str:
    models = report["models"]
    head = ("model", "pixels", *(f"{card} GB" for card in next(iter(models.values()))["cards"]))
    rows = (
        (MODELS[name], model["pixels"], *map(plan, model["cards"].values()))
        for name, model in models.items()
    )
    return (
        f"{report['photos']} + {report['photos']} pictures a step; {report['spent_gb']:g} GB of "
        f"each card are left to CUDA and the screen ({report['date']}, {report['commit']}).\n\n"
        f"{table(head, rows)}"
    )


def plan(found: Report) -> str:
    return f"{found['way']} ({found['gb']:.1f} GB)" if found["fits"] else "does not fit"


def step(report: Report) -> str:
    rows = ((name, f"{share:.1%}") for name, share in report["shares"].items())
    return f"{size(report)}, {report['steps']} steps.\n\n{table(('operations', 'share'), rows)}"


def choices(report: Report) -> str:
    rows = (
        {"name": name, "reason": choice["why"] and f": {choice['why']}", **choice}
        for name, choice in report["choices"].items()
    )
    return f"{size(report)}, median of {report['rounds']} steps.\n\n{shown(CHOICES, rows)}"


def sampling(report: Report) -> str:
    rows = (
        {"name": name, "billions": run["operations"] / 1e9, **run}
        for name, run in report["runs"].items()
    )
    told = "{pixels} pixels, {steps} steps, median of {rounds} runs.".format(**report)
    return f"{told}\n\n{shown(SAMPLING, rows)}"


def growth(report: Report) -> str:
    picture = f"growth_{report['kind']}.png"
    growth_figure(report["seconds"], FOLDER / picture)
    rows = (
        (LABELS[name], ", ".join(f"{value}: {seconds:.3f}" for value, seconds in values.items()))
        for name, values in report["seconds"].items()
    )
    told = f"![Seconds by setting](performance/{picture})"
    return f"{told}\n\n{table(('setting', 'seconds'), rows)}"


def growth_figure(swept: dict[str, dict[str, float]], path: Path) -> None:
    figure, panels = plt.subplots(
        1, len(swept), figsize=(9.6, 2.4), layout="constrained", squeeze=False
    )
    for axes, (name, values) in zip(panels[0], swept.items(), strict=True):
        at = [int(value) for value in values]
        axes.plot(at, list(values.values()), marker="o", color=COLOURS[0])
        axes.set_ylim(0, 1.15 * max(values.values()))
        axes.set_xticks(at)
        axes.set_xlabel(LABELS[name])
        axes.grid(axis="y")
    panels[0][0].set_ylabel("seconds")
    save(figure, path)


def stages(report: Report) -> str:
    told = f"{size(report)}, {report['steps']} steps"
    if report["peak_gb"]:  # else it was stopped while it trained
        told += f"; highest memory of the training {report['peak_gb']:.1f} GB"
    rows = [(stage, f"{seconds:.1f}") for stage, seconds in report["seconds"].items()]
    rows.append(("**together**", f"**{sum(report['seconds'].values()):.1f}**"))
    return f"{told}.\n\n{table(('stage', 's'), rows)}"


def photos(report: Report) -> str:
    """What was measured of places, composites and steps; what follows from it is told as such."""
    told = []
    if "drawing" in report:
        a_step, after = (report["drawing"][f"seconds_{name}"] for name in ("a_step", "after"))
        told.append(
            f"**Place Pictures**: {a_step:.1f} s a sampling step of one picture of "
            f"{report['pixels']} pixels, {after:.1f} s for the VAE and the file, peak "
            f"{report['drawing']['peak_gb']:.1f} GB; {report['steps']} steps were drawn."
        )
    made = report["composites"]
    count = made["subject_photos"] * made["of_each"]
    told.append(
        f"**Composites** of {made['subject_photos']} photos, {made['of_each']} of each, "
        f"{report['pixels']} pixels: {made['cutting_seconds']:.1f} s to cut out all {count} and to "
        f"put them on their grounds, {made['cutting_gb']:.2f} GB beside what was held; "
        f"{made['encoding_seconds']:.1f} s to encode one (median of {report['encoded']}; by "
        f"multiplication {count * made['encoding_seconds'] / 60:.0f} minutes for all), "
        f"{made['encoding_gb']:.2f} GB beside the VAE. What training keeps of them takes "
        f"{made['kept_mb']:.1f} MB, the 25 pictures of places {made['places_mb']:.0f} MB."
    )
    if "methods" in report:
        told.append(shown(METHODS, report["methods"]))
        told.append(
            f"{size(report)}, median of {report['rounds']} steps"
            + ("." if report["rounds"] > 2 else ": differences of some per cent say nothing.")  # noqa: PLR2004
        )
    if report["threads"] == 1:
        told.append(
            "Seconds are one thread's processor time, and no less than an idle core would take: "
            "other programs had the rest of the machine."
        )
    return "\n\n".join(told)


def scenes(report: Report) -> str:
    rows = (
        {
            **one,
            "words": ", ".join(one["concepts"]),
            "fine": "yes" if one["finite"] else "no",
            "held": "masks" if one["masks"] else "the maps",
        }
        for one in report["scenes"]
    )
    count = f"{len(report['scenes'])} of {len(ASKED)} pictures"
    told = f"{count}, {size(report)}, {report['steps']} steps."
    return f"{told}\n\n{shown(SCENES, rows)}"


SECTIONS: dict[str, Callable[[Report], str]] = {
    "contenders": contenders,
    "step": step,
    "choices": choices,
    "sampling": sampling,
    "growth": growth,
    "stages": stages,
    "stages_sdxl": stages,
    "photos": photos,
    "photos_512": photos,
    "photos_1024": photos,
    "scenes": scenes,
}
