"""Looks inside trainings: the words' norms, what moves them, where their maps lie.

python -m benchmarks.inside   writes docs/science/inside.json and inside.png, which docs/science.md
                              shows; about ten minutes on one core
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from detex_pack.detex.methods.detex import Detex, photo_maps
from detex_pack.detex.training.loop import Run, Watcher
from devtools.machine import ROOT, facts

from .arms import ARMS
from .cell import learn
from .cells import Cell
from .figures import save
from .references import reference_photos, tuning_identities

FOLDER = ROOT / "docs" / "science"
COMPARED = ("custom_diffusion", "detex", "improved")
STEPS = (0, 150, 600)
DRAWS = 32  # batches in a gradient
PHOTOS = (0, 3)  # shown: one of the three alike, and the odd one


class Probe(Watcher):
    """Measures a run after chosen numbers of steps, and leaves it as it was."""

    def __init__(self, steps: Sequence[int] = STEPS):
        self.steps = steps
        self.found: dict[int, dict[str, Any]] = {}
        self.maps: dict[str, Tensor] = {}  # each word's, at the last measurement: [N, h, w]

    def on_start(self, run: Run) -> None:
        self.on_step(run)

    def on_step(self, run: Run) -> None:
        if run.step not in self.steps:
            return
        method: Any = run.method
        self.found[run.step] = {"norms": word_norms(method), "gradients": gradient_norms(run)}
        words = ("V", *method.words.attributes)
        shares: dict[str, list[Tensor]] = {word: [] for word in words}
        for maps, inside in photo_maps(method, run.predict, words):
            self.maps = {word: seen.cpu() for word, seen in maps.items()}
            for word, seen in maps.items():
                shares[word].append(concentration(seen, inside))
        means = {word: float(torch.cat(values).mean()) for word, values in shares.items()}
        self.found[run.step]["concentration"] = means


@torch.no_grad()
def word_norms(method: Detex) -> dict[str, float]:
    """Of each kind of word, in units of the token table's typical row; and, as "P apart", how far
    the words of two photos are from each other.
    """
    row = float(method.text.embedding_rms().norm())
    photos = torch.arange(method.words.count, device=method.device)
    found = {"V": float(method.words.subject.norm()) / row}
    for role, source in method.words.attributes.items():
        vectors = torch.stack(list(source(photos)))
        found[role] = float(vectors.norm(dim=1).mean()) / row
        if len(vectors) > 1:
            found[f"{role} apart"] = float(torch.pdist(vectors).mean()) / row
    return found


def gradient_norms(run: Run) -> dict[str, dict[str, float]]:
    """{what is learned: {loss term: norm of the weighted term's gradient}}, of the mean gradient
    of DRAWS batches.
    """
    method: Any = run.method
    learned = {
        "[V]": [method.words.subject],
        **{f"mapper of [{r}]": [*m.parameters()] for r, m in method.words.attributes.items()},
        "K/V deltas": list(method.deltas.parameters()),
    }
    parameters = [p for group in learned.values() for p in group]
    sums: dict[str, list[Tensor]] = {}  # of each term, as `parameters`
    for _ in range(DRAWS):
        turn = method.turn(run.step)
        for term, value in method.losses(method.draw(), run.predict, turn).items():
            found = torch.autograd.grad(
                method.weights[term] * value / DRAWS,
                parameters,
                retain_graph=True,
                materialize_grads=True,
            )
            before = sums.get(term, [torch.zeros_like(p) for p in parameters])
            sums[term] = [a + b for a, b in zip(before, found, strict=True)]
    run.rewind()
    norms: dict[str, dict[str, float]] = {name: {} for name in learned}
    for term, total in sums.items():
        left = iter(total)
        for name, group in learned.items():
            gradient = torch.cat([g.flatten() for g in islice(left, len(group))])
            norms[name][term] = float(gradient.norm())
    return norms


def concentration(maps: Tensor, inside: Tensor) -> Tensor:
    """Mean attention inside the subject over the mean of the whole map: [N, h, w] -> [N]."""
    within = (maps * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    return within / maps.mean((1, 2))


def maps_figure(photos: Tensor, maps: Mapping[str, Mapping[str, Tensor]]) -> None:
    """PHOTOS and, of each arm, the maps of its words in them, each in its own scale."""
    words = ("V", "P", "B")
    shown = list(product(PHOTOS, words))
    figure, panels = plt.subplots(
        len(maps), len(PHOTOS) + len(shown), figsize=(9.2, 1.25 * len(maps)), layout="constrained"
    )
    for axes in panels.flat:
        axes.axis("off")
    for row, (name, found) in zip(panels, maps.items(), strict=True):
        for place, photo in enumerate(PHOTOS):
            start = place * (1 + len(words))
            row[start].imshow(photos[photo])
            for axes, word in zip(row[start + 1 :], words, strict=False):
                if word in found:
                    axes.imshow(found[word][photo], cmap="viridis")
                    number = "" if word == "V" else photo + 1
                    axes.set_title(f"[{word}{number}]", loc="center", fontweight="normal")
        row[0].set_title(ARMS[name].title.replace(", ", ",\n"), fontsize=8)
    save(figure, FOLDER / "inside.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Looks inside trainings.")
    parser.add_argument("--subjects", type=int, default=2)
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {name: {} for name in COMPARED}
    shown: dict[str, Mapping[str, Tensor]] = {}
    identities = tuning_identities(options.subjects)
    for identity, name in product(identities, COMPARED):
        cell = Cell(name, identity)
        photos = reference_photos(identity, cell.photos, cell.rho, cell.seed)
        probe = Probe()
        learn(ARMS[name], photos, cell, [probe])
        found[name][" ".join(identity)] = probe.found
        print(cell, json.dumps(probe.found), flush=True)
        if identity == identities[0]:
            shown[name] = probe.maps
            first = photos.images
    text = json.dumps(facts() | {"arms": found}, indent=1)
    (FOLDER / "inside.json").write_text(text + "\n", encoding="utf-8")
    maps_figure(first, shown)


if __name__ == "__main__":
    main()
