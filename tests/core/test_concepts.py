"""One photo of several concepts: its words, its masks, its copies."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detex_pack.detex.canvas.masks import concept_sheet
from detex_pack.detex.photos.concepts import (
    MOST,
    concept_masks,
    make_concepts,
    make_scene,
    named_concepts,
    only_photo,
    sample_copy,
)
from detex_pack.detex.photos.crop import Square
from detex_pack.detex.photos.framing import Framing
from detex_pack.detex.photos.photos import Photos, copy_sizes
from detex_pack.detex.prompt.grammar import joint_class, joint_prompt, listed

SIDE = 64


def photo(height: int = SIDE, width: int = 96) -> Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))


def box(left: int, right: int, height: int = SIDE, width: int = 96) -> Tensor:
    mask = torch.zeros(height, width)
    mask[16:48, left:right] = 1
    return mask


CAT, DOG = box(20, 40), box(56, 76)


def encode(pixels: Tensor) -> Tensor:
    small = F.avg_pool2d(pixels.movedim(-1, 1), 4)
    return torch.cat([small, small[:, :1]], dim=1)


def made(masks=(CAT, DOG), words: str = "cat, dog", **settings) -> Photos:
    named, given = named_concepts(words), photo()
    planes = None if masks is None else concept_masks(given, masks, named)
    scene = make_scene(given, planes, named, SIDE)
    return make_concepts(given, scene, named, encode, **settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat, dog", [("V", "cat"), ("V2", "dog")]),
        ("cat", [("V", "cat")]),
        (" teddy  bear ,polar bear,", [("V", "teddy bear"), ("V2", "polar bear")]),
        ("cat, cat", [("V", "cat"), ("V2", "cat")]),
        ("猫，狗、鸟", [("V", "猫"), ("V2", "狗"), ("V3", "鸟")]),
        ("a1, b1, c1, d1, e1, f1", [(f"V{i}" if i else "V", f"{c}1") for i, c in
                                    zip(("", 2, 3, 4, 5, 6), "abcdef", strict=True)]),
    ],
)  # fmt: skip
def test_class_words_become_numbered_concepts(text: str, expected: list):
    assert [(one.word, one.class_word) for one in named_concepts(text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The class word is empty. Name what the photos show"),
        (" , ", "The class word is empty"),
        ("cat, , dog", "The class word is empty"),
        ("cat, a dog", 'The class word "a dog".* is more than a name: write "dog"'),
        ("[V] cat, dog", "must be plain words"),
        (", ".join("bcdefghi"), r"8 class words, and 6 concepts are the most .*Keep those"),
    ],
)
def test_class_words_that_are_none_or_too_many_are_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        named_concepts(text)


def test_most_is_fewer_than_eight():
    assert 3 < MOST < 8


@pytest.mark.parametrize("count", [0, 2, 3])
def test_anything_but_one_photo_is_refused(count: int):
    with pytest.raises(ValueError, match=f"There are {count} photos, .*Wire the photo that shows"):
        only_photo([photo()] * count)


def test_photo_that_is_too_small_or_none_is_refused():
    with pytest.raises(ValueError, match="Photo 1 has 96 x 32 pixels"):
        only_photo([photo(32)])
    with pytest.raises(ValueError, match="Photo 1 holds NaN"):
        only_photo([photo() * torch.nan])


@pytest.mark.parametrize("masks", [(CAT,), (CAT, DOG, CAT), ()])
def test_a_mask_too_many_or_too_few_is_refused_with_both_numbers(masks: tuple):
    saw = rf"There are {len(masks)} masks for 2 class words \(cat, dog\). Wire one mask a class"
    with pytest.raises(ValueError, match=saw):
        concept_masks(photo(), masks, named_concepts("cat, dog"))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(SIDE, 96), r"The mask of \[V2\] dog is empty"),
        (1 - DOG, r"The mask of \[V2\] dog looks inverted"),
        (box(10, 30, 64, 40), r"The mask of \[V2\] dog has 40 x 64 pixels, .*another shape"),
        (torch.ones(SIDE, 96), r"The mask of \[V2\] dog covers 100% of the photo"),
    ],
)
def test_unusable_mask_is_named_by_its_concept(mask: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        made((CAT, mask))


def test_concept_that_is_a_speck_of_the_square_is_named():
    long, speck = photo(64, 640), torch.zeros(64, 640)
    speck[30:40, 0:45] = 1  # 1.1 % of the photo, 450 of 630 x 630 pixels
    named = named_concepts("cat, dog")
    masks = concept_masks(long, [speck, box(600, 630, 64, 640)], named)
    with pytest.raises(ValueError, match=r"\[V\] cat covers 0.12% of the square"):
        make_scene(long, masks, named, SIDE)


def test_the_square_holds_all_concepts_and_each_keeps_its_place():
    made_of = made(scaled_copies=0)
    assert made_of.masks is not None
    assert made_of.masks.shape == (1, 1, 2, 16, 16)
    # the square is columns 16 to 80 of the photo: cat 4 to 24, dog 40 to 60 of 64, in cells of 4
    cat, dog = (made_of.masks[0, 0] > 0.5).float()
    assert cat[4:12, 1:6].eq(1).all() and cat.sum() == 8 * 5
    assert dog[4:12, 10:15].eq(1).all() and dog.sum() == 8 * 5


def test_photo_without_masks_is_its_middle_square():
    plain = made(None, scaled_copies=0)
    assert plain.masks is None and plain.latents.shape == (1, 1, 4, 16, 16)
    torch.testing.assert_close(plain.latents[0, 0], encode(photo()[None, :, 16:80])[0])
    assert plain.named == named_concepts("cat, dog") and plain.count == 1


def test_copies_are_scaled_captioned_and_mirrored_with_their_masks():
    augmented = made(scaled_copies=64)
    assert augmented.masks is not None
    assert augmented.latents.shape == (1, 64, 4, 16, 16)
    prefixes = set(augmented.prefixes[0])
    plain = made(scaled_copies=0)
    assert torch.equal(augmented.latents[0, 0], plain.latents[0, 0])  # the first, as it is
    assert prefixes == {"", "a far away ", "very small ", "zoomed in ", "close up "}
    columns = torch.arange(16.0)
    centres = (augmented.masks[0] * columns).sum((-2, -1)) / augmented.masks[0].sum((-2, -1))
    mirrored = (centres[:, 0] > centres[:, 1]).sum().item()  # the cat to the right of the dog
    assert 16 <= mirrored <= 48  # 32 expected, standard deviation 4
    assert (augmented.valid[0].flatten(1).amin(1) == 0).any()  # a shrunken copy's empty frame


def test_mirrored_copy_tells_xl_what_is_cut_off_on_its_own_left():
    plain, mirrored = (Framing(64, 0, 0, "", mirrored=m) for m in (False, True))
    sizes = copy_sizes(64, 96, Square(0, 8, 64), [plain, mirrored], 64)  # 8 left of it, 24 right
    assert sizes.tolist() == [[64, 96, 0, 8, 64, 64], [64, 96, 0, 24, 64, 64]]


def test_every_copy_keeps_at_least_half_of_each_concept():
    scene = make_scene(photo(), [CAT, DOG], named_concepts("cat, dog"), SIDE)
    assert scene.masks is not None
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        framing = sample_copy(scene.masks, generator)
        shown = made_masks = scene.masks.flip(-1) if framing.mirrored else scene.masks
        left, size = framing.left, framing.size
        if size > SIDE:  # what of the enlarged photo lies in the frame, in its own pixels
            low, high = -left * SIDE // size, (SIDE - left) * SIDE // size
            top, bottom = -framing.top * SIDE // size, (SIDE - framing.top) * SIDE // size
            shown = made_masks[:, top : bottom + 1, low : high + 1]
        assert (shown.sum((1, 2)) >= 0.45 * scene.masks.sum((1, 2))).all()


def test_same_seed_gives_the_same_copies_and_another_others():
    first, second, other = (made(seed=seed).latents for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_sheet_shows_each_mask_or_the_photo_alone():
    named = named_concepts("cat, dog")
    with_masks = concept_sheet(make_scene(photo(), [CAT, DOG], named, SIDE), named)
    alone = concept_sheet(make_scene(photo(), None, named, SIDE), named)
    assert with_masks.shape[2] > 1.8 * alone.shape[2] and with_masks.shape[1] == alone.shape[1]


def test_captions_name_the_concepts_in_their_order():
    cat, dog, hat = named_concepts("cat, old dog, hat")
    assert joint_prompt([cat]) == "photo of a [V] cat"
    assert joint_prompt([dog, cat], "close up ") == "close up photo of a [V2] old dog and [V] cat"
    assert joint_prompt([cat, dog, hat]) == "photo of a [V] cat, [V2] old dog and [V3] hat"
    assert joint_class([cat, dog]) == "a cat and an old dog"
    assert listed(["x"]) == "x"
