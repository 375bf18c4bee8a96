"""Which of the field's scores can be trusted to say what: their rank correlation with the truth,
in the little world, where the judge tells it.

python -m benchmarks.field_scores           measure; a stopped one goes on where it was
python -m benchmarks.field_scores --report  docs/science/field_scores.md from what is there

Two sources. The cells of the science page hold how alike their pictures are to the photos (CLIP-I).
For the other scores a few concepts are trained and drawn at several strengths, which makes many
concepts of few trainings; those of one training are not independent of each other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.functional import normalize

from detex_pack.detex.evaluate.encoder import Encoder, Reader
from detex_pack.detex.evaluate.scoring import Masked, Sampled, evaluate
from detex_pack.detex.host.encoders import vision_encoder
from detex_pack.detex.prompt.grammar import plain_caption
from detex_pack.detex.toys.render import render
from detex_pack.detex.toys.scene import SHAPES, Identity, indices, place, sample_scenes
from detex_pack.detex.toys.subjects import DemoSubject
from devtools.machine import ROOT, facts

from . import reader
from .arms import ARMS, arm_named
from .cell import demo_model, draw, judge, learn
from .cells import Cell
from .hypotheses import study
from .markdown import fill, table
from .measures import (
    background_leak,
    editability,
    measured,
    subject_fidelity,
)
from .prompts import Request, requests
from .references import reference_photos, reported_identities

FILE = ROOT / "docs" / "science" / "field_scores.json"
PAGE = ROOT / "docs" / "science" / "field_scores.md"
TEMPLATE = Path(__file__).with_name("field_scores_page.md")
TRIED = ("custom_diffusion", "textual_inversion", "improved", "places")  # arms
STRENGTHS = (0.4, 0.7, 1.0)
STEPS = 150
COUNTS = {"neutral": 16, "both": 16, "class": 8}  # pictures of a concept
RENDERS = 64  # of which a caption's feature is the mean
SEED, DRAWS = 0, 2000
FACTORS = ("shape", "main", "second", "pattern", "background", "position")
PAIRS = (  # score, truth, and whether the score is meant to say that
    ("CLIP-I", "S", True),
    ("CLIP-I", "L_b", False),
    ("CLIP-I", "E", False),
    ("CLIP-I fg_ref", "S", True),
    ("CLIP-I fg_ref", "L_b", False),
    ("CLIP-I fg_both", "S", True),
    ("CLIP-I fg_both", "L_b", False),
    ("CLIP leak", "L_b", True),
    ("CLIP leak", "S", False),
    ("CLIP-T", "E", True),
    ("CLIP-T", "S", False),
    ("CLIP drift", "moved", True),
)


@dataclass(frozen=True)
class Correlation:
    """Mean over groups (subjects) of Spearman's rho, and its interval over resampled concepts."""

    rho: float
    low: float
    high: float
    groups: int
    n: int  # concepts in all


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, ties at their mean: [3, 1, 3] -> [1.5, 0, 1.5]."""
    return rankdata(values) - 1


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; NaN where one does not vary."""
    a, b = ranks(x) - (len(x) - 1) / 2, ranks(y) - (len(y) - 1) / 2
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size else float("nan")


