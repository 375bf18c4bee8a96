"""The exact reader and the judge's examination, on renders whose truth is known."""

import pytest
import torch

from detex_pack.benchmarks import reader
from detex_pack.benchmarks.calibration import agreement, calibration_error, examine
from detex_pack.detex.toys.render import render
from detex_pack.detex.toys.world import any_scenes
from detex_pack.pretraining.judge import degrade


@pytest.fixture(scope="module")
def scenes():
    return any_scenes(60, torch.Generator().manual_seed(8))


def test_the_reader_reads_renders_without_a_network(scenes):
    seen = reader.read(render(scenes)[0])
    for name in reader.FACTORS:
        right = (seen[name] == getattr(scenes, name)).float().mean()
        assert right >= 0.95, name


def test_the_reader_bears_blur_noise_and_colour_shifts(scenes):
    worse = degrade(render(scenes)[0], torch.Generator().manual_seed(1))
    seen = reader.read(worse)
    for name in reader.FACTORS:
        assert (seen[name] == getattr(scenes, name)).float().mean() >= 0.9, name


def test_plain_backgrounds_are_told_from_the_worlds(scenes):
    images, masks = render(scenes)
    assert not reader.plain_background(images).any()
    blanked = images * masks[..., None] + 0.7 * (1 - masks[..., None])
    assert reader.plain_background(blanked).float().mean() > 0.9


def test_judge_and_reader_agree_on_renders(scenes):
    figures = examine(render(scenes)[0], scenes)
    assert set(reader.FACTORS) < set(figures)
    for name in reader.FACTORS:
        assert figures[name]["both agree"] >= 0.9, name
        assert figures[name]["calibration error"] < 0.05, name


def test_calibration_error_by_hand():
    """Two bins: 0.95 sure and always right (gap 0.05), 0.65 sure and right half the time (0.15)."""
    confidence = torch.tensor([0.95, 0.95, 0.65, 0.65])
    right = torch.tensor([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)


def test_agreement_counts_pictures_of_all_cells():
    same = {name: "01" for name in reader.FACTORS}
    one = {"judge": same, "reader": same}
    other = {"judge": same, "reader": same | {"main": "10"}}
    assert agreement([one, other])["main"] == pytest.approx(0.5)
    assert agreement([one, other])["shape"] == 1
