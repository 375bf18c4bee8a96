"""From pictures, their prompts and a subject's photos to an `Evaluation`, by any encoders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..prompt.grammar import plain_caption, split_placeholders
from .encoder import Encoder
from .evaluation import Evaluation, Score
from .masked import check_mask_count, ground_alone, subject_alone
from .scores import caption_similarity, diversity, drift, leak, photo_similarity


@dataclass(frozen=True)
class Masked:
    """Pictures, [H, W, 3] of any sizes in [0, 1], and masks [H, W], 1 = subject, where there are.

    Raises ValueError for no pictures, and for another number of masks.
    """

    pictures: Sequence[Tensor]
    masks: Sequence[Tensor] | None = None
    whose: str = "photo"  # what one is called in a message

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError(f"There are no {self.whose}s. Wire images that are not empty.")
        if self.masks is not None:
            check_mask_count(self.pictures, self.masks, f"{self.whose}s")

    def subjects(self, which: Sequence[int] | None = None) -> list[Tensor]:
        """The subjects of these pictures, or of all, on white."""
        return subject_alone(*self._of(which))

    def grounds(self, which: Sequence[int] | None = None) -> list[Tensor]:
        """The backgrounds of these pictures, or of all, their subjects white."""
        return ground_alone(*self._of(which))

    def _of(self, which: Sequence[int] | None) -> tuple[list[Tensor], list[Tensor], list[str]]:
        chosen = range(len(self.pictures)) if which is None else which
        masks = self.masks or ()
        names = [f"{self.whose} {i + 1}" for i in chosen]
        return [self.pictures[i] for i in chosen], [masks[i] for i in chosen], names


@dataclass(frozen=True)
class Sampled:
    """What is to be scored: G pictures with their prompts, as they were sampled. Those whose prompt
    has no [V], where others have, show the class: they count in `drift` and in the captions' score
    alone. Raises ValueError for another number of prompts.
    """

    shown: Masked
    prompts: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.shown.pictures) != len(self.prompts):
            raise ValueError(
                f"There are {len(self.shown.pictures)} pictures but {len(self.prompts)} prompts. "
                "Wire the text of the very Prompt Grid whose conditioning made these pictures: "
                "one prompt a picture."
            )

    def having(self, role: str) -> list[int]:
        """Which prompts have a word of this role: "V", "P" or "B"."""
        words = (split_placeholders(prompt)[1] for prompt in self.prompts)
        return [i for i, own in enumerate(words) if any(word[0] == role for word in own)]

    @property
    def of_subject(self) -> list[int]:
        """Which should show the subject: all, where no prompt says so."""
        return self.having("V") or list(range(len(self.prompts)))

    @property
    def of_class(self) -> list[int]:
        shown = self.of_subject
        return [i for i in range(len(self.prompts)) if i not in shown]


def evaluate(
    name: str,
    subject: str,
    sampled: Sampled,
    photos: Masked,
    encoders: Sequence[Encoder],
    base: Masked | None = None,
) -> Evaluation:
    """Every score that these inputs allow, of the pictures of one subject.

    Masks of the photos add `fg_ref`, those of the pictures `fg_both`. base: the base model's
    pictures, of the prompts without [V] in the same order and of the same seeds, for `drift`; any
    with masks for `leak`. Raises ValueError where there is no encoder, and as the scores do.
    """
    if not encoders:
        raise ValueError("There is no encoder. Wire a CLIP_VISION, or name a folder of weights.")
    scores = {
        score: tuple(values)
        for encoder in encoders
        for score, values in scores_by(encoder, sampled, photos, base).items()
    }
    count = len(sampled.prompts)
    return Evaluation(name, (subject,) * count, tuple(sampled.prompts), scores)


def scores_by(
    encoder: Encoder, sampled: Sampled, photos: Masked, base: Masked | None
) -> dict[Score, list[float]]:
    """Each score, one number a picture, NaN where it does not apply."""
    pictures, shown = sampled.shown, sampled.of_subject
    seen, real = encoder.see(pictures.pictures), encoder.see(photos.pictures)
    found: dict[Score, list[float]] = {}

    def add(title: str, which: Sequence[int], values: Tensor, label: str = encoder.label) -> None:
        score = Score(f"{encoder.kind}{title}", label)
        row = found.setdefault(score, [math.nan] * len(seen))
        for place, value in zip(which, values.tolist(), strict=True):
            row[place] = value

    if encoder.reader is not None:
        captions = encoder.reader.read([plain_caption(prompt) for prompt in sampled.prompts])
        label = f"{encoder.label}, {encoder.reader.label}"
        add("-T", range(len(seen)), caption_similarity(seen, captions), label)
    add("-I", shown, photo_similarity(seen[shown], real))
    if photos.masks is not None:
        alone = encoder.see(photos.subjects())
        add("-I fg_ref", shown, photo_similarity(seen[shown], alone))
        if pictures.masks is not None:
            add("-I fg_both", shown, photo_similarity(encoder.see(pictures.subjects(shown)), alone))
    for which in _alike(sampled.prompts, shown):
        add(" diversity", which, diversity(seen[which]))
    if base is not None and sampled.of_class:
        add(" drift", sampled.of_class, drift(seen[sampled.of_class], encoder.see(base.pictures)))
    if base is not None and None not in (base.masks, pictures.masks, photos.masks):
        neutral = [i for i in shown if i not in sampled.having("B")]  # asked for no photo's own
        grounds = (encoder.see(pictures.grounds(neutral)), encoder.see(photos.grounds()))
        add(" leak", neutral, leak(*grounds, encoder.see(base.grounds())))
    return found


def _alike(prompts: Sequence[str], which: Sequence[int]) -> list[list[int]]:
    """The pictures of each prompt that has two or more."""
    groups: dict[str, list[int]] = {}
    for i in which:
        groups.setdefault(prompts[i], []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def prompt_of_each(batches: Sequence[int], prompts: Sequence[str]) -> list[str]:
    """One prompt a picture. batches: how many pictures came in each batch of a list.

    A list of as many batches as prompts has one prompt a batch; a single prompt is that of all.
    Other numbers go on as they are: `Sampled` refuses what does not fit.
    """
    if len(prompts) == len(batches):
        pairs = zip(prompts, batches, strict=True)
        return [prompt for prompt, count in pairs for _ in range(count)]
    return list(prompts) * sum(batches) if len(prompts) == 1 else list(prompts)
