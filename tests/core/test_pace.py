"""How long the rest takes: measured, said once, and only where it is worth saying."""

from types import SimpleNamespace
from typing import cast

import torch

from detex_pack.detex.training.loop import Run
from detex_pack.detex.training.pace import Pace, TimeLeft


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def said_of(seconds: list[float], of_all: int, warm_up: int = 1, measured: int = 3) -> list[str]:
    """What is said of pieces that take so long, one after the other."""
    said, clock = [], Clock()
    pace = Pace("steps", said.append, warm_up, measured, clock)
    for count, passed in enumerate(seconds, start=1):
        clock.now += passed
        pace.done(count, of_all)
    return said


def test_the_rest_is_told_from_the_median_of_the_steps_after_the_first_ones():
    # 5 of 600 steps are done; of 0.2, 0.2 and 3 s, a picture among them, 0.2 s is the median
    assert said_of([60, 9, 0.2, 3, 0.2], 600) == [
        "After the first 5: 595 steps at 0.2 s, about 2 min"
    ]


def test_nothing_is_told_before_it_is_measured_and_nothing_twice():
    assert said_of([1] * 4, 600) == []
    assert len(said_of([1] * 50, 600)) == 1


def test_a_run_that_is_nearly_over_says_nothing():
    assert said_of([1] * 6, 6) == []
    assert said_of([1] * 7, 7) == ["After the first 5: 2 steps at 1 s, about 2 s"]


def test_pieces_that_come_in_batches_are_timed_each():
    said, clock = [], Clock()
    pace = Pace("pictures", said.append, 0, 1, clock)
    for count in (10, 14):  # 6 were found on disk; each batch of 4 takes 6 s
        clock.now += 6
        pace.done(count, 50)
    assert said == ["After the first 14: 36 pictures at 1.5 s, about 54 s"]


def test_a_training_says_how_long_its_steps_to_come_take():
    said, clock = [], Clock()
    left = TimeLeft(said.append, clock)
    for step in range(351, 360):  # resumed
        clock.now += 2
        loss = {"total": [torch.zeros(())] * step}
        run = SimpleNamespace(step=step, history=loss, config=SimpleNamespace(steps=380))
        left.on_step(cast(Run, run))
    assert said == ["After the first 355: 25 steps at 2 s, about 50 s"]
