"""The live picture: its words, its curves, its size."""

import numpy as np
import pytest
import torch

from detex_pack.detex.training.live import LINES, Bar, Progress, live_picture, smooth, status

LOSSES = {"diffusion": [1.0, 0.5, 0.25, 0.2], "prior": [0.3, 0.3, 0.3, 0.3]}


def progress(**changes) -> Progress:
    settings = {"step": 4, "steps": 10, "seconds_per_step": 0.5, "memory": "2.0 GB"}
    return Progress(**({**settings, "losses": LOSSES} | changes))


def test_status_names_step_speed_time_left_and_memory():
    # 6 steps of half a second are left
    assert status(progress()).split("   ") == ["step 4 of 10", "0.5 s/step", "3 s left", "2.0 GB"]


def test_status_says_when_a_step_takes_several_passes():
    assert status(progress(note="2 passes")).endswith("2 passes")


def test_smoothing_takes_the_mean_of_the_last_values():
    assert smooth([4.0, 2.0, 0.0], 2) == [4.0, 3.0, 1.0]


def colours(picture) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def test_each_loss_has_a_line_of_its_own_colour():
    found = colours(live_picture(progress()))
    assert {LINES[0], LINES[1]} <= found and LINES[2] not in found


def test_curve_fills_as_much_of_the_chart_as_steps_are_done():
    def reach(step: int) -> int:
        losses = {"diffusion": [1.0 / (i + 1) for i in range(step)]}
        picture = live_picture(progress(step=step, steps=100, losses=losses))
        chart = np.asarray(picture)[70:220]
        return int(np.argwhere((chart == LINES[0]).all(-1))[:, 1].max())

    # the chart's line runs from x = 12 to x = 500 of 512
    assert reach(50) == pytest.approx(12 + 49 / 99 * 488, abs=5)
    assert reach(100) == pytest.approx(500, abs=5)


def test_picture_without_samples_is_the_chart_alone():
    alone = live_picture(progress())
    samples = [("[V]   step 4", torch.ones(8, 8, 3)), ("[V] + [P1]", torch.zeros(8, 8, 3))]
    with_samples = live_picture(progress(samples=samples))
    assert alone.width == with_samples.width == 512
    assert alone.height < 256 < with_samples.height < 540


def test_a_bar_is_as_long_as_its_share_of_the_highest_so_far():
    alone = live_picture(progress())
    bars = [Bar("looks like it", 0.3, 0.6), Bar("obeys the prompt", 0.25, 0.25)]
    shown = live_picture(progress(bars=bars, verdict="Best so far: step 300."))
    assert shown.height > alone.height
    row = np.asarray(shown)[alone.height + 30]  # through both; a bar has half of 512 pixels
    lengths = [int((row == colour).all(-1).sum()) for colour in LINES[:2]]
    assert lengths == [pytest.approx(124, abs=2), pytest.approx(247, abs=2)]


def test_a_score_that_is_not_there_has_a_name_and_no_bar():
    shown = live_picture(progress(bars=[Bar("looks like it", 0.3, 0.6), Bar("obeys: unknown")]))
    row = np.asarray(shown)[live_picture(progress()).height + 30]
    assert not (row == LINES[1]).all(-1).any()


def test_samples_stand_side_by_side():
    samples = [("left", torch.ones(8, 8, 3)), ("right", torch.tensor([1.0, 0, 0]).expand(8, 8, 3))]
    pixels = np.asarray(live_picture(progress(samples=samples)))
    assert pixels[-60, 130].tolist() == [255, 255, 255]
    assert pixels[-60, 380].tolist() == [255, 0, 0]


def test_the_last_digit_of_a_long_caption_is_seen_over_three_samples():
    def drawn(step: int) -> bytes:
        captions = ["[V]", "[V] in water", f"[V] + [P1] + [B1]   step {step}"]
        samples = [(caption, torch.zeros(8, 8, 3)) for caption in captions]
        return live_picture(progress(samples=samples)).tobytes()

    assert drawn(1000) != drawn(1001)


def test_first_step_can_be_drawn():
    losses = {"diffusion": [0.5]}
    assert live_picture(progress(step=1, losses=losses, seconds_per_step=0.0)).width == 512


@pytest.mark.parametrize(
    ("count", "places"),
    [(3, [(80, 0), (250, 0), (420, 0)]), (4, [(130, 1), (380, 1), (130, 0), (380, 0)])],
)
def test_three_samples_stand_in_a_row_and_four_in_two(count: int, places: list):
    """places: (column in pixels, rows of samples below) of a point within each."""
    greys = [0.2 * (i + 1) for i in range(count)]
    samples = [(f"[V{i}]", torch.full((8, 8, 3), grey)) for i, grey in enumerate(greys)]
    pixels = np.asarray(live_picture(progress(samples=samples)))
    side = (512 - (count % 2 + 3) * 6) // (count % 2 + 2)  # three columns, or two
    for grey, (x, rows) in zip(greys, places, strict=True):
        assert pixels[-60 - rows * (side + 34), x, 0] == pytest.approx(255 * grey, abs=1)


def test_legend_of_four_terms_and_the_steady_loss_fits_the_width():
    losses = {name: [0.123] * 4 for name in ("diffusion", "prior", "bind", "separate")}
    picture = np.asarray(live_picture(progress(losses=losses, steady={0: 0.2, 4: 0.1})))
    assert (picture[36:60, -4:] == picture[36, -1]).all()  # nothing runs off the right edge


def test_caption_wider_than_its_sample_is_cut():
    long = "[V] + [V2] + [V3] + [V4] + [V5]   step 20000"
    samples = [(long, torch.zeros(8, 8, 3))] * 3
    pixels = np.asarray(live_picture(progress(samples=samples)))
    captions = pixels[-160 - 34 : -160 - 6]  # above the pictures of a side of (512 - 4 x 6) / 3
    between = captions[:, 6 + 162 + 1 : 2 * 6 + 162 - 1]
    assert (between == pixels[2, 2]).all() and (captions[:, 6:168] != pixels[2, 2]).any()
