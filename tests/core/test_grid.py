"""Grids of prompts: which cells, under which labels; and the sheet that is drawn of them."""

import pytest
import torch
from torch import Tensor

from detex_pack.detex.canvas.labelled_grid import labelled_grid
from detex_pack.detex.prompt.prompt_table import SPLIT, grid_prompts, parse_numbers, short_names

CELL = 64


def view(_photo: int) -> str:
    return "view"


def labels(lines: list[str], poses: list[int], backgrounds: list[int]) -> list[str]:
    return [cell.label for cell in grid_prompts(lines, poses, backgrounds, view)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0,1,2", [0, 1, 2]),
        ("1-3", [1, 2, 3]),
        ("0, 2 - 4", [0, 2, 3, 4]),
        ("2 2 1", [2, 1]),
        ("", [0]),
    ],
)
def test_numbers_are_listed_or_given_as_a_range(text: str, numbers: list[int]):
    assert parse_numbers(text, "poses") == numbers


@pytest.mark.parametrize("text", ["one", "3-1", "-1", "1.5", "P2"])
def test_anything_but_numbers_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match='poses has "[^"]+". Write photo numbers such as'):
        parse_numbers(text, "poses")


def test_grid_is_every_line_with_every_pose_and_background():
    grid = grid_prompts(["a [V] cup", "", "a red [V] cup"], [0, 2], [1], view)
    assert [cell.text for cell in grid] == [
        "a [V] cup in [B1] background",
        "a [V] cup with [P2] view in [B1] background",
        "a red [V] cup in [B1] background",
        "a red [V] cup with [P2] view in [B1] background",
    ]


def test_clause_has_the_attribute_of_its_photo():
    grid = grid_prompts(["a [V] dog and a [V2] cup"], [1, 2], [0], ["", "pose", "view"].__getitem__)
    assert [cell.text[-14:] for cell in grid] == ["with [P1] pose", "with [P2] view"]


def test_what_varies_fastest_is_the_column():
    assert labels(["a", "b"], [1, 2], [1, 2])[:3] == [
        f"a, view P1{SPLIT}background B1",
        f"a, view P1{SPLIT}background B2",
        f"a, view P2{SPLIT}background B1",
    ]
    assert labels(["a", "b"], [0, 1], [3]) == [
        f"a{SPLIT}any view",
        f"a{SPLIT}view P1",
        f"b{SPLIT}any view",
        f"b{SPLIT}view P1",
    ]
    assert labels(["a"], [1], [0, 1]) == [f"a{SPLIT}any background", f"a{SPLIT}background B1"]


def test_one_prompt_leaves_rows_to_the_poses():
    assert labels(["a"], [1, 2], [1, 2])[1] == f"view P1{SPLIT}background B2"


def test_prompts_alone_are_plain_captions():
    assert labels(["a", "b"], [0], [0]) == ["a", "b"]


def test_labels_are_fit_for_file_names_on_every_system():
    (label,) = labels(['a/b\\c: "x" <d|e> 50%? *. '], [0], [0])
    assert not set(label) & set('<>:"/\\|?*%')
    assert label == label.strip(" .")


def test_prompts_that_begin_alike_keep_different_names():
    long = "photo of a [V] dog " + "very " * 20
    prompts = [long + "near", long + "far", long + "near"]
    first, second, again = map(short_names(prompts).get, prompts)
    assert first != second and first == again
    assert max(len(first), len(second)) < 70


def test_grid_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="There is no prompt. Write one a line"):
        grid_prompts(["", "  "], [0], [0], view)


def colour(value: float, count: int = 1, height: int = 32) -> Tensor:
    """Red of this strength: no text on the sheet has it."""
    red = torch.tensor([value, 0.0, 0.0])
    return red.expand(count, height, 32, 3)


def cells_of(page: Tensor, value: float) -> tuple[float, float]:
    """The centre (x, y) of all pixels of this colour."""
    red = torch.tensor([value, 0.0, 0.0])
    y, x = (page[0] - red).abs().amax(-1).lt(0.005).nonzero().float().mean(0).tolist()
    return x, y


def test_picture_stands_under_its_column_and_beside_its_row():
    names = [f"{row}{SPLIT}{column}" for row in ("r1", "r2") for column in ("c1", "c2")]
    values = [0.2, 0.4, 0.6, 0.8]
    page = labelled_grid([colour(v) for v in values], names, CELL)
    places = [cells_of(page, v) for v in values]
    assert places[0][0] == places[2][0] < places[1][0] == places[3][0]
    assert places[0][1] == places[1][1] < places[2][1] == places[3][1]


def test_order_of_the_list_does_not_move_a_picture_to_another_head():
    names = [f"r1{SPLIT}c1", f"r2{SPLIT}c2", f"r2{SPLIT}c1", f"r1{SPLIT}c2"]
    page = labelled_grid([colour(v) for v in (0.2, 0.8, 0.6, 0.4)], names, CELL)
    assert cells_of(page, 0.2)[0] == cells_of(page, 0.6)[0]
    assert cells_of(page, 0.2)[1] == cells_of(page, 0.4)[1]


def test_several_pictures_of_a_label_stand_side_by_side():
    one = labelled_grid([colour(0.2), colour(0.4)], [f"r{SPLIT}c1", f"r{SPLIT}c2"], CELL)
    two = labelled_grid([colour(0.2, 2), colour(0.4, 2)], [f"r{SPLIT}c1", f"r{SPLIT}c2"], CELL)
    assert two.shape[2] == one.shape[2] + 2 * (CELL + 6)


def test_wide_pictures_get_flat_cells():
    names = [f"r{SPLIT}c1", f"r{SPLIT}c2"]
    square = labelled_grid([colour(0.2), colour(0.4)], names, CELL)
    flat = labelled_grid([colour(0.2, height=16), colour(0.4, height=16)], names, CELL)
    assert flat.shape[1] == square.shape[1] - CELL // 2


def test_one_batch_is_split_over_its_labels():
    batch = torch.cat([colour(0.2), colour(0.4)])
    names = [f"r{SPLIT}c1", f"r{SPLIT}c2"]
    listed = labelled_grid([colour(0.2), colour(0.4)], names, CELL)
    assert torch.equal(labelled_grid([batch], names, CELL), listed)


def test_plain_captions_flow_in_the_asked_columns():
    pictures = [colour(v) for v in (0.2, 0.4, 0.6)]
    flow = labelled_grid(pictures, ["a", "b", "c"], CELL, columns=3)
    stack = labelled_grid(pictures, ["a", "b", "c"], CELL, columns=1)
    assert flow.shape[2] > 2 * stack.shape[2] and stack.shape[1] > 2 * flow.shape[1]


def test_title_is_a_line_above():
    plain = labelled_grid([colour(0.2)], ["a"], CELL)
    titled = labelled_grid([colour(0.2)], ["a"], CELL, title="my dog")
    assert titled.shape[1] > plain.shape[1] and titled.shape[2] == plain.shape[2]
    assert torch.equal(titled[:, -plain.shape[1] :], plain)


def test_other_count_of_labels_is_refused():
    with pytest.raises(ValueError, match="There are 2 images but 3 labels. Wire the labels of the"):
        labelled_grid([colour(0.2), colour(0.4)], ["a", "b", "c"], CELL)
