"""The little world: exact, repeatable, captioned in DETEX's grammar."""

import hashlib
import re

import pytest
import torch

from detex_pack.detex.toys.render import render
from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    COLOURS,
    FURTHER,
    PATTERNS,
    POSITIONS,
    SHAPES,
    held_out_identities,
    sample_scenes,
    write_captions,
)
from detex_pack.detex.toys.subjects import (
    DEMO_SUBJECTS,
    GATE_SUBJECTS,
    RATE_SUBJECTS,
    SUBJECTS,
    demo_subject,
)

GRAMMAR = re.compile(
    r"^(photo of )?a ((small|big) )?(tilted )?"
    rf"(({'|'.join(COLOURS)})( and ({'|'.join(COLOURS)}))? )?"
    rf"(({'|'.join(PATTERNS)}) )?({'|'.join(SHAPES)}|thing)"
    rf"( with ({'|'.join(POSITIONS)}) view)?( in ({'|'.join(BACKGROUNDS)}) background)?$"
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_same_seed_same_pictures_and_no_global_randomness():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (render(sample_scenes(12, generator(3))) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_pictures_and_masks_have_sane_values():
    images, masks = render(sample_scenes(200, generator()))
    assert images.shape == (200, 64, 64, 3)
    assert masks.shape == (200, 64, 64)
    assert 0 <= images.min() and images.max() <= 1
    assert 0 <= masks.min() and masks.max() <= 1
    area = masks.mean((1, 2))
    assert area.min() > 0.02 and area.max() < 0.3
    border = masks.clone()
    border[:, 1:-1, 1:-1] = 0
    assert (border.sum((1, 2)) / masks.sum((1, 2))).max() < 0.05  # at most a tip touches the edge


def test_edges_are_soft():
    _, masks = render(sample_scenes(50, generator()))
    soft = ((masks > 0.05) & (masks < 0.95)).float().sum((1, 2))
    assert soft.min() >= 10


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_does_not_depend_on_its_batch(shape):
    scenes = sample_scenes(30, generator(1))
    scenes = scenes.with_factors(shape=torch.full((30,), SHAPES.index(shape)))
    alone = torch.cat([render(scenes.rows([i]))[0] for i in range(30)])
    assert torch.allclose(render(scenes)[0], alone, atol=1e-6)


def test_position_words_mean_what_they_say():
    scenes = sample_scenes(400, generator(2))
    _, masks = render(scenes)
    line = torch.arange(64) + 0.5
    weight = masks / masks.sum((1, 2), keepdim=True)
    x = (weight.sum(1) * line).sum(1)
    y = (weight.sum(2) * line).sum(1)
    for index, name in enumerate(POSITIONS):
        chosen = scenes.position == index
        off = {"left": 32 - x, "right": x - 32, "top": 32 - y, "bottom": y - 32}.get(name)
        if off is not None:
            assert off[chosen].min() > 4, name
        else:
            assert torch.maximum((x - 32).abs(), (y - 32).abs())[chosen].max() < 9


def test_captions_follow_the_grammar_and_drop_parts():
    scenes = sample_scenes(3000, generator(4))
    captions = write_captions(scenes, generator(5))
    empty = sum(not caption for caption in captions) / len(captions)
    assert 0.07 < empty < 0.13
    named = [caption for caption in captions if caption]
    assert all(GRAMMAR.match(caption) for caption in named)
    assert 0.8 < sum(" in " in caption for caption in named) / len(named) < 0.95
    assert 0.8 < sum(" with " in caption for caption in named) / len(named) < 0.9
    for caption, background in zip(captions, scenes.background.tolist(), strict=True):
        assert " in " not in caption or f" in {BACKGROUNDS[background]} background" in caption


def test_pre_training_draws_every_identity_but_the_held_out():
    scenes = sample_scenes(40000, generator(6))
    tables = ((SHAPES, "shape"), (COLOURS, "main"), (COLOURS, "second"), (PATTERNS, "pattern"))
    columns = [[table[i] for i in getattr(scenes, name).tolist()] for table, name in tables]
    drawn = set(zip(*columns, strict=True))
    held = set(held_out_identities())
    held |= {(shape, second, main, pattern) for shape, main, second, pattern in held}
    assert not drawn & held
    assert all(main != second for _, main, second, _ in drawn)
    assert len(drawn) == 6 * 8 * 7 * 4 - len(held)


def test_every_subject_is_held_out_and_serves_one_purpose():
    held = held_out_identities()
    assert len(set(held)) == len(held) == len(SUBJECTS) + FURTHER
    assert held[: len(SUBJECTS)] == SUBJECTS
    colours = [{frozenset(identity[1:3]) for identity in some} for some in (SUBJECTS, held)]
    assert colours[0] == colours[1]
    written = "\n".join(" ".join(identity) for identity in held)
    digest = hashlib.sha256(written.encode()).hexdigest()
    assert digest.startswith("5984f1e1c3bccf03")  # the committed weights never drew just these
    purposes = [*DEMO_SUBJECTS, *RATE_SUBJECTS, *GATE_SUBJECTS]
    assert sorted(purposes) == list(range(len(SUBJECTS)))


def test_photos_of_a_subject_share_identity_and_partly_the_background():
    subject = demo_subject(3, count=4, seed=0, shared=0.5)
    assert subject.images.shape == (4, 64, 64, 3)
    assert subject.masks.shape == (4, 64, 64)
    assert subject.class_word == SUBJECTS[3][0]
    for name in ("shape", "main", "second", "pattern"):
        assert len(set(getattr(subject.scenes, name).tolist())) == 1
    backgrounds = subject.scenes.background.tolist()
    assert max(backgrounds.count(b) for b in backgrounds) == 2
    assert len(set(subject.scenes.position.tolist())) == 4
    again = demo_subject(3, count=4, seed=0, shared=0.5)
    assert torch.equal(subject.images, again.images)
    assert not torch.equal(subject.images, demo_subject(3, 4, seed=1).images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 12, "count": 4, "seed": 0}, "There is no subject 12: choose 0 to 11"),
        ({"number": -1, "count": 4, "seed": 0}, "There is no subject -1"),
        ({"number": 0, "count": 0, "seed": 0}, "at least 1 photo"),
        ({"number": 0, "count": 4, "seed": 0, "shared": 2.0}, "must lie in 0..1"),
    ],
)
def test_senseless_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        demo_subject(**arguments)
