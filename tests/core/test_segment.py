"""Choosing the subject among a segmenter's masks, and what a user types to correct it."""

import pytest
import torch
from torch import Tensor

from detex_pack.detex.photos.segment import (
    KEPT,
    Candidate,
    Point,
    candidate_sheet,
    check_inside,
    parse_boxes,
    parse_choice,
    parse_points,
    ranked,
    subject_score,
)

SIDE = 40


def box(left: int, top: int, right: int, bottom: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def best(*candidates: Candidate, prompted: bool = False) -> Candidate:
    return ranked(candidates, prompted=prompted)[0]


MIDDLE = Candidate(box(10, 10, 30, 30), 0.8)


def test_central_mask_is_taken_before_one_in_the_corner():
    assert best(Candidate(box(0, 0, 20, 20), 0.95), MIDDLE) is MIDDLE


def test_subject_is_taken_before_a_detail_of_it():
    assert best(Candidate(box(18, 18, 22, 22), 0.95), MIDDLE) is MIDDLE


def test_subject_is_taken_before_the_background_around_it():
    assert best(Candidate(~box(8, 8, 32, 32), 0.99), MIDDLE) is MIDDLE


def test_of_two_alike_places_the_surer_mask_is_taken():
    surer = Candidate(box(10, 8, 30, 32), 0.9)
    assert best(MIDDLE, surer) is surer


def test_mask_of_the_whole_photo_scores_nothing():
    assert subject_score(Candidate(box(0, 0, SIDE, SIDE), 1.0)) == 0


def test_where_the_user_points_only_confidence_counts():
    corner = Candidate(box(0, 0, 10, 10), 0.95)
    assert best(corner, MIDDLE, prompted=True) is corner


def test_nearly_equal_masks_are_one_candidate():
    # 20x20 and 20x19: overlap 380 of 400
    assert ranked([MIDDLE, Candidate(box(10, 10, 30, 29), 0.7)], prompted=False) == [MIDDLE]


def test_empty_masks_are_no_candidates_and_few_are_kept():
    strips = [Candidate(box(i * 5, 0, i * 5 + 5, SIDE), 0.5) for i in range(8)]
    nothing = Candidate(torch.zeros(SIDE, SIDE, dtype=torch.bool), 1.0)
    assert len(ranked([nothing, *strips], prompted=True)) == KEPT
    assert ranked([nothing], prompted=True) == []


def test_choice_replaces_the_first_candidate_of_the_named_photos():
    assert parse_choice("1:2, 3:4", [4, 4, 4]) == [2, 1, 4]
    assert parse_choice(" ", [4, 4]) == [1, 1]


def test_choice_of_a_photo_or_candidate_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="choice names photo 4, but the photos are 1 to 3"):
        parse_choice("4:1", [4, 4, 4])
    with pytest.raises(ValueError, match="candidate 3 of photo 2, which has 2. The candidates pic"):
        parse_choice("2:3", [4, 2])


@pytest.mark.parametrize("text", ["2", "1=2", "a:1", "1:-2"])
def test_choice_in_another_form_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match='Write photo:candidate, such as "1:2, 3:1"'):
        parse_choice(text, [4, 4])


def test_points_belong_to_their_photo_or_to_all():
    assert parse_points("2: 5,6 !7,8", 2) == [[], [Point(5, 6, True), Point(7, 8, False)]]
    assert parse_points("5,6", 2) == [[Point(5, 6, True)]] * 2
    assert parse_points("1: 1,2; 2: 3,4\n2: 5,6", 2)[1] == [Point(3, 4, True), Point(5, 6, True)]
    assert parse_points("", 2) == [[], []]


def test_points_of_other_nodes_are_read_as_json():
    assert parse_points('[{"x": 5, "y": 6}]', 1) == [[Point(5, 6, True)]]
    with pytest.raises(ValueError, match="is not a list such as"):
        parse_points("[5, 6]", 1)


def test_points_in_another_form_are_refused_with_an_example():
    with pytest.raises(ValueError, match='points has "5". Write x,y in pixels'):
        parse_points("2: 5 6", 2)
    with pytest.raises(ValueError, match='points has "a: 5,6". Before the colon stands a number'):
        parse_points("a: 5,6", 2)
    with pytest.raises(ValueError, match="points names photo 3, but the photos are 1 to 2"):
        parse_points("3: 5,6", 2)


def test_box_is_left_top_right_bottom():
    assert parse_boxes("2: 1,2, 30,40", 2) == [None, (1, 2, 30, 40)]
    for wrong in ("1,2,3", "30,2,1,40", "1,40,30,2"):
        with pytest.raises(ValueError, match="Write left,top,right,bottom in pixels"):
            parse_boxes(wrong, 1)


def test_point_or_box_off_the_photo_is_refused():
    check_inside(1, [Point(40, 20, True)], None, 20, 40)
    with pytest.raises(ValueError, match="41,5 lies outside photo 3, which has 40x20 pixels"):
        check_inside(3, [Point(41, 5, True)], None, 20, 40)
    with pytest.raises(ValueError, match="30,21 lies outside photo 1"):
        check_inside(1, [], (1, 2, 30, 21), 20, 40)


def test_sheet_has_a_row_for_each_photo():
    photos = [torch.rand(SIDE, SIDE, 3), torch.rand(SIDE, SIDE // 2, 3)]
    narrow = Candidate(MIDDLE.mask[:, : SIDE // 2], 0.5)
    one = candidate_sheet(photos[:1], [[MIDDLE]], [1])
    two = candidate_sheet(photos, [[MIDDLE, MIDDLE], [narrow]], [2, 1])
    assert two.shape[1] > 1.9 * one.shape[1] and two.shape[2] > 1.9 * one.shape[2]
