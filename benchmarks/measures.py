"""The measures as pure functions of judged factors: integer arrays, one entry a picture.

Q, the full-image similarity, is the mean cosine of the CLIP-vision features of the neutral
pictures and of the unmasked photos; it is computed where the pictures are (cell.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detex_pack.detex.toys.scene import BACKGROUNDS, POSITIONS, Scenes, indices
from detex_pack.detex.toys.subjects import WITHHELD

from .arms import arm_named
from .cells import Cell, load_sound
from .prompts import EDITS, SHARED, Request, requests
from .references import reference_scenes

Factor = NDArray[np.int64]
Measured = dict[Cell, dict[str, float]]

PALE = tuple(BACKGROUNDS.index(name) for name in ("sand", "snow"))  # nearest to blank white

WITHHELD_KINDS = tuple(BACKGROUNDS.index(name) for name in WITHHELD)  # in no place picture
SHOWN = tuple(i for i in range(len(BACKGROUNDS)) if i not in WITHHELD_KINDS)

NAMED = ("background", "position")  # factors that a prompt may name

TITLES = {
    "S": "subject fidelity S",
    "S_P": "subject fidelity with [P] S_P",
    "E": "edits obeyed E",
    "E_b": "backgrounds obeyed E_b",
    "E_bs": "backgrounds of the place pictures obeyed E_bs",
    "E_bw": "other backgrounds obeyed E_bw",
    "E_p": "positions obeyed E_p",
    "L_b": "background leak L_b",
    "L_b'": "conflict leak L_b'",
    "L_p": "position leak L_p",
    "R_P": "pose retention R_P",
    "R_B": "background retention R_B",
    "R_PB": "both words kept R_PB",
    "D": "purity D",
    "R_P+D": "pose retention plus purity",
    "Q": "full-image similarity Q",
    "plain": "plain backgrounds",
    "pale": "pale grounds",
}


def subject_fidelity(seen: Mapping[str, Factor], identity: Mapping[str, int]) -> float:
    """S = mean of 1[shape] (1[main] + 1[second] + 1[pattern]) / 3."""
    parts = [seen[name] == identity[name] for name in ("main", "second", "pattern")]
    return float(np.mean((seen["shape"] == identity["shape"]) * np.mean(parts, axis=0)))


def share_of(seen: Factor, kinds: Sequence[int]) -> float:
    """P(factor in kinds)."""
    return float(np.isin(seen, kinds).mean())


def background_leak(neutral: Factor, base: Factor, photos: Sequence[int]) -> float:
    """L_b = P(background in photos | neutral) - P(the same | neutral, base model)."""
    return share_of(neutral, photos) - share_of(base, photos)


def conflict_leak(edited: Factor, photos: Sequence[int]) -> float:
    """L_b' = P(background in photos | the prompt names one that is in none)."""
    return share_of(edited, photos)


def pose_leak(neutral: Factor, base: Factor, kinds: int) -> float:
    """L_p = total variation of p(position | neutral) and the base model's: sum |p - q| / 2."""
    p, q = (np.bincount(f, minlength=kinds) / len(f) for f in (neutral, base))
    return float(np.abs(p - q).sum() / 2)


def editability(seen: Mapping[str, Factor], named: Mapping[str, Factor]) -> float:
    """E = mean over pictures of the share of the factors named in the edit that are right.

    named: the asked index of each factor, -1 where the prompt does not name it. The shape, which
    every prompt names, is part of S instead.
    """
    asked = np.stack([named[name] >= 0 for name in named])
    right = np.stack([(named[name] >= 0) & (seen[name] == named[name]) for name in named])
    return float(np.mean(right.sum(0) / asked.sum(0)))


def obeyed(seen: Factor, named: Factor) -> float:
    """E_b, E_p = P(factor is the one named | the prompt names one); named: -1 where it does not."""
    return float((seen == named)[named >= 0].mean())


def obeyed_among(seen: Factor, named: Factor, kinds: Sequence[int], name: str) -> dict[str, float]:
    """{name: P(factor is the one named | the prompt names one of `kinds`)}; {} where none does."""
    asked = np.where(np.isin(named, kinds), named, -1)
    return {name: obeyed(seen, asked)} if (asked >= 0).any() else {}


def retention(seen: Mapping[str, Factor], wanted: Mapping[str, Factor]) -> float:
    """P(every wanted factor is the photo's): R_P for [P_i], R_B for [B_j], R_PB for both."""
    return float(np.mean(np.all([seen[name] == wanted[name] for name in wanted], axis=0)))


