"""What the base model's captions say, and what their new words mean."""

import re
from dataclasses import replace

import pytest
import torch

from detex_pack.detex.toyland import world as toyland
from detex_pack.detex.toys import world as toys
from detex_pack.detex.toys.scene import BACKGROUNDS, COLOURS, PATTERNS, POSITIONS, SIZES
from detex_pack.pretraining.captions import RARE, TOLD, training_captions
from detex_pack.pretraining.guide import cell_loss, cell_width
from detex_pack.pretraining.judge import NETS
from detex_pack.pretraining.words import Meanings

SUBJECT, POSE, BACKGROUND = range(3)
PLAIN = ({*COLOURS, *PATTERNS}, {*POSITIONS, *SIZES, "tilted"}, {*BACKGROUNDS})


@pytest.fixture(params=[toys, toyland], ids=lambda world: world.NAME)
def world(request):
    return request.param


def captions_of(world, count: int):
    rng = torch.Generator().manual_seed(3)
    scenes = world.sample_scenes(count, rng)
    return scenes, *training_captions(world, scenes, rng)


def told_part(caption: str, toy: int) -> list[str]:
    """The words that speak of the told toy and of the picture, without those of the other toy."""
    nouns, *place = re.split(" (?=with |in )", caption, maxsplit=1)
    return [word for part in (nouns.split(" and a ")[toy], *place) for word in part.split()]


def having(captions: list[str], *words: str) -> torch.Tensor:
    """Which captions have exactly these of [V], [P] and [B]."""
    return torch.tensor([{w for w in RARE if w in caption} == {*words} for caption in captions])


def test_what_a_new_word_means_no_other_word_says(world):
    scenes, captions, meant = captions_of(world, 4000)
    toys = world.told_toy(scenes).tolist()
    for caption, toy, told in zip(captions, toys, meant.any(1), strict=True):
        for what, words in enumerate(PLAIN):
            assert not (told[what] and words & set(told_part(caption, toy)))


def test_new_words_stand_at_the_toy_they_speak_of():
    scenes, captions, meant = captions_of(toyland, 4000)
    said = [
        (c, t)
        for c, t, m in zip(
            captions, toyland.told_toy(scenes).tolist(), meant[:, 0].any(1).tolist(), strict=True
        )
        if m and " and a " in c
    ]
    assert len(said) > 300
    assert all("[V]" in told_part(caption, toy) for caption, toy in said)
    assert {toy for _, toy in said} == {0, 1}


def test_only_words_in_the_caption_mean_something_and_nothing_is_meant_twice(world):
    _, captions, meant = captions_of(world, 4000)
    assert meant.sum(1).max() == 1
    for caption, row in zip(captions, meant, strict=True):
        for word, means in zip(RARE, row.any(1), strict=True):
            assert caption.count(word) <= 1
            assert word in caption or not means


def test_any_word_may_mean_anything_its_own_most_often_and_some_mean_nothing(world):
    _, captions, meant = captions_of(world, 8000)
    shares = meant.float().mean(0)
    for what in range(len(TOLD)):
        others = [shares[word, what] for word in range(len(RARE)) if word != what]
        assert min(others) > 0.02
    assert all(shares[word, word] == shares[word].max() for word in range(len(RARE)))
    for number, word in enumerate(RARE):
        means = meant[:, number].any(1).tolist()
        silent = [word in c and not said for c, said in zip(captions, means, strict=True)]
        assert sum(silent) > 200


def test_v_means_the_same_alone_and_beside_p_and_b(world):
    """Else Custom Diffusion's prompts would be rehearsed to carry more than DETEX's."""
    _, captions, meant = captions_of(world, 40000)
    told = meant.any((1, 2))
    alone = meant[having(captions, "[V]") & told, 0].float().mean(0)
    beside = meant[having(captions, "[V]", "[P]", "[B]"), 0].float().mean(0)
    torch.testing.assert_close(alone / alone[0], beside / beside[0], atol=0.05, rtol=0)


@pytest.mark.parametrize("what", range(3))
def test_a_vector_goes_to_the_word_that_means_it_and_to_no_other(world, what: int):
    scenes, _, _ = captions_of(world, 60)
    meanings = Meanings(world, 128)
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


def test_what_is_known_of_a_scene_tells_colours_surface_place_and_backdrop(world):
    scenes, _, _ = captions_of(world, 50)
    subject, pose, background = world.known(scenes)
    assert [x.shape[1] for x in (subject, pose, background)] == list(world.KNOWN)
    table = scenes
    if world is toyland:
        table = scenes.toys.rows((torch.arange(50), world.told_toy(scenes)))
    assert torch.equal(subject[:, :8].argmax(1), table.main)
    assert torch.equal(subject[:, 8:16].argmax(1), table.second)
    assert torch.equal(subject[:, 16:20].argmax(1), table.pattern)
    assert torch.equal(pose[:, :5].argmax(1), table.position)
    families = background.shape[1] - scenes.noise.shape[1]
    assert torch.equal(background[:, :families].argmax(1), scenes.background)
    assert torch.equal(background[:, families:], scenes.noise - 0.5)


