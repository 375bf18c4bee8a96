"""Pictures of different individuals of one kind: what Dis²Booth learns from.

The code of a picture must not say what stands around the individual. So an image encoder sees the
individual alone where there is a mask, and training also shows it on other grounds: places, or the
backgrounds of the other pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .checks import check_distinct
from .composites import Composite
from .crop import BORDER, Crop
from .photos import Composites, Encode, Photos, Said, checked_crops, make_photos, photo_hash
from .places import Places, check_place_name
from .recipe import Composer, encode_composites

LEAST = 4  # pictures
COPIES = 4  # composites of each
SAME_SIZE = (1.0, 1.0)  # of a moved individual: its size is its own


def make_varied(
    photos: Sequence[Tensor],
    masks: Sequence[Tensor] | None,
    encode_image: Callable[[Tensor], Tensor] | None,
    encode: Encode,
    class_word: str,
    *,
    backgrounds: str = "",
    places: Places | None = None,
    resolution: int = 512,
    seed: int = 0,
    report: Callable[[int], object] = lambda done: None,
) -> Photos:
    """Crop and encode N pictures [H, W, 3] with masks [H, W], or None, and compose them anew.

    backgrounds: what is behind each individual, a line a picture, empty where it has no name.
    report: hears after each picture how many are done, 2 N at the end where there are composites.
    Raises ValueError for too few pictures, for the same ones, and as `make_photos` does.
    """
    check_varied(photos)
    names = background_names(backgrounds, len(photos))
    encoded = make_photos(
        list(photos),
        None if masks is None else list(masks),
        None,
        encode,
        class_word,
        resolution=resolution,
        blank=None,
        report=report,
    )
    crops = checked_crops(photos, masks, resolution)
    features = None if encode_image is None else encode_image(seen_alone(crops)).float()
    encoded = replace(encoded, features=features, places=names if any(names) else ())
    if masks is None:
        return encoded
    done = len(photos)
    made = compose_varied(crops, names, places, encode, encoded, seed, lambda n: report(done + n))
    return replace(encoded, composites=made)


def check_varied(photos: Sequence[Tensor]) -> None:
    """Raise ValueError for pictures [H, W, 3] that no distribution can be learned from."""
    if len(photos) < LEAST:
        raise ValueError(
            f"There are {len(photos)} pictures, and {LEAST} are the least that show how "
            "individuals vary; 8 to 200 are well. Wire pictures of different individuals; several "
            "photos of one go into Subject Images."
        )
    hashes = [photo_hash(photo) for photo in photos]
    if len(set(hashes)) == 1:
        raise ValueError(
            f"All {len(photos)} pictures are the same, so there is nothing to vary. Wire a picture "
            "of each individual: a batch, a list, or the images of Load Subject Folder."
        )
    check_distinct(hashes, [f"Picture {number}" for number in range(1, len(photos) + 1)])


def background_names(text: str, count: int) -> tuple[str, ...]:
    """One name for each of `count` pictures, "" for an empty line; none at all for an empty text.

    Raises ValueError for another number of lines, and for names that are no plain words.
    """
    if not text.strip():
        return ("",) * count
    lines = text.rstrip("\n").split("\n")
    if len(lines) != count:
        raise ValueError(
            f"There are {count} pictures but {len(lines)} lines of backgrounds. Write one line for "
            "each picture, in the same order; leave a line empty where no words fit."
        )
    names = tuple(" ".join(line.split()) for line in lines)
    for name in names:
        check_place_name(name)
    return names


def seen_alone(crops: Sequence[Crop]) -> Tensor:
    """The squares [N, S, S, 3] with grey in place of what the masks leave out."""
    shown = [c.mask[..., None] * c.picture + (1 - c.mask[..., None]) * BORDER for c in crops]
    return torch.stack(shown)


def compose_varied(
    crops: Sequence[Crop],
    names: Sequence[str],
    places: Places | None,
    encode: Encode,
    encoded: Photos,
    seed: int,
    report: Callable[[int], object],
) -> Composites:
    """`COPIES` composites of each individual, encoded."""
    grid = (encoded.latents.shape[-2], encoded.latents.shape[-1])
    grounds = places or Places(torch.zeros(0, 1, 1, 3), ())
    composer = Composer(crops, grounds, encoded.resolution // grid[0], SAME_SIZE, seed)
    rows = []
    for number in range(len(crops)):
        drawn = [elsewhere(composer, crops, names, number) for _ in range(COPIES)]
        rows.append(encode_composites(drawn, encode, grid))
        report(len(rows))
    latents, planes, valid, said = zip(*rows, strict=True)
    return Composites(torch.stack(latents), torch.stack(planes), torch.stack(valid), said)


def elsewhere(
    composer: Composer, crops: Sequence[Crop], names: Sequence[str], number: int
) -> tuple[Composite, Said]:
    """Individual `number` on a place, or on the ground of another picture; where it is cut off or
    no other picture has a ground, the picture as it is.
    """
    movable = number in composer.movable
    if composer.places.names and not composer.broken[number]:
        return composer.moved(number) if movable else composer.in_place(number)
    others = [other for other in composer.grounds() if other != number]
    if not others or not movable:
        whole = crops[number]
        plain = Composite(whole.picture.movedim(-1, 0), whole.mask[None], whole.valid[None])
        return plain, Said("V", names[number])
    other = others[int(torch.randint(len(others), (1,), generator=composer.rng))]
    return composer.crossed_onto(number, other), Said("V", names[other])
