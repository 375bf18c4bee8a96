"""From pictures to an evaluation, with an encoder whose features are mean colours."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from detex_pack.detex.evaluate.encoder import Encoder, Reader, weights_hash
from detex_pack.detex.evaluate.evaluation import Evaluation, Score
from detex_pack.detex.evaluate.scoring import Masked, Sampled, evaluate

RED, GREEN, BLUE, WHITE = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}
LEFT = torch.tensor([[1.0, 0.0]] * 2)
MEAN_TO_WHITE = 1 / math.sqrt(3)  # cosine of a pure colour and white


def flat(colour: list[float]) -> Tensor:
    return torch.tensor(colour).expand(2, 2, 3)


def halves(left: list[float], right: list[float]) -> Tensor:
    return torch.stack([torch.tensor(left), torch.tensor(right)]).expand(2, 2, 3)


def see(pictures: Sequence[Tensor]) -> Tensor:
    return torch.stack([picture.mean(dim=(0, 1)) for picture in pictures])


def read(captions: Sequence[str]) -> Tensor:
    named = [[COLOURS[word] for word in caption.split() if word in COLOURS] for caption in captions]
    return torch.tensor([colours[0] for colours in named])


PLAIN = Encoder("DINO", "mean colour 1", see)
WITH_TEXT = Encoder("CLIP", "mean colour 2", see, Reader("text 3", read))
PHOTOS = Masked([flat(RED), flat(GREEN)])


def scored(
    pictures: Sequence[Tensor],
    prompts: Sequence[str],
    masks: Sequence[Tensor] | None = None,
    photos: Masked = PHOTOS,
    encoder: Encoder = PLAIN,
    base: Masked | None = None,
) -> dict[str, tuple[float, ...]]:
    sampled = Sampled(Masked(pictures, masks, "picture"), prompts)
    found = evaluate("A", "toy", sampled, photos, [encoder], base)
    return {score.name: values for score, values in found.scores.items()}


def test_without_masks_and_base_there_is_the_similarity_alone():
    found = scored([flat(RED), flat(BLUE)], ["a [V] toy", "a [V] toy in snow"])
    assert found == {"DINO-I": (0.5, 0.0)}


def test_captions_are_read_without_the_learned_words():
    """Red to red 1; blue to green 0."""
    prompts = ["a [V] red toy with [P1] pose", "a [V] green toy"]
    found = scored([flat(RED), flat(BLUE)], prompts, encoder=WITH_TEXT)
    assert found["CLIP-T"] == (1.0, 0.0)


def test_two_encoders_give_two_scores_each_with_its_name():
    sampled = Sampled(Masked([flat(RED)]), ["a [V] red toy"])
    found = evaluate("A", "toy", sampled, PHOTOS, [PLAIN, WITH_TEXT])
    assert isinstance(found, Evaluation)
    assert list(found.scores) == [
        Score("DINO-I", "mean colour 1"),
        Score("CLIP-T", "mean colour 2, text 3"),
        Score("CLIP-I", "mean colour 2"),
    ]


def test_masks_of_the_photos_take_their_background_out():
    """A red toy before blue: whole (1, 0, 1) / 2, alone on white (1, .5, .5); to a red picture
    1 / sqrt(2) and 1 / sqrt(1.5).
    """
    photos = Masked([halves(RED, BLUE)], [LEFT])
    found = scored([flat(RED)], ["a [V] toy"], photos=photos)
    assert found["DINO-I"][0] == pytest.approx(math.sqrt(1 / 2))
    assert found["DINO-I fg_ref"][0] == pytest.approx(math.sqrt(2 / 3))
    assert "DINO-I fg_both" not in found


def test_masks_on_both_sides_compare_subject_with_subject():
    photos = Masked([halves(RED, BLUE)], [LEFT])
    found = scored([halves(RED, GREEN)], ["a [V] toy"], [LEFT], photos)
    assert found["DINO-I fg_both"][0] == pytest.approx(1)


def test_diversity_is_taken_within_a_prompt():
    """Red and green lie at right angles; the one picture of the other prompt has none."""
    prompts = ["a [V] toy", "a [V] toy", "a [V] toy in snow"]
    found = scored([flat(RED), flat(GREEN), flat(BLUE)], prompts)["DINO diversity"]
    assert found[:2] == (1.0, 1.0) and math.isnan(found[2])


def test_pictures_of_the_class_count_in_drift_alone():
    """The class came red where the base model draws green: a right angle."""
    prompts = ["a [V] toy", "a toy"]
    found = scored([flat(RED), flat(RED)], prompts, base=Masked([flat(GREEN)]))
    assert math.isnan(found["DINO drift"][0]) and found["DINO drift"][1] == 1
    assert found["DINO-I"][0] == 0.5 and math.isnan(found["DINO-I"][1])


def test_where_no_prompt_has_a_learned_word_all_pictures_show_the_subject():
    assert scored([flat(RED), flat(BLUE)], ["a toy", "a toy in snow"])["DINO-I"] == (0.5, 0.0)


def test_leak_compares_backgrounds_and_leaves_out_those_that_were_asked_for():
    """The photo's ground is blue, beside a blanked subject (.5, .5, 1), and so is the picture's:
    similarity 1. The base model's is (.5, 1, .5): (.25 + .5 + .5) / 1.5 = 5 / 6.
    """
    photos = Masked([halves(RED, BLUE)], [LEFT])
    base = Masked([halves(RED, GREEN)], [LEFT], "base picture")
    pictures = [halves(RED, BLUE), halves(RED, BLUE)]
    prompts = ["a [V] toy", "a [V] toy in [B1] background"]
    found = scored(pictures, prompts, [LEFT, LEFT], photos, base=base)["DINO leak"]
    assert found[0] == pytest.approx(1 / 6)
    assert math.isnan(found[1])


def test_prompts_must_be_as_many_as_pictures():
    with pytest.raises(ValueError, match="There are 2 pictures but 1 prompts. Wire the text of"):
        Sampled(Masked([flat(RED)] * 2, None, "picture"), ["a [V] toy"])


def test_a_mask_that_leaves_nothing_is_named_by_its_place_in_the_list():
    masks = [torch.zeros(2, 2), torch.zeros(2, 2)]  # that of a class picture may be empty
    photos = Masked([halves(RED, BLUE)], [LEFT])
    with pytest.raises(ValueError, match="leaves nothing of the subject of picture 2"):
        scored([flat(RED), flat(RED)], ["a toy", "a [V] toy"], masks, photos)


def test_another_number_of_base_pictures_is_refused():
    with pytest.raises(ValueError, match="There are 1 pictures but 2 base model's pictures"):
        scored([flat(RED)] * 2, ["a [V] toy", "a toy"], base=Masked([flat(RED)] * 2))


def test_an_encoder_whose_text_side_has_another_width_is_refused():
    reader = Reader("text 3", lambda captions: torch.ones(len(captions), 5))
    wide = WITH_TEXT._replace(reader=reader)
    with pytest.raises(ValueError, match="features of 3 numbers, the captions of 5"):
        scored([flat(RED)], ["a [V] red toy"], encoder=wide)


def test_no_encoder_and_no_pictures_are_refused():
    with pytest.raises(ValueError, match="There is no encoder"):
        evaluate("A", "toy", Sampled(Masked([flat(RED)]), ["a [V] toy"]), PHOTOS, [])
    with pytest.raises(ValueError, match="There are no pictures. Wire images"):
        Masked([], None, "picture")


def test_hash_of_weights_is_that_of_their_half_precision_wherever_they_lie():
    module = torch.nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.copy_(module.weight.half())
        module.bias.copy_(module.bias.half())
    before = weights_hash(module)
    assert len(before) == 8
    assert weights_hash(module.half()) == before
    with torch.no_grad():
        module.weight[0, 0] += 0.5
    assert weights_hash(module) != before
