"""Before the first step: measure what a small pass keeps, and choose passes that fit."""

import logging

import comfy.model_management as model_management

from ..methods.base import Batch
from ..training.loop import Run, Watcher
from ..training.memory import (
    MARGIN,
    Footprint,
    SavedBytes,
    describe_passes,
    make_plan,
    optimiser_bytes,
)
from .checkpointing import observed
from .denoiser import ComfyDenoiser

log = logging.getLogger("detex")


class Preflight(Watcher):
    """Chooses the number of passes a step and gradient checkpointing, and logs that in one line.

    A watcher of the run that comes after the one that puts an earlier state back.
    """

    def __init__(self, denoiser: ComfyDenoiser):
        self.denoiser = denoiser

    def on_start(self, run: Run) -> None:
        photos = run.config.batch_size
        try:
            footprint = measure(run, self.denoiser)
        except RuntimeError as error:
            if not self.denoiser.is_out_of_memory(error):
                raise
            run.passes, self.denoiser.gradient_checkpointing = photos, True
            how = describe_passes(photos, checkpointing=True)
            log.warning("Memory: too little to measure it; each step is computed in %s.", how)
            self.denoiser.free_memory()
            return
        finally:
            run.rewind()
            model_management.soft_empty_cache()
        whole = footprint.bytes_for(photos, checkpointing=False)
        free = self.denoiser.room_for(MARGIN * whole)
        plan = make_plan(footprint, photos, free, least=run.passes)  # a resumed run may know better
        run.passes = plan.passes
        self.denoiser.gradient_checkpointing = plan.checkpointing
        log.log(logging.INFO if plan.fits else logging.WARNING, "%s", plan)


def measure(run: Run, denoiser: ComfyDenoiser) -> Footprint:
    """Bytes of a step, from forward passes of one photo and of two. Draws from the generators."""
    batch = run.method.draw()
    one, two = (count(run, denoiser, first(batch, photos)) for photos in (1, 2))
    return Footprint.through(optimiser_bytes(run.optimisers.values()), one, two)


def first(batch: Batch, photos: int) -> Batch:
    """The first photos of a batch, as many as it has."""
    parts = -(-batch.count // photos)
    return next(iter(batch.split(parts)))[1]


def count(run: Run, denoiser: ComfyDenoiser, batch: Batch) -> SavedBytes:
    """What one forward pass keeps."""
    weights = [patcher.model for patcher in denoiser.in_use]
    saved = SavedBytes(*weights, run.method.learned)
    with saved.counting(), observed(denoiser.unet, saved):
        run.method.losses(batch, run.predict, run.method.turn(run.step))
    return saved