def test_faces_hats_and_feet_are_meant_with_the_look_or_not_at_all():
    scenes, _, _ = captions_of(toyland, 2000)
    subject = toyland.known(scenes)[0]
    parts = subject[:, 20:].sum(1)
    assert set(parts.tolist()) == {0.0, 6.0}  # eyes, mouth, hat, feet and two colours
    assert 0.4 < (parts > 0).float().mean() < 0.6
    assert (subject[:, :20].sum(1) == 3).all()


def test_what_the_judge_is_asked_has_an_answer_among_its_kinds(world):
    scenes = world.any_scenes(500, torch.Generator().manual_seed(5))
    answers = world.factors(scenes)
    assert answers.keys() == world.HEADS.keys()
    for name, kinds in world.HEADS.items():
        assert -1 <= answers[name].min() and answers[name].max() < kinds


def test_a_judge_who_sees_everything_right_passes_the_gate(world):
    scenes = world.sample_scenes(300, torch.Generator().manual_seed(6))
    assert min(world.gate_shares(world.factors(scenes), scenes).values()) == 1.0
    measured = world.gate_shares(world.factors(scenes), scenes).keys()
    assert set(world.GOALS) <= {*measured, *(f"clear {name}" for name in world.CLEAR)}


def test_two_toys_may_stand_in_either_order_but_keep_their_colours():
    scenes = toyland.sample_scenes(400, torch.Generator().manual_seed(7))
    right = toyland.factors(scenes)
    swapped = right | {
        f"{name} {toy}": right[f"{name} {3 - toy}"] for name in ("shape", "main") for toy in (1, 2)
    }
    assert toyland.gate_shares(swapped, scenes)["main colours on their toys"] == 1.0
    mixed = right | {f"main {toy}": right[f"main {3 - toy}"] for toy in (1, 2)}
    assert toyland.gate_shares(mixed, scenes)["main colours on their toys"] < 0.3


def test_what_the_gate_asks_of_a_subject_is_what_its_photos_show(world):
    images, masks, places = world.subject_photos(2, 3, 0)
    assert images.shape == (3, 64, 64, 3) and masks.shape == (3, 64, 64) and len(places) == 3
    named, unnamed = world.subject_answers(2)
    assert {*named, *unnamed} <= world.HEADS.keys()
    assert len(named) == 4 and len(unnamed) == (6 if world is toyland else 0)


def test_a_cell_that_shows_what_the_guide_says_costs_least(world):
    scenes = world.sample_scenes(6, torch.Generator().manual_seed(8))
    shares, kinds = world.colour_shares(scenes), world.cell_kinds(scenes)
    targets = []
    for count, kind in zip(world.CELL_KINDS, kinds, strict=True):
        one = torch.nn.functional.one_hot(kind, count).float()
        shown = torch.einsum("bsk,bshw->bkhw", one, shares)
        targets.append(torch.cat((1 - shares.sum(1, keepdim=True), shown), 1))
    right = (torch.cat(targets, 1) + 1e-4).log()
    assert right.shape[1] == cell_width(world)
    wrong = right.roll(1, dims=0)
    assert cell_loss(right, kinds, shares, world) < 0.3 * cell_loss(wrong, kinds, shares, world)


def test_the_judge_answers_every_question_about_every_picture(world):
    net = NETS[world.NAME]().eval()
    with torch.no_grad():
        answers = net(torch.rand(2, 64, 64, 3))
    assert {name: logits.shape for name, logits in answers.items()} == {
        name: (2, kinds) for name, kinds in world.HEADS.items()
    }


def test_the_judge_is_told_where_hat_and_mouth_are():
    """Upright and in the middle, a ball of 10 pixels: hat 10.8 px above, mouth 3.8 px below."""
    scenes = toyland.any_scenes(1, torch.Generator().manual_seed(9))
    still = torch.zeros(1, 2)
    toys = scenes.toys.with_factors(
        shape=still.long(), centre=torch.full((1, 2, 2), 34.0), radius=still + 10, angle=still
    )
    answers = toyland.factors(replace(scenes, toys=toys, pair=torch.tensor([False])))
    rows = {name: int(answers[f"{name} cell 1"]) // 16 for name in ("body", "hat", "mouth")}
    assert rows == {"body": 34 // 4, "hat": 23 // 4, "mouth": 37 // 4}
    assert answers["body cell 1"] % 16 == 34 // 4 and answers["body cell 2"] == -1
