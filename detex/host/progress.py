"""What the person at the canvas sees of a run: the bar, the live picture, a line of text."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import comfy.model_management as model_management
import comfy.utils
import torch
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..evaluate.live_scores import OBEY, UNTOLD, Judge, best_so_far
from ..photos.photos import Decode
from ..training.live import Bar, Progress, live_picture
from ..training.loop import Run, Watcher
from ..training.steady import SHARE, SteadyLoss
from .sampling import memory_in_use, pixels_of, sample

# The most that pictures may take of the time, 5 % together, so that charts do not starve samples.
SAMPLES, CHARTS = 0.045, 0.005
REDRAW = 1.0  # seconds between two pictures, at least
GUESS = 4  # training steps: what the first sample may cost, before one was timed
EVENT = "detex.text"  # which web/detex.js shows on the node
SEED = 1  # of every sample's noise

log = logging.getLogger("detex")


def say(text: str) -> None:
    """A line in the log, and on the node that runs."""
    log.info(text)
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        server.send_sync(EVENT, {"node": context.node_id, "text": text}, server.client_id)


class Budget:
    """A kind of side work that may take a share of all other work's time, at most."""

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter):
        self.share, self.clock = share, clock
        self.begin, self.spent = clock(), 0.0
        self.last = 0.0  # seconds that it took the last time

    def elapsed(self) -> float:
        return self.clock() - self.begin

    def affords(self, cost: float) -> bool:
        """Whether so many more seconds stay within the share."""
        return self.spent + cost <= self.share * (self.elapsed() - self.spent)

    @contextmanager
    def spend(self) -> Iterator[None]:
        start = self.clock()
        yield
        self.last = self.clock() - start
        self.spent += self.last


class LiveView(Watcher):
    """Moves the node's bar and shows a picture on it; obeys the cancel button at every step.

    preview_every: the least steps between samples; 0: no picture. There are fewer samples where
    they are slow: all pictures together take no more than a twentieth of the time. keep: gets them,
    with their step and by their captions. judge: scores them, within that time.
    """

    def __init__(
        self,
        steps: int,
        preview_every: int,
        decode: Decode,
        keep: Callable[[int, dict[str, Tensor]], object] = lambda step, pictures: None,
        judge: Judge | None = None,
    ):
        self.bar = comfy.utils.ProgressBar(steps)
        self.preview_every, self.decode, self.keep = preview_every, decode, keep
        self.judge = judge
        self.can_sample = True
        self.losses: dict[str, list[float]] = {}
        self.samples: list[tuple[str, Tensor]] = []

    def on_start(self, run: Run) -> None:
        self.sampling, self.drawing, self.measuring = map(Budget, (SAMPLES, CHARTS, SHARE))
        self.drawn = 0.0  # when, in seconds after the start
        self.started_at = self.sampled_at = run.step
        self.bar.update_absolute(run.step)

    def on_step(self, run: Run) -> None:
        image = self.picture(run) if self.preview_every else None
        self.bar.update_absolute(run.step, preview=image and ("JPEG", image, max(image.size)))
        model_management.throw_exception_if_processing_interrupted()

    def picture(self, run: Run) -> Image.Image | None:
        """A new picture, where one is due; the last step's always, since it stays on the node."""
        last = run.step == run.config.steps
        if not last and not self.drawing_is_due():
            return None
        self.read_losses(run)  # waits for the card, so that the times below are of the pictures
        if self.sample_is_due(run):
            with self.sampling.spend():
                self.take_samples(run)
        if last or self.measuring.affords(self.measuring.last or self.seconds_per_step(run)):
            with self.measuring.spend():
                SteadyLoss.measure(run)
        with self.drawing.spend():
            image = live_picture(self.progress(run))
        self.drawn = self.drawing.elapsed()
        return image

    def read_losses(self, run: Run) -> None:
        for name, terms in run.history.items():
            if name == "total":
                continue
            values = self.losses.setdefault(name, [])
            if len(terms) > len(values):
                values += torch.stack(terms[len(values) :]).tolist()

    def drawing_is_due(self) -> bool:
        due = self.drawing.elapsed() - self.drawn >= REDRAW
        return due and self.drawing.affords(self.drawing.last)

    def sample_is_due(self, run: Run) -> bool:
        cost = self.sampling.last or GUESS * self.seconds_per_step(run)
        due = run.step - self.sampled_at >= self.preview_every
        return self.can_sample and due and self.sampling.affords(cost)

    def seconds_per_step(self, run: Run) -> float:
        return self.drawing.elapsed() / max(run.step - self.started_at, 1)

    def take_samples(self, run: Run) -> None:
        """What the method shows of its words, and its scores. Where the card is full for one of
        them, no more of it.
        """
        self.sampled_at = run.step
        shown = unless_full(run, self.samples_of)
        if shown is None:
            self.can_sample = False
            return
        self.samples = [(f"{words}   step {run.step}", one) for words, one in shown.items()]
        self.keep(run.step, shown)
        scores = unless_full(run, partial(self.scores_of, shown))
        if scores is None:
            self.judge = None
        elif scores:
            run.scores[run.step] = scores

    def samples_of(self, run: Run) -> dict[str, Tensor]:
        """Pictures by their captions."""
        method = run.method
        denoiser: Any = run.denoiser  # a ComfyDenoiser
        with run.averaged():
            conds = method.samples()
            latents = sample(denoiser, conds, method.photos.latents.shape[-3:], SEED)
        pictures = pixels_of(latents, denoiser.patcher, self.decode)
        return dict(zip(filter(None, conds), pictures, strict=True))

    def scores_of(self, shown: Mapping[str, Tensor], run: Run) -> dict[str, float]:
        """Those of full size: the coarse pictures that stand in for the VAE's tell nothing."""
        side = run.method.photos.resolution
        if self.judge is None or any(len(picture) < side for picture in shown.values()):
            return {}
        return self.judge.scores(shown)

    def progress(self, run: Run) -> Progress:
        return Progress(
            step=run.step,
            steps=run.config.steps,
            seconds_per_step=self.seconds_per_step(run),
            memory=memory_in_use(run.denoiser.device),
            losses=self.losses,
            steady=run.steady,
            samples=self.samples,
            bars=bars_of(run.scores),
            verdict=best_so_far(run.scores),
            note=f"{run.passes} passes" if run.passes > 1 else "",
        )


T = TypeVar("T")


def unless_full(run: Run, work: Callable[[Run], T]) -> T | None:
    """What the work gives; None where the card is full for it."""
    try:
        return work(run)
    except RuntimeError as error:
        if not run.denoiser.is_out_of_memory(error):
            raise
    run.denoiser.free_memory()  # here, where no traceback holds the tensors
    return None


def bars_of(scores: Mapping[int, Mapping[str, float]]) -> list[Bar]:
    """The latest samples' scores, beside the highest so far."""
    if not scores:
        return []
    latest = scores[max(scores)]
    bars = [
        Bar(name, value, max(s.get(name, value) for s in scores.values()))
        for name, value in latest.items()
    ]
    return bars if OBEY in latest else [*bars, Bar(UNTOLD)]
