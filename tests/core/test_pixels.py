"""Picture files of every range: read as they look, or refused with what they hold."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detex_pack.detex.photos.folder import PhotoFile, read_photo

RAMP = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
SUBJECT = RAMP > 0.5


def read(tmp_path: Path, values: np.ndarray, name: str = "dog.tif"):
    Image.fromarray(values).save(tmp_path / name)
    return read_photo(PhotoFile(tmp_path / name, None))


@pytest.mark.parametrize(
    "values",
    [
        RAMP,
        (RAMP * 255).round().astype(np.int32),
        (RAMP * 65535).round().astype(np.int32),
        (RAMP * 65535).round().astype(np.uint16),
        (RAMP * 255).round().astype(np.uint8),
    ],
    ids=["float 0..1", "int32 0..255", "int32 0..65535", "16 bits", "8 bits"],
)
def test_photo_has_its_brightness_whatever_its_range(tmp_path: Path, values: np.ndarray):
    pixels = read(tmp_path, values).pixels
    assert pixels.shape == (4, 6, 3)
    np.testing.assert_allclose(pixels[..., 0].numpy(), RAMP, atol=0.003)


@pytest.mark.parametrize(
    "values",
    [
        RAMP * 12,
        RAMP - 0.5,
        np.where(SUBJECT, np.nan, RAMP).astype(np.float32),
        (RAMP * 4095).round().astype(np.uint16),
        (RAMP * 1e6).astype(np.int32),
        -(RAMP * 255).astype(np.int32),
    ],
    ids=["HDR", "below 0", "NaN", "12 bits in 16", "int32 above 16 bits", "negative"],
)
def test_photo_of_an_unknown_range_is_refused_with_it(tmp_path: Path, values: np.ndarray):
    with pytest.raises(ValueError, match="dog.tif holds values from .* to .*, and where white"):
        read(tmp_path, values)


def read_mask(tmp_path: Path, mask: Image.Image, name: str = "dog.mask.png"):
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "dog.png")
    mask.save(tmp_path / name)
    return read_photo(PhotoFile(tmp_path / "dog.png", tmp_path / name)).mask.numpy()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("white", [1, 100, 255])
def test_mask_of_two_values_has_the_subject_at_the_higher(tmp_path: Path, kind: type, white: int):
    mask = read_mask(tmp_path, Image.fromarray((SUBJECT * white).astype(kind)))
    assert (mask == SUBJECT).all()


def test_mask_of_one_colour_on_black_is_read(tmp_path: Path):
    red = np.zeros((4, 6, 3), np.uint8)
    red[SUBJECT] = 200, 0, 0
    assert (read_mask(tmp_path, Image.fromarray(red)) == SUBJECT).all()


def test_palette_mask_with_the_label_1_is_read(tmp_path: Path):
    labels = Image.fromarray(SUBJECT.astype(np.uint8), "P")
    labels.putpalette([0, 0, 0, 128, 0, 0])
    assert (read_mask(tmp_path, labels) == SUBJECT).all()


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 96, 0), (255, 32, 32), (230, 25, 75)]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_mask_of_one_colour_with_soft_edges_has_the_subject_at_1(
    tmp_path: Path, colour: tuple[int, int, int], suffix: str
):
    size = (48, 32)
    plane = Image.new("L", (480, 320))
    plane.paste(255, (120, 80, 360, 240))
    soft = np.asarray(plane.resize(size, Image.Resampling.LANCZOS)).astype(np.float32) / 255
    Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "dog.png")
    painted = Image.fromarray((soft[..., None] * np.array(colour)).round().astype(np.uint8))
    painted.save(tmp_path / f"dog_mask.{suffix}", quality=90)
    mask = read_photo(PhotoFile(tmp_path / "dog.png", tmp_path / f"dog_mask.{suffix}")).mask.numpy()
    np.testing.assert_allclose(mask, soft, atol=0.02 if suffix == "png" else 0.35)
    assert mask[16, 24] > 0.97 and mask[0, 0] < 0.1


def test_soft_edges_are_kept(tmp_path: Path):
    soft = Image.fromarray((RAMP * 255).round().astype(np.uint8))
    np.testing.assert_allclose(read_mask(tmp_path, soft), RAMP, atol=0.003)


def test_labels_of_several_colours_are_refused(tmp_path: Path):
    labels = np.zeros((4, 6, 3), np.uint8)
    labels[0], labels[3] = (200, 0, 0), (0, 200, 0)
    with pytest.raises(ValueError, match="dog.mask.png has several colours"):
        read_mask(tmp_path, Image.fromarray(labels))
    labels[0] = 255, 255, 255
    with pytest.raises(ValueError, match="dog.mask.png has several colours"):
        read_mask(tmp_path, Image.fromarray(labels))


def test_grey_mask_is_refused_with_its_brightness(tmp_path: Path):
    grey = Image.fromarray((RAMP * 100).astype(np.uint8))
    with pytest.raises(ValueError, match="dog.mask.png is grey: its brightest value is 39%"):
        read_mask(tmp_path, grey)


def test_black_mask_is_empty(tmp_path: Path):
    assert not read_mask(tmp_path, Image.new("L", (6, 4))).any()