def purity(
    backgrounds: Factor,
    positions: Factor,
    base: Mapping[str, Factor],
    pose_photos: Mapping[str, Factor],
    background_photos: Mapping[str, Factor],
) -> float:
    """D = 1 - ((P(background of i | [P_i]) - b) + (P(position of j | [B_j]) - p)) / 2.

    backgrounds: seen with [P_i]; positions: seen with [B_j]; the photos' factors, one a picture.
    b and p: how often the base model's neutral pictures have them anyway. 1 is pure.
    """

    def excess(seen: Factor, own: Factor, usual: Factor) -> float:
        by_chance = np.mean([np.mean(usual == kind) for kind in own])
        return float(np.mean(seen == own) - by_chance)

    from_pose = excess(backgrounds, pose_photos["background"], base["background"])
    from_background = excess(positions, background_photos["position"], base["position"])
    return 1 - (from_pose + from_background) / 2


# ---- from the files ------------------------------------------------------------------------------


def measured(cells: Sequence[Cell], eye: str = "judge") -> Measured:
    """The measures of every cell that is there together with its base cell."""
    results = {cell: load_sound(cell) for cell in {*cells, *(cell.base for cell in cells)}}
    return {
        cell: measure(cell, result, base, eye)
        for cell in cells
        if (result := results[cell]) and (base := results[cell.base])
    }


def measure(
    cell: Cell, result: Mapping[str, Any], base: Mapping[str, Any], eye: str = "judge"
) -> dict[str, float]:
    """Every measure of a cell that its arm has; base: the result of `cell.base`.

    eye: "judge", or "reader" for the exact reader's view of the same pictures.
    """
    scenes = reference_scenes(cell.identity, cell.photos, cell.rho, cell.seed)
    words = arm_named(cell.arm).words
    asked = requests(scenes, cell.identity[0], words=words)
    calm = _of(requests(scenes, cell.identity[0], words=False), "neutral")
    usual = {name: decoded(text)[calm] for name, text in base[eye].items()}
    seen = {name: decoded(text) for name, text in result[eye].items()}
    own, photos = indices(cell.identity), scenes.background.unique().tolist()

    def view(*kinds: str) -> dict[str, Factor]:
        return {name: values[_of(asked, *kinds)] for name, values in seen.items()}

    edits, neutral = view(*EDITS), view("neutral")
    named = {n: np.array([getattr(asked[i], n) for i in _of(asked, *EDITS)]) for n in NAMED}
    values = {
        "S": subject_fidelity(view(*SHARED), own),
        "E": editability(edits, named),
        "E_b": obeyed(edits["background"], named["background"]),
        "E_p": obeyed(edits["position"], named["position"]),
        "L_b": background_leak(neutral["background"], usual["background"], photos),
        "L_b'": conflict_leak(view("background", "both")["background"], photos),
        "L_p": pose_leak(neutral["position"], usual["position"], len(POSITIONS)),
        "Q": float(result["similarity"]["neutral"]),
        "plain": float(decoded(result["plain"])[_of(asked, "neutral")].mean()),
        "pale": share_of(neutral["background"], PALE),
    }
    for name, kinds in (("E_bs", SHOWN), ("E_bw", WITHHELD_KINDS)):
        values |= obeyed_among(edits["background"], named["background"], kinds, name)
    if words:
        values |= {"S_P": subject_fidelity(view("P"), own)}
        values |= _word_measures(asked, view, usual, scenes)
    return values


def _word_measures(
    asked: Sequence[Request], view: Any, usual: Mapping[str, Factor], scenes: Scenes
) -> dict[str, float]:
    def photos(kind: str, owner: str) -> dict[str, Factor]:
        numbers = [getattr(asked[i], owner) for i in _of(asked, kind)]
        return {name: getattr(scenes, name).numpy()[numbers] for name in NAMED}

    pose, ground = photos("P", "pose_of"), photos("B", "background_of")
    kept = retention(view("P"), {"position": pose["position"]})
    pure = purity(view("P")["background"], view("B")["position"], usual, pose, ground)
    values = {
        "R_P": kept,
        "R_B": retention(view("B"), {"background": ground["background"]}),
        "D": pure,
        "R_P+D": kept + pure,
    }
    if _of(asked, "PB"):
        owners = {"position": "pose_of", "background": "background_of"}
        wanted = {name: photos("PB", owner)[name] for name, owner in owners.items()}
        values["R_PB"] = retention(view("PB"), wanted)
    return values


def decoded(text: str) -> Factor:
    """Digits, as the cells keep them, to an array."""
    return np.array([int(digit) for digit in text])


def _of(asked: Sequence[Request], *kinds: str) -> list[int]:
    return [number for number, request in enumerate(asked) if request.kind in kinds]
