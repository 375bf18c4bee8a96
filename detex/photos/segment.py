"""Which of a segmenter's masks is the subject: automatic choice, and what a user types."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..canvas.masks import ORANGE, fit, shade
from ..canvas.sheets import sheet

KEPT = 4  # candidates of a photo that are shown
SAME = 0.85  # masks that overlap more than this are one candidate
BLUE = torch.tensor([0.45, 0.65, 0.85])  # outline of what is not chosen


@dataclass(frozen=True)
class Candidate:
    mask: Tensor  # [H, W] bool
    predicted_iou: float  # the segmenter's own confidence, about 0 to 1


class Point(NamedTuple):
    x: float  # pixels of the photo
    y: float
    subject: bool  # or something that is not the subject


def subject_score(candidate: Candidate) -> float:
    """How much a mask looks like what somebody took a photo of: confident, central, neither a speck
    nor everything, and seldom cut by the photo's edge.
    """
    mask = candidate.mask
    height, width = mask.shape
    area = mask.float().mean().item()
    if not 0.01 < area < 0.95:
        return 0.0
    y, x = mask.nonzero().float().mean(dim=0).tolist()
    distance = math.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5)
    central = math.exp(-((distance / 0.25) ** 2) / 2)
    sized = min(1.0, area / 0.1) * min(1.0, (0.95 - area) / 0.35)
    edge = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).float().mean().item()
    return max(candidate.predicted_iou, 0.0) * central * sized * (1 - edge)


def ranked(candidates: Sequence[Candidate], *, prompted: bool) -> list[Candidate]:
    """The best `KEPT` different masks, best first.

    Where the user has pointed at the subject (`prompted`), the segmenter's confidence decides.
    """
    order = sorted(
        (c for c in candidates if c.mask.any()),
        key=lambda c: c.predicted_iou if prompted else subject_score(c),
        reverse=True,
    )
    kept: list[Candidate] = []
    for candidate in order:
        if len(kept) < KEPT and all(iou(candidate.mask, k.mask) < SAME for k in kept):
            kept.append(candidate)
    return kept


def iou(a: Tensor, b: Tensor) -> float:
    return ((a & b).sum() / (a | b).sum().clamp(min=1)).item()


def candidate_sheet(
    photos: Sequence[Tensor], candidates: Sequence[Sequence[Candidate]], chosen: Sequence[int]
) -> Tensor:
    """A row of numbered candidates for each photo -> [1, H, W, 3].

    photos: N of [H, W, 3]; candidates: of each photo; chosen: the number taken, from 1.
    """
    rows = []
    for number, (photo, masks, taken) in enumerate(
        zip(photos, candidates, chosen, strict=True), start=1
    ):
        row = []
        for i, candidate in enumerate(masks, start=1):
            name = f"{number}:{i}" + ("   chosen" if i == taken else "")
            small, plane = fit(photo, candidate.mask.float())
            row.append((name, shade(small, plane, ORANGE if i == taken else BLUE)))
        rows.append(row)
    return sheet(rows, 256)


def parse_choice(text: str, counts: Sequence[int]) -> list[int]:
    """ "1:2, 3:1" -> the number of the mask of each photo; 1, the automatic choice, elsewhere.

    counts: how many candidates each photo has. Raises ValueError for numbers that do not exist.
    """
    chosen = [1] * len(counts)
    for entry in filter(None, re.split(r"[,;\s]+", text.strip())):
        match = re.fullmatch(r"(\d+):(\d+)", entry)
        if not match:
            raise ValueError(
                f'choice has "{entry}". Write photo:candidate, such as "1:2, 3:1" to take '
                "candidate 2 of photo 1 and candidate 1 of photo 3."
            )
        photo, candidate = int(match[1]), int(match[2])
        check_photo_number(photo, len(counts), "choice")
        if not 1 <= candidate <= counts[photo - 1]:
            raise ValueError(
                f"choice asks for candidate {candidate} of photo {photo}, which has "
                f"{counts[photo - 1]}. The candidates picture shows their numbers."
            )
        chosen[photo - 1] = candidate
    return chosen


def parse_points(text: str, count: int) -> list[list[Point]]:
    """The points on each of `count` photos.

    "2: 340,210 !20,30; 3: 50,60": pixels from the upper left, a ! before what is not the subject;
    without a number they hold for every photo. Also JSON, as from other nodes: [{"x": 1, "y": 2}].
    Raises ValueError for anything else.
    """
    if text.strip().startswith("["):
        return [_json_points(text) for _ in range(count)]
    points: list[list[Point]] = [[] for _ in range(count)]
    for photos, entry in _entries(text, count, "points"):
        for word in entry.split():
            match = re.fullmatch(r"(!?)(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)", word)
            if not match:
                raise ValueError(
                    f'points has "{word}". Write x,y in pixels, such as "2: 340,210" for a point '
                    'on the subject of photo 2, or "!20,30" for one off it.'
                )
            for photo in photos:
                points[photo].append(Point(float(match[2]), float(match[3]), not match[1]))
    return points


def _json_points(text: str) -> list[Point]:
    try:
        return [Point(float(p["x"]), float(p["y"]), subject=True) for p in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'points starts with "[" but is not a list such as [{{"x": 340, "y": 210}}] ({error}).'
        ) from error


def parse_boxes(text: str, count: int) -> list[tuple[float, ...] | None]:
    """The box around the subject of each of `count` photos: "2: 10,20,300,400" in pixels, left,
    top, right, bottom; without a number for every photo. Raises ValueError for anything else.
    """
    boxes: list[tuple[float, ...] | None] = [None] * count
    for photos, entry in _entries(text, count, "box"):
        numbers = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", entry)
        box = tuple(float(n) for n in numbers.groups()) if numbers else ()
        if not box or box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError(
                f'box has "{entry.strip()}". Write left,top,right,bottom in pixels, such as '
                '"2: 10,20,300,400" for photo 2.'
            )
        for photo in photos:
            boxes[photo] = box
    return boxes


def _entries(text: str, count: int, widget: str) -> list[tuple[range, str]]:
    """ "2: a; b" -> [(range(1, 2), "a"), (range(count), "b")]: which photos, and what of them."""
    entries = []
    for entry in filter(str.strip, re.split(r"[;\n]", text)):
        number, colon, rest = entry.partition(":")
        if not colon:
            entries.append((range(count), entry))
            continue
        if not number.strip().isdecimal():
            raise ValueError(f'{widget} has "{entry.strip()}". Before the colon stands a number.')
        check_photo_number(int(number), count, widget)
        entries.append((range(int(number) - 1, int(number)), rest))
    return entries


def check_photo_number(photo: int, count: int, widget: str) -> None:
    if not 1 <= photo <= count:
        raise ValueError(f"{widget} names photo {photo}, but the photos are 1 to {count}.")


def check_inside(
    number: int, points: Sequence[Point], box: tuple[float, ...] | None, height: int, width: int
) -> None:
    """Raise ValueError where a point or box of photo `number` lies off it."""
    places = [(p.x, p.y) for p in points] + ([box[:2], box[2:]] if box else [])
    for x, y in places:
        if x > width or y > height:
            raise ValueError(
                f"{x:g},{y:g} lies outside photo {number}, which has {width}x{height} pixels. "
                "Count pixels from the upper left corner."
            )
