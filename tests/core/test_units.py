"""Amounts as a person would say them."""

import pytest

from detex_pack.detex.canvas.units import duration, gigabytes, in_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45, "45 s"),
        (89, "89 s"),
        (200, "3 min"),
        (720, "12 min"),
        (4020, "1 h 07 min"),
        (4800, "1 h 20 min"),
        (7199, "2 h 00 min"),
    ],
)
def test_durations_are_words(seconds: float, text: str):
    assert duration(seconds) == text


def test_bytes_are_gigabytes_of_1024_cubed():
    assert gigabytes(6.1 * 2**30) == "6.1 GB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0213, "0.021 s"), (0.2, "0.2 s"), (9.87, "9.9 s"), (10.4, "10 s"), (240, "240 s")],
)
def test_a_step_takes_seconds_of_two_digits_or_whole_ones(seconds: float, text: str):
    assert in_seconds(seconds) == text
