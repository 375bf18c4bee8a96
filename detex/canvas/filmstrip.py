"""The samples of a training, step by step, on one sheet."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..prompt.prompt_table import SPLIT
from .labelled_grid import labelled_grid, under_title
from .pictures import as_image, as_picture

CELL, COLUMNS = 160, 10  # pixels; steps at most
STORED = 256  # pixels, the longer side of a picture that is kept
NONE = "No samples yet: set preview_every above 0, or train for longer."

Samples = Mapping[str, Tensor]  # caption -> [H, W, 3] of 8 bits


def small(pictures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pictures [H, W, 3] in [0, 1] as they are kept."""
    kept = {}
    for caption, image in pictures.items():
        picture = as_picture(image)
        picture.thumbnail((STORED, STORED))
        kept[caption] = (as_image(picture) * 255).round().to(torch.uint8)
    return kept


def filmstrip(samples: Mapping[int, Samples]) -> Tensor:
    """Samples by their steps -> one sheet [1, H, W, 3]: a row for each caption, a column for each
    step; of more than ten the first, the last and some between. Without samples, a line says so.
    """
    if not samples:
        return under_title(torch.zeros(1, 1, 4 * CELL, 3), NONE, CELL // 2)
    steps = spread(sorted(samples))
    shown = [(caption, step, image) for step in steps for caption, image in samples[step].items()]
    images = [image[None].float() / 255 for _, _, image in shown]
    return labelled_grid(images, [f"{words}{SPLIT}step {step}" for words, step, _ in shown], CELL)


def spread(steps: Sequence[int]) -> list[int]:
    """At most ten of them, evenly, with both ends."""
    if len(steps) <= COLUMNS:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]
