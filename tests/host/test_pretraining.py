"""New words in the base model's training: moved off their rows, and only they."""

import pytest
import torch

from detex_pack.pretraining.denoiser import Pair, build, encode

CAPTION = "photo of a [V] ball with [P] view in sand background"


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build()


def test_words_that_mean_nothing_leave_the_text_as_it_is(pair: Pair):
    with torch.no_grad():
        plain = encode(pair.tower, pair.tokens.ids([CAPTION]))
        assert torch.equal(pair.context([CAPTION], torch.zeros(1, 3, 128)), plain)


@pytest.mark.parametrize(("word", "place"), [(0, 4), (1, 7)])
def test_a_word_that_means_something_moves_itself_and_what_follows(
    pair: Pair, word: int, place: int
):
    said = torch.zeros(1, 3, 128)
    said[0, word] = 1.0
    with torch.no_grad():
        plain, moved = (pair.context([CAPTION], x) for x in (torch.zeros(1, 3, 128), said))
    changed = (plain != moved).any(-1)[0]
    assert not changed[:place].any()
    assert changed[place]
    assert changed[-1]


def test_a_word_that_is_not_in_the_caption_moves_nothing(pair: Pair):
    said = torch.zeros(1, 3, 128)
    said[0, 2] = 1.0  # [B]
    with torch.no_grad():
        assert torch.equal(
            pair.context([CAPTION], said), pair.context([CAPTION], torch.zeros(1, 3, 128))
        )
