"""What the base model's captions say, and what their new words mean."""

import pytest
import torch

from detex_pack.detex.toys.scene import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    POSITIONS,
    SIZES,
    sample_scenes,
)
from detex_pack.pretraining.captions import RARE, TOLD, training_captions
from detex_pack.pretraining.words import Meanings, known

SUBJECT, POSE, BACKGROUND = range(3)
PLAIN = ({*COLOURS, *PATTERNS}, {*POSITIONS, *SIZES, "tilted"}, {*BACKGROUNDS})


def captions_of(count: int):
    rng = torch.Generator().manual_seed(3)
    scenes = sample_scenes(count, rng)
    return scenes, *training_captions(scenes, rng)


def having(captions: list[str], *words: str) -> torch.Tensor:
    """Which captions have exactly these of [V], [P] and [B]."""
    return torch.tensor([{w for w in RARE if w in caption} == {*words} for caption in captions])


def test_what_a_new_word_means_no_other_word_says():
    _, captions, meant = captions_of(4000)
    for caption, told in zip(captions, meant.any(1), strict=True):
        for what, words in enumerate(PLAIN):
            assert not (told[what] and words & set(caption.split()))


def test_only_words_in_the_caption_mean_something_and_nothing_is_meant_twice():
    _, captions, meant = captions_of(4000)
    assert meant.sum(1).max() == 1
    for caption, row in zip(captions, meant, strict=True):
        for word, means in zip(RARE, row.any(1), strict=True):
            assert caption.count(word) <= 1
            assert word in caption or not means


def test_any_word_may_mean_anything_its_own_most_often_and_some_mean_nothing():
    _, captions, meant = captions_of(8000)
    shares = meant.float().mean(0)
    for what in range(len(TOLD)):
        others = [shares[word, what] for word in range(len(RARE)) if word != what]
        assert min(others) > 0.02
    assert all(shares[word, word] == shares[word].max() for word in range(len(RARE)))
    for number, word in enumerate(RARE):
        means = meant[:, number].any(1).tolist()
        silent = [word in c and not said for c, said in zip(captions, means, strict=True)]
        assert sum(silent) > 200


def test_v_means_the_same_alone_and_beside_p_and_b():
    """Else Custom Diffusion's prompts would be rehearsed to carry more than DETEX's."""
    _, captions, meant = captions_of(40000)
    told = meant.any((1, 2))
    alone = meant[having(captions, "[V]") & told, 0].float().mean(0)
    beside = meant[having(captions, "[V]", "[P]", "[B]"), 0].float().mean(0)
    torch.testing.assert_close(alone / alone[0], beside / beside[0], atol=0.05, rtol=0)


@pytest.mark.parametrize("what", range(3))
def test_a_vector_goes_to_the_word_that_means_it_and_to_no_other(what: int):
    scenes, _, _ = captions_of(60)
    meanings = Meanings(128)
    for number, each in enumerate(meanings.maps):
        if number != what:
            torch.nn.init.zeros_(each.weight)
    for word in range(len(RARE)):
        meant = torch.zeros(60, 3, 3, dtype=torch.bool)
        meant[:30, word, what] = True
        meant[30:, word] = torch.arange(3) != what
        said = meanings(scenes, meant, torch.Generator().manual_seed(4)).cpu()
        moved = said.square().sum(-1) > 0
        expected = torch.zeros_like(moved)
        expected[:30, word] = True
        assert torch.equal(moved, expected)


def test_what_is_known_of_a_scene_tells_colours_surface_place_and_backdrop():
    scenes, _, _ = captions_of(50)
    subject, pose, background = known(scenes)
    assert torch.equal(subject[:, :8].argmax(1), scenes.main)
    assert torch.equal(subject[:, 8:16].argmax(1), scenes.second)
    assert torch.equal(subject[:, 16:].argmax(1), scenes.pattern)
    assert torch.equal(pose[:, :5].argmax(1), scenes.position)
    assert torch.equal(background[:, :8].argmax(1), scenes.background)
    assert torch.equal(background[:, 8:], scenes.noise - 0.5)
