"""New words in the base model's training: moved off their rows, and only they."""

import pytest
import torch

from detex_pack.detex.host.demo_model import load_demo_model
from detex_pack.detex.toyland import world
from detex_pack.pretraining import denoiser, export, vae
from detex_pack.pretraining.common import Team, save
from detex_pack.pretraining.denoiser import Emphasis, Learner, Pair, build, encode
from detex_pack.pretraining.worlds import Run

CAPTION = "photo of a [V] ball with [P] view in sand background"


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build(world)


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


def test_two_toys_and_where_they_look_have_the_hosts_own_tokens(pair: Pair):
    caption = "photo of a red star looking ahead and a tilted pink moon in snow background"
    ids = pair.tokens.rows[pair.tokens.ids([caption])[0]]
    assert torch.equal(ids, pair.tokens.host_ids(caption))


def test_unpacked_weights_code_pictures_as_before_with_latents_of_unit_size(tmp_path):
    run = Run(world, tmp_path)
    export.unpack(run)
    images = world.render(world.sample_scenes(8, torch.Generator().manual_seed(2)))[0]
    before, after = load_demo_model().vae.first_stage_model, vae.trained(run)
    torch.testing.assert_close(vae.coded(after, images), vae.coded(before, images))
    assert 0.7 < after.encode(vae.as_input(images)).std() < 1.4


def test_a_step_on_cached_latents_moves_the_networks(tmp_path):
    run = Run(world, tmp_path)
    model = vae.build()
    save(run.file(vae.CHECKPOINT), {"average": [p.detach() for p in model.parameters()]})
    denoiser.cache_latents(run, 8)
    pool, scenes = denoiser.cached(run), denoiser.cached_scenes(world, 8)
    learner = Learner(run, Team(), 1e-3)
    before = [p.detach().clone() for p in learner.parameters]
    given = [pool[name].float() for name in ("latents", "subjects", "shares")]
    rng = torch.Generator().manual_seed(1)
    value, told = learner.losses(scenes, *given, Emphasis.at(0.1), rng)
    learner.learn(value + told, 1e-3, 1)
    learner.keep(1.0, 1)
    assert all(torch.isfinite(p).all() for p in learner.parameters)
    moved = [bool((p != q).any()) for p, q in zip(learner.parameters, before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    again = Learner(run, Team(), 1e-3)
    again.resume(torch.load(run.file(denoiser.CHECKPOINT), weights_only=True))
    for p, q in zip(again.parameters, learner.parameters, strict=True):
        assert torch.equal(p, q)
