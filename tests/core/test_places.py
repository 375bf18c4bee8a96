"""Names and pictures of places: what is taken, what is refused and how it is said."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from detex_pack.detex.photos.places import (
    DEFAULT_PLACES,
    own_places,
    place_files,
    place_names,
    places_in,
    square_middle,
)


def test_each_line_is_a_place_and_empty_ones_are_skipped():
    assert place_names("sandy  beach\n\n  pine forest \n") == ["sandy beach", "pine forest"]


def test_the_default_places_are_two_dozen_different_ones():
    assert len(set(place_names("\n".join(DEFAULT_PLACES)))) == len(DEFAULT_PLACES) >= 24


@pytest.mark.parametrize(
    ("text", "message"),
    [(" \n", "No place is named"), ("a [B] beach", "must be plain words"), ("(beach", "plain")],
)
def test_a_bad_name_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        place_names(text)


def test_the_middle_square_of_a_picture_is_taken():
    wide = torch.arange(12.0).repeat(8, 1)[..., None].expand(8, 12, 3) / 12  # columns 0 to 11
    places = own_places([wide], ["beach"], 8)
    assert torch.equal(places.pictures[0], wide[:, 2:10])  # two columns less on each side


def test_a_picture_smaller_than_the_training_picture_is_refused():
    with pytest.raises(ValueError, match='"beach" has 12 x 8 pixels, less than .* 10 x 10'):
        own_places([torch.zeros(8, 12, 3)], ["beach"], 10)


def test_a_larger_picture_is_shrunk():
    wide = torch.zeros(20, 60, 3)
    wide[:, 20:40] = 1
    assert square_middle(wide, "beach", 10).mean().item() == pytest.approx(1)


@pytest.mark.parametrize(("pictures", "names"), [(2, 1), (1, 2)])
def test_a_name_for_each_picture(pictures: int, names: int):
    with pytest.raises(ValueError, match=f"{pictures} place pictures but {names} names"):
        own_places([torch.zeros(8, 8, 3)] * pictures, ["beach"] * names, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, grey in (("b10", 250), ("b2", 10)):
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"place {name}\n", encoding="utf-8")
    return tmp_path


def test_a_folder_gives_pictures_in_natural_order_with_the_names_beside_them(folder: Path):
    places = places_in(folder, 8)
    assert places.names == ("place b2", "place b10")
    torch.testing.assert_close(places.pictures[:, 0, 0, 0], torch.tensor([10, 250]) / 255)


def test_a_picture_without_a_name_is_refused(folder: Path):
    (folder / "b2.txt").unlink()
    with pytest.raises(ValueError, match=r"b2\.png has no b2\.txt beside it"):
        place_files(folder)


def test_a_name_without_a_picture_is_refused(folder: Path):
    (folder / "b2.png").unlink()
    with pytest.raises(ValueError, match=r"b2\.txt names a place that has no picture"):
        place_files(folder)


def test_a_folder_without_pictures_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="There is no place picture"):
        place_files(tmp_path)
