"""Which composites a subject trains on, and what their prompts say.

Of each photo's words a third of its composites has [P] (its subject where it stood, on a place), a
third neither (its subject anywhere, on a place), a third [B] (another photo's subject anywhere on
its background). Not in the paper.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor

from .composites import (
    SIZES,
    Composite,
    CutOut,
    can_move,
    crossed,
    cut_out,
    moved,
    on_place,
    sample_move,
)
from .crop import Crop, crop
from .photos import Composites, Encode, Photos, Said, erode, latent_grid
from .places import Places

COMPOSITES = 12  # of each photo
LEAST_GROUND = 0.1  # of the picture: less of a background teaches nothing of [B]

log = logging.getLogger("detex")


def with_composites(
    encoded: Photos,
    photos: Sequence[Tensor],
    masks: Sequence[Tensor] | None,
    places: Places,
    encode: Encode,
    *,
    seed: int = 0,
    copies: int = COMPOSITES,
    sizes: tuple[float, float] = SIZES,
    report: Callable[[int], object] = lambda done: None,
) -> Photos:
    """The encoded photos [H, W, 3] with `copies` composites of each, encoded too.

    masks: N of [H, W]; sizes: least and largest of a moved subject; report: hears after each photo
    how many are done. Raises ValueError without masks, and for places of another resolution.
    """
    if masks is None:
        raise ValueError(
            "The places are of no use without masks: the subject cannot be cut out. Wire masks "
            "into Subject Images, one a photo, or unwire the places."
        )
    side, grid = encoded.resolution, (encoded.latents.shape[-2], encoded.latents.shape[-1])
    if places.pictures.shape[1] != side:
        raise ValueError(
            f"The places are pictures of {places.pictures.shape[1]} pixels, the training pictures "
            f"of {side}. Give Place Pictures and Subject Images one resolution."
        )
    crops = [crop(p.float(), m.float(), side) for p, m in zip(photos, masks, strict=True)]
    composer = Composer(crops, places, side // grid[0], sizes, seed)
    rows = []
    for number in range(len(crops)):
        rows.append(encode_composites(composer.draw(number, copies), encode, grid))
        report(len(rows))
    latents, planes, valid, said = zip(*rows, strict=True)
    made = Composites(torch.stack(latents), torch.stack(planes), torch.stack(valid), said)
    return replace(encoded, composites=made)


def encode_composites(
    drawn: Sequence[tuple[Composite, Said]], encode: Encode, grid: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, tuple[Said, ...]]:
    """Latents [K, 4, h, w], masks and valid cells [K, h, w] of composites, and their words."""
    pictures, masks, valid = map(torch.stack, zip(*(made for made, _ in drawn), strict=True))
    return (
        encode(pictures.movedim(1, -1)).float(),
        latent_grid(masks[:, 0], grid),
        erode(latent_grid(valid[:, 0], grid)),
        tuple(said for _, said in drawn),
    )


def cut_off_inside(cropped: Crop) -> bool:
    """Whether the photo's own edge cuts the subject off where a border follows."""
    border = 1 - cropped.valid[None, None]
    beside = F.max_pool2d(border, 3, stride=1, padding=1)[0, 0] * cropped.valid
    return bool(((cropped.mask > 0.5) & (beside > 0)).sum() > 1)


class Composer:
    """Draws the composites of N square photos."""

    def __init__(
        self,
        crops: Sequence[Crop],
        places: Places,
        feather: int,  # pixels of a latent cell
        sizes: tuple[float, float],
        seed: int,
    ):
        self.photos = [cropped.picture for cropped in crops]
        self.cuts = [cut_out(cropped.picture, cropped.mask, feather) for cropped in crops]
        # what is not a photo's background: its subject and its border
        self.taken = [
            torch.maximum(cut.cover, 1 - cropped.valid)
            for cut, cropped in zip(self.cuts, crops, strict=True)
        ]
        self.broken = [cut_off_inside(cropped) for cropped in crops]
        self.movable = [
            number
            for number, cut in enumerate(self.cuts)
            if can_move(cut) and not self.broken[number]
        ]
        self.places, self.sizes = places, sizes
        self.rng = torch.Generator().manual_seed(seed)
        self.order: list[int] = []  # places still to be used before one is used again

    def draw(self, number: int, copies: int) -> list[tuple[Composite, Said]]:
        """Composites whose prompts have photo `number`'s words, of its kinds in turn."""
        return [kind(number) for kind in islice(cycle(self.kinds(number)), copies)]

    def kinds(self, number: int) -> list[Callable[[int], tuple[Composite, Said]]]:
        """What can be made of a photo; what cannot is told."""
        kinds: list[Callable[[int], tuple[Composite, Said]]] = [self.in_place]
        if self.broken[number]:
            log.warning(
                "The subject of photo %d is cut off by an edge of the photo that lies inside of "
                "its square, and the cut would show on the places: only its background is used.",
                number + 1,
            )
            return [self.crossed] if self.others(number) else kinds
        if number in self.movable:
            kinds.append(self.moved)
        else:
            log.warning(
                "The subject of photo %d touches all four sides of its square, so it cannot be "
                "moved: it stays where it is on the places.",
                number + 1,
            )
        if not self.others(number):
            return kinds
        if number not in self.grounds():
            log.warning(
                "Photo %d shows hardly any background: no other subject is put on it.", number + 1
            )
            return kinds
        return [*kinds, self.crossed]

    def others(self, number: int) -> list[int]:
        """The photos whose subject can be moved onto photo `number`."""
        return [other for other in self.movable if other != number]

    def grounds(self) -> list[int]:
        """The photos that show enough of a background to put a subject on."""
        shares = [float((taken == 0).float().mean()) for taken in self.taken]
        return [number for number, share in enumerate(shares) if share >= LEAST_GROUND]

    def in_place(self, number: int) -> tuple[Composite, Said]:
        ground, name = self.next_place()
        return on_place(self.cuts[number], ground), Said("VP", name)

    def moved(self, number: int) -> tuple[Composite, Said]:
        ground, name = self.next_place()
        return on_place(self.moved_cut(number), ground), Said("V", name)

    def crossed(self, number: int) -> tuple[Composite, Said]:
        others = self.others(number)
        other = others[int(torch.randint(len(others), (1,), generator=self.rng))]
        return self.crossed_onto(other, number), Said("VB", "")

    def crossed_onto(self, subject: int, ground: int) -> Composite:
        """A photo's subject on the background of another."""
        return crossed(self.moved_cut(subject), self.photos[ground], self.taken[ground])

    def moved_cut(self, number: int) -> CutOut:
        cut = self.cuts[number]
        return moved(cut, sample_move(cut, self.rng, self.sizes))

    def next_place(self) -> tuple[Tensor, str]:
        """A place at random; all others come before it comes again."""
        if not self.order:
            self.order = torch.randperm(len(self.places.names), generator=self.rng).tolist()
        index = self.order.pop()
        return self.places.pictures[index], self.places.names[index]
