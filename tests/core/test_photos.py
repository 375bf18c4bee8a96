"""A folder of photos: what is found, in which order, how it is turned, what is refused."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from detex_pack.detex.photos.checks import check_distinct
from detex_pack.detex.photos.folder import (
    files_hash,
    folder_of,
    in_known_order,
    photo_files,
    read_photo,
)


def picture(width: int = 6, height: int = 4, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def corner_mask(width: int = 6, height: int = 4) -> Image.Image:
    """White in the upper left pixel alone."""
    mask = Image.new("L", (width, height))
    mask.putpixel((0, 0), 255)
    return mask


def save_turned(image: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)


def names(folder: Path) -> list[str]:
    return [files.photo.name for files in photo_files(folder)]


def test_photos_come_in_natural_order_without_hidden_and_foreign_files(tmp_path: Path):
    for name in ("photo10.png", "photo2.png", "Photo1.png", "._photo3.png"):
        picture().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / "folder.png").mkdir()
    assert names(tmp_path) == ["Photo1.png", "photo2.png", "photo10.png"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp", "bmp", "tif"])
def test_common_kinds_are_read(tmp_path: Path, suffix: str):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / f"dog.{suffix}")
    photo = read_photo(photo_files(tmp_path)[0])
    assert photo.pixels.shape == (4, 6, 3)
    assert photo.pixels[0, 0, 0] > 0.98 and photo.pixels[0, 0, 1] < 0.02


@pytest.mark.parametrize("wrapped", ['"{}"', "'{}'", "{} ", ' "{}" ', '"{} "'])
def test_quotes_and_spaces_around_a_path_do_no_harm(tmp_path: Path, wrapped: str):
    assert folder_of(wrapped.format(tmp_path), Path("elsewhere")) == tmp_path


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "dog").mkdir()
    assert folder_of("~/dog", Path("elsewhere")) == tmp_path / "dog"


def test_unknown_user_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match="~nobody_here/dog begins with a user .* Write ~/"):
        folder_of("~nobody_here/dog", Path("elsewhere"))


def test_plain_name_is_a_folder_of_the_input_folder(tmp_path: Path):
    (tmp_path / "dog").mkdir()
    assert folder_of("dog", tmp_path) == tmp_path / "dog"


def test_missing_folder_is_refused_by_its_full_path(tmp_path: Path):
    with pytest.raises(ValueError, match="There is no folder .*cat. Copy its path"):
        folder_of("cat", tmp_path)
    with pytest.raises(ValueError, match="No folder is given. Type the path"):
        folder_of(' "" ', tmp_path)


def test_file_in_place_of_a_folder_is_answered_with_its_folder(tmp_path: Path):
    picture().save(tmp_path / "dog.png")
    with pytest.raises(ValueError, match="dog.png is a file. Give the folder"):
        folder_of(str(tmp_path / "dog.png"), tmp_path)


def test_folder_without_photos_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="There is no photo in .* Put 3 to 5 pictures"):
        photo_files(tmp_path)


def test_mask_file_beside_its_photo_is_read(tmp_path: Path):
    picture().save(tmp_path / "dog.jpg")
    corner_mask().save(tmp_path / "dog.mask.png")
    photo = read_photo(photo_files(tmp_path)[0])
    assert photo.mask_from == "dog.mask.png"
    assert photo.mask[0, 0] == 1 and photo.mask.sum() == 1


def test_mask_without_its_photo_is_refused_by_name(tmp_path: Path):
    picture().save(tmp_path / "dog.png")
    corner_mask().save(tmp_path / "cat.mask.png")
    with pytest.raises(ValueError, match="The mask cat.mask.png has no photo beside it"):
        photo_files(tmp_path)


def test_transparency_is_the_mask_where_there_is_no_mask_file(tmp_path: Path):
    cut_out = picture().convert("RGBA")
    cut_out.putalpha(corner_mask())
    cut_out.save(tmp_path / "dog.png")
    photo = read_photo(photo_files(tmp_path)[0])
    assert photo.mask_from == "alpha channel"
    assert photo.mask[0, 0] == 1 and photo.mask.sum() == 1


def test_photo_without_any_mask_has_an_empty_one(tmp_path: Path):
    picture().save(tmp_path / "dog.png")
    photo = read_photo(photo_files(tmp_path)[0])
    assert photo.mask_from == "no mask" and photo.mask.sum() == 0
    assert photo.mask.shape == photo.pixels.shape[:2]


def test_transparent_mask_file_counts_by_its_transparency(tmp_path: Path):
    picture().save(tmp_path / "dog.png")
    painted = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    painted.putalpha(corner_mask())
    painted.save(tmp_path / "dog.mask.png")
    assert read_photo(photo_files(tmp_path)[0]).mask[0, 0] == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_with_transparency_is_turned_together_with_its_mask(tmp_path: Path, orientation: int):
    # the opaque pixel is the only red one, so it must stay the red one however it is turned
    image = Image.new("RGBA", (6, 4), (0, 0, 255, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    save_turned(image, tmp_path / "dog.png", orientation)
    photo = read_photo(photo_files(tmp_path)[0])
    assert photo.pixels.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))
    assert torch.equal(photo.mask == 1, photo.pixels[..., 0] == 1)
    assert photo.mask.sum() == 1


def test_orientation_6_turns_a_quarter_clockwise(tmp_path: Path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))  # stored upper left is shown upper right
    save_turned(image, tmp_path / "dog.png", 6)
    pixels = read_photo(photo_files(tmp_path)[0]).pixels
    assert pixels.shape == (6, 4, 3) and pixels[0, 3, 0] == 1


def test_mask_drawn_before_the_photo_was_turned_is_turned_too(tmp_path: Path):
    save_turned(picture(), tmp_path / "dog.jpg", 6)
    corner_mask().save(tmp_path / "dog.mask.png")
    mask = read_photo(photo_files(tmp_path)[0]).mask
    assert mask.shape == (6, 4) and mask[0, 3] == 1


def test_mask_drawn_over_the_turned_photo_is_left_alone(tmp_path: Path):
    save_turned(picture(), tmp_path / "dog.jpg", 6)
    corner_mask(4, 6).save(tmp_path / "dog.mask.png")
    mask = read_photo(photo_files(tmp_path)[0]).mask
    assert mask.shape == (6, 4) and mask[0, 0] == 1


def test_mask_of_another_shape_is_refused_by_both_names(tmp_path: Path):
    picture().save(tmp_path / "dog.png")
    corner_mask(5, 5).save(tmp_path / "dog.mask.png")
    with pytest.raises(ValueError, match="dog.mask.png has 5x5 pixels, but its photo dog.png has"):
        read_photo(photo_files(tmp_path)[0])


def test_file_that_is_no_picture_is_refused_by_name(tmp_path: Path):
    (tmp_path / "dog.heic").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="dog.heic cannot be read: it is no picture, or of a kind"):
        read_photo(photo_files(tmp_path)[0])


def test_half_a_picture_is_refused_by_name(tmp_path: Path):
    picture(200, 200).save(tmp_path / "dog.jpg")
    content = (tmp_path / "dog.jpg").read_bytes()
    (tmp_path / "dog.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="dog.jpg cannot be read .* Copy it again"):
        read_photo(photo_files(tmp_path)[0])


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path):
    Image.fromarray(np.full((4, 6), 32768, np.uint16)).save(tmp_path / "dog.png")
    pixels = read_photo(photo_files(tmp_path)[0]).pixels
    torch.testing.assert_close(pixels, torch.full((4, 6, 3), 0.5), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["dog.mask.png", "dog_mask.png", "dog-mask.bmp", "DOG.Mask.PNG"])
def test_mask_is_known_by_its_name(tmp_path: Path, name: str):
    picture().save(tmp_path / "dog.jpg")
    corner_mask().save(tmp_path / name)
    (files,) = photo_files(tmp_path)
    assert files.mask == tmp_path / name


def test_picture_called_mask_is_a_photo_where_nothing_else_has_its_name(tmp_path: Path):
    picture().save(tmp_path / "gas_mask.jpg")
    picture(seed=1).save(tmp_path / "hat.jpg")
    assert names(tmp_path) == ["gas_mask.jpg", "hat.jpg"]


def test_photos_that_differ_in_capitals_alone_have_each_their_mask(tmp_path: Path):
    for name in ("Dog.jpg", "dog.jpg"):
        picture().save(tmp_path / name)
    corner_mask().save(tmp_path / "dog.mask.png")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system knows no capitals")
    found = {files.photo.name: files.mask for files in photo_files(tmp_path)}
    assert found == {"Dog.jpg": None, "dog.jpg": tmp_path / "dog.mask.png"}


@pytest.mark.parametrize(("one", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_match_in_either_of_their_forms(tmp_path: Path, one: str, other: str):
    picture().save(tmp_path / (unicodedata.normalize(one, "caf\u00e9") + ".jpg"))
    corner_mask().save(tmp_path / (unicodedata.normalize(other, "caf\u00e9") + ".mask.png"))
    (files,) = photo_files(tmp_path)
    assert files.mask is not None


def test_mask_that_two_photos_could_have_is_refused_by_all_names(tmp_path: Path):
    for name in ("dog.jpg", "dog.png"):
        picture().save(tmp_path / name)
    corner_mask().save(tmp_path / "dog.mask.png")
    with pytest.raises(ValueError, match="dog.mask.png could be that of dog.jpg or of dog.png"):
        photo_files(tmp_path)


def test_second_mask_of_a_photo_is_refused_by_all_names(tmp_path: Path):
    picture().save(tmp_path / "dog.jpg")
    for name in ("dog.mask.png", "dog_mask.png"):
        corner_mask().save(tmp_path / name)
    with pytest.raises(ValueError, match="dog.jpg has two masks, dog.mask.png and dog_mask.png"):
        photo_files(tmp_path)


@pytest.mark.parametrize("suffix", ["jfif", "gif"])
def test_rarer_kinds_are_read(tmp_path: Path, suffix: str):
    picture().save(tmp_path / f"dog.{suffix}", "JPEG" if suffix == "jfif" else None)
    assert read_photo(photo_files(tmp_path)[0]).pixels.shape == (4, 6, 3)


def test_kind_that_is_not_known_here_is_refused_by_name(tmp_path: Path):
    (tmp_path / "dog.jxl").write_bytes(b"\xff\x0a")
    with pytest.raises(ValueError, match="dog.jxl cannot be read"):
        read_photo(photo_files(tmp_path)[0])


def test_first_frame_of_an_animation_is_read_and_their_number_told(tmp_path: Path):
    frames = [picture(seed=number) for number in range(3)]
    frames[0].save(tmp_path / "dog.gif", save_all=True, append_images=frames[1:])
    photo = read_photo(photo_files(tmp_path)[0])
    assert photo.frames == 3 and photo.pixels.shape == (4, 6, 3)


def test_photo_of_too_many_pixels_is_refused_with_what_to_do(tmp_path: Path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "dog.png")
    with pytest.raises(ValueError, match="dog.png has more pixels than Pillow reads .* smaller"):
        read_photo(photo_files(tmp_path)[0])


def test_hash_follows_content_and_not_the_clock(tmp_path: Path):
    picture().save(tmp_path / "dog.png")
    before = files_hash(photo_files(tmp_path))
    (tmp_path / "dog.png").touch()
    assert files_hash(photo_files(tmp_path)) == before
    corner_mask().save(tmp_path / "dog.mask.png")
    with_mask = files_hash(photo_files(tmp_path))
    picture(seed=1).save(tmp_path / "dog.png")
    assert len({before, with_mask, files_hash(photo_files(tmp_path))}) == 3


def test_same_picture_twice_is_refused_by_both_names():
    with pytest.raises(ValueError, match="a.png and c.png are the same picture"):
        check_distinct(["x", "y", "x"], ["a.png", "b.png", "c.png"])


def test_known_photos_keep_their_numbers_and_new_ones_follow():
    # the concept was trained on dog (P1) and cat (P2); ant is new and sorts first
    order = in_known_order(["ant", "cat", "dog"], ["ant", "cat", "dog"], ["dog", "cat"])
    assert order == [2, 1, 0]


def test_missing_photo_of_the_concept_is_refused_by_its_number():
    with pytest.raises(ValueError, match="behind P2 of the wired concept is not in the folder"):
        in_known_order(["dog"], ["dog.png"], ["dog", "cat"])