def correlation(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> Correlation:
    """Within each group, so that a subject which is easy in all arms counts for nothing."""
    rng = np.random.default_rng(SEED)

    def over(pick: Callable[[int], Any]) -> float:
        found = [spearman(x[chosen], y[chosen]) for x, y in groups for chosen in [pick(len(x))]]
        return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")

    drawn = [over(lambda n: rng.integers(n, size=n)) for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    n = sum(len(x) for x, _ in groups)
    return Correlation(over(np.arange), float(low), float(high), len(groups), n)


# ---- concepts that are trained for this ------------------------------------------------------


def asked_of(photos: DemoSubject) -> dict[str, list[Request]]:
    """What a concept is asked for: neutral prompts, edits of background and position, the class."""
    all_of = requests(photos.scenes, photos.class_word, words=False)
    listed = {
        kind: list(islice(cycle([r for r in all_of if r.kind == kind]), COUNTS[kind]))
        for kind in ("neutral", "both")
    }
    return listed | {
        "class": [Request("class", f"photo of a {photos.class_word}")] * COUNTS["class"]
    }


def caption_reader(asked: Sequence[Request], class_word: str, see: Callable) -> Reader:
    """The demo model's image encoder has no text side. A caption's feature is, here, the mean
    feature of exact renders of what it says, all else drawn at random: as good as a text side gets.
    """
    known = {plain_caption(request.text): request for request in asked}

    def read(captions: Sequence[str]) -> Tensor:
        features = {
            text: rendered(known[text], class_word, see) for text in dict.fromkeys(captions)
        }
        return torch.stack([features[text] for text in captions])

    return Reader("captions by renders", read)


def rendered(request: Request, class_word: str, see: Callable) -> Tensor:
    """The mean direction of what the caption could show, [F]."""
    generator = torch.Generator().manual_seed(SEED)
    scenes = sample_scenes(RENDERS, generator)
    named = {"shape": SHAPES.index(class_word)}
    named |= {n: v for n in ("background", "position") if (v := getattr(request, n)) >= 0}
    factors = {name: torch.full((RENDERS,), index) for name, index in named.items()}
    if "position" in factors:
        factors["centre"] = place(factors["position"], scenes.radius, generator)
    pictures = render(scenes.with_factors(**factors))[0]
    return normalize(see(list(pictures)), dim=1).mean(0)


def truth(seen: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray], cell: Cell,
          asked: Sequence[Request], photos: Sequence[int]) -> dict[str, float]:  # fmt: skip
    """S, E, L_b as on the science page, and `moved`: the share of factors of class pictures that
    the judge sees otherwise than in the base model's picture of the same noise.
    """

    def of(eyes: Mapping[str, np.ndarray], *kinds: str) -> dict[str, np.ndarray]:
        rows = [i for i, request in enumerate(asked) if request.kind in kinds]
        return {name: values[rows] for name, values in eyes.items()}

    edits = [request for request in asked if request.kind == "both"]
    named = {n: np.array([getattr(r, n) for r in edits]) for n in ("background", "position")}
    moved = [of(seen, "class")[name] != of(base, "class")[name] for name in FACTORS]
    neutral = of(seen, "neutral")["background"]
    return {
        "S": subject_fidelity(of(seen, "neutral", "both"), indices(cell.identity)),
        "E": editability(of(seen, "both"), named),
        "L_b": background_leak(neutral, of(base, "neutral")["background"], photos),
        "moved": float(np.mean(moved)),
    }


def looked_at(images: Tensor) -> dict[str, np.ndarray]:
    seen = judge()(images)
    return {name: seen[name].numpy() for name in FACTORS}


class Subject(NamedTuple):
    """What all trainings of one subject share. base: the base model's pictures and their masks."""

    photos: DemoSubject
    asked: tuple[Request, ...]
    base: Tensor  # [N, 64, 64, 3]
    base_seen: dict[str, np.ndarray]  # what the judge sees in them
    base_masks: Tensor
    encoder: Encoder


@cache
def subject_of(identity: Identity) -> Subject:
    cell = Cell("base", identity, SEED)
    photos = reference_photos(identity, cell.photos, cell.rho, SEED)
    asked = tuple(request for part in asked_of(photos).values() for request in part)
    base = draw(None, asked, SEED).float().cpu()
    plain = vision_encoder(demo_model().clip_vision)
    read = caption_reader(asked, photos.class_word, plain.see)
    encoder = Encoder("CLIP", plain.label, plain.see, read)
    return Subject(photos, asked, base, looked_at(base), reader.subject_masks(base), encoder)


@torch.inference_mode()
def measure_training(arm: str, identity: Identity) -> list[dict[str, Any]]:
    """One training -> a row for each strength: the field's scores and the judge's truth."""
    cell, started = Cell(arm, identity, SEED, steps=STEPS), time.monotonic()
    subject = subject_of(identity)
    concept = learn(arm_named(arm), subject.photos, cell)
    behind = subject.photos.scenes.background.unique().tolist()
    rows = []
    for strength in STRENGTHS:
        images = draw(concept, subject.asked, SEED, strength).float().cpu()
        real = truth(looked_at(images), subject.base_seen, cell, subject.asked, behind)
        rows.append(
            {
                "arm": arm,
                "subject": " ".join(identity),
                "strength": strength,
                "scores": scored(images, subject),
                "truth": {name: round(value, 5) for name, value in real.items()},
            }
        )
    print(f"{cell}: {time.monotonic() - started:.0f} s", flush=True)
    return rows


def scored(images: Tensor, subject: Subject) -> dict[str, float]:
    """The field's scores of a concept: CLIP-T of the edits, the others where they apply."""
    kinds = np.array([request.kind for request in subject.asked])
    of_class = (kinds == "class").nonzero()[0].tolist()
    base = Masked(list(subject.base[of_class]), list(subject.base_masks[of_class]))
    shown = Masked(list(images), list(reader.subject_masks(images)), "picture")
    sampled = Sampled(shown, [request.text for request in subject.asked])
    photos = Masked(list(subject.photos.images), list(subject.photos.masks))
    found = evaluate("concept", "subject", sampled, photos, [subject.encoder], base)
    scores = {}
    for score, values in found.scores.items():
        of_edits = np.array(values)[kinds == "both"]
        counted = of_edits if score.name == "CLIP-T" else np.array(values)
        scores[score.name] = round(float(np.nanmean(counted)), 5)
    return scores


def settings() -> dict[str, Any]:
    trained = {name: arm_named(name).settings(STEPS, SEED) for name in TRIED}
    given = {"steps": STEPS, "strengths": list(STRENGTHS), "counts": COUNTS, "seed": SEED}
    return given | {"trained": trained}


def measure_all(subjects: int) -> None:
    """Every training that is not there yet; the file is written after each."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    rows = kept.get("rows", []) if kept.get("settings") == settings() else []
    done = {(row["arm"], row["subject"]) for row in rows}
    for identity in reported_identities(subjects):
        for arm in TRIED:
            if (arm, " ".join(identity)) not in done:
                rows = rows + measure_training(arm, identity)
                text = json.dumps(facts() | {"settings": settings(), "rows": rows}, indent=1)
                FILE.write_text(text + "\n", encoding="utf-8")


# ---- the page --------------------------------------------------------------------------------


def of_trainings(rows: Sequence[Mapping[str, Any]], score: str, real: str) -> Correlation:
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    groups = []
    for subject in subjects:
        own = [row for row in rows if row["subject"] == subject]
        groups.append((np.array([row["scores"][score] for row in own]),
                       np.array([row["truth"][real] for row in own])))  # fmt: skip
    return correlation(groups)


def of_cells(real: str) -> Correlation:
    """CLIP-I of neutral pictures (Q) over the arms of the science page, within subject and seed."""
    grid = study("arms")
    seen = measured(grid.cells())
    groups: dict[tuple, list[dict[str, float]]] = {}
    for cell, values in seen.items():
        if ARMS[cell.arm].config is not None:
            groups.setdefault((cell.identity, cell.seed), []).append(values)
    pairs = [
        (np.array([v["Q"] for v in own]), np.array([v[real] for v in own]))
        for own in groups.values()
        if len(own) > 3
    ]
    return correlation(pairs)


def shown(found: Correlation) -> list[str]:
    return [f"{found.rho:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}"]


def write_report() -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    rows, used = kept["rows"], kept["settings"]
    trained = [
        [score, real, "yes" if meant else "no", *shown(of_trainings(rows, score, real))]
        for score, real, meant in PAIRS
    ]
    stored = {real: of_cells(real) for real in ("S", "L_b", "L_p", "E", "E_b", "E_p")}
    first = next(iter(stored.values()))
    of_stored = [["CLIP-I", real, *shown(found)] for real, found in stored.items()]
    head = ("rank correlation", "95 %")
    parts = {
        "cells": first.n,
        "groups": first.groups,
        "stored": table(("score", "truth", *head), of_stored),
        "trained": table(("score", "truth", "meant to say it", *head), trained),
        "concepts": len(rows),
        "trainings": len({(row["arm"], row["subject"]) for row in rows}),
        "subjects": len({row["subject"] for row in rows}),
        "arms": "; ".join(ARMS[arm].title for arm in dict.fromkeys(row["arm"] for row in rows)),
        "strengths": ", ".join(map(str, used["strengths"])),
        "machine": "{device}, {machine}, {date}, commit {commit}".format(**kept),
        "renders": RENDERS,
        "draws": DRAWS,
        **{name: used[name] for name in ("steps", "seed")},
        **used["counts"],
    }
    PAGE.write_text(fill(TEMPLATE, parts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Field scores against the truth.")
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="write the page")
    options = parser.parse_args()
    if options.report:
        write_report()
    else:
        measure_all(options.subjects)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
