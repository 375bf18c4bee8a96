"""Gradient checkpointing and the choice before the first step."""

import logging
from collections.abc import Callable, Iterator

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.preflight import count, first, measure
from detex_pack.detex.methods.base import Batch
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Losses, Run, Watcher
from detex_pack.detex.training.memory import optimiser_bytes

Train = Callable[..., tuple[Concept, Losses]]


@pytest.fixture
def run(
    model: ModelPatcher, clip: comfy.sd.CLIP, subject: Photos, prior_latents: Tensor
) -> Iterator[Run]:
    with training_session(model, clip, (4, 4, 8, 8)) as (denoiser, text):
        config = TrainConfig(batch_size=3)
        method = Detex(subject, prior_latents, DetexConfig(), config, denoiser, text)
        run = Run(method, denoiser, config)
        with method.insert(denoiser):
            yield run


def terms_of(run: Run, batch: Batch) -> dict[str, Tensor]:
    return run.method.losses(batch, run.predict, run.method.turn(run.step))


def gradients_of(run: Run, *, checkpointing: bool) -> list[Tensor]:
    run.denoiser.gradient_checkpointing = checkpointing
    sum(terms_of(run, run.method.draw()).values()).backward()
    found = [p.grad.clone() for p in run.method.learned.parameters()]
    run.rewind()
    return found


def test_gradients_are_the_same_to_the_bit(run: Run):
    with torch.no_grad():
        for delta in run.method.deltas.parameters():
            delta.normal_(std=0.05)
    plain = gradients_of(run, checkpointing=False)
    again = gradients_of(run, checkpointing=True)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert all(bool(one.any()) for one in plain)


def test_forward_passes_without_gradient_compute_nothing_twice(run: Run):
    calls: list[int] = []
    block = run.denoiser.unet.middle_block[0]
    block.in_layers.register_forward_hook(lambda *_: calls.append(1))
    run.denoiser.gradient_checkpointing = True
    with torch.no_grad():
        terms_of(run, run.method.draw())
    assert len(calls) == 1
    sum(terms_of(run, run.method.draw()).values()).backward()
    assert len(calls) == 3


def test_the_unet_is_as_it_was_afterwards(run: Run):
    gradients_of(run, checkpointing=True)
    assert not any("forward" in vars(module) for module in run.denoiser.unet.modules())


def test_less_than_half_is_kept_with_checkpointing(run: Run):
    found = count(run, run.denoiser, run.method.draw())
    assert 0 < found.checkpointed < found.kept / 2


def test_memory_grows_by_the_same_for_each_photo(run: Run):
    footprint = measure(run, run.denoiser)
    run.rewind()
    three = count(run, run.denoiser, run.method.draw())
    assert footprint.plain.at(3) == pytest.approx(three.kept, rel=0.05)
    assert footprint.checkpointed.at(3) == pytest.approx(three.checkpointed, rel=0.05)
    assert footprint.fixed == optimiser_bytes(run.optimisers.values())


def test_first_photos_of_a_draw(run: Run):
    drawn = run.method.draw()
    assert [first(drawn, photos).count for photos in (1, 2, 3)] == [1, 2, 3]


class Ways(Watcher):
    """How the last step was computed; in at least that many `passes`."""

    def __init__(self, passes: int = 1):
        self.passes = passes

    def on_start(self, run: Run) -> None:
        run.passes = self.passes

    def on_step(self, run: Run) -> None:
        self.used = (run.passes, run.denoiser.gradient_checkpointing)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def free(count: float) -> None:
        monkeypatch.setattr(ComfyDenoiser, "room_for", lambda *_: count)

    return free


def test_plenty_of_memory_is_used_and_told_of(train: Train, caplog: pytest.LogCaptureFixture):
    ways = Ways()
    with caplog.at_level(logging.INFO, "detex"):
        train(None, ways)
    assert ways.used == (1, False)
    assert caplog.text.count("Memory: about 0.0 GB for each step in one pass;") == 1


def test_little_memory_turns_checkpointing_on_and_learns_the_same(
    train: Train, room: Callable, caplog: pytest.LogCaptureFixture
):
    plain, ways = train(None, Ways(2), steps=3)[0], Ways()
    room(0)
    with caplog.at_level(logging.WARNING, "detex"):
        small = train(None, ways, steps=3)[0]
    assert ways.used == (2, True)
    assert "That may not be enough" in caplog.text
    assert concept_bytes(small) == concept_bytes(plain)


@pytest.fixture
def small_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, no pass of more than one row fits without gradient checkpointing."""
    predict = ComfyDenoiser.predict

    def limited(self, noisy: Tensor, *rest) -> Tensor:
        if torch.is_grad_enabled() and not self.gradient_checkpointing and len(noisy) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return predict(self, noisy, *rest)

    return lambda: monkeypatch.setattr(ComfyDenoiser, "predict", limited)


def test_full_card_turns_checkpointing_on_where_a_pass_has_one_photo(
    train: Train, small_card: Callable, caplog: pytest.LogCaptureFixture
):
    class FillsUp(Ways):
        def on_step(self, run: Run) -> None:
            super().on_step(run)
            small_card()

    plain, ways = train(steps=3, batch_size=1)[0], FillsUp()
    with caplog.at_level(logging.WARNING, "detex"):
        small = train(None, ways, steps=3, batch_size=1)[0]
    assert ways.used == (1, True)
    assert caplog.text.count("from step 2 on, each step is computed in one pass with grad") == 1
    assert concept_bytes(small) == concept_bytes(plain)


def test_card_too_full_to_measure_takes_the_least_from_the_start(
    train: Train, small_card: Callable, caplog: pytest.LogCaptureFixture
):
    small_card()
    ways = Ways()
    with caplog.at_level(logging.WARNING, "detex"):
        train(None, ways)
    assert ways.used == (2, True)
    assert "too little to measure it; each step is computed in 2 passes with grad" in caplog.text


def test_room_is_what_the_device_has_free(run: Run, monkeypatch: pytest.MonkeyPatch):
    asked: list[torch.device] = []

    def free(device: torch.device) -> int:
        asked.append(device)
        return 12345

    monkeypatch.setattr(comfy.model_management, "get_free_memory", free)
    assert run.denoiser.room_for(1.0) == 12345
    assert asked == [run.denoiser.patcher.load_device]


def test_measuring_keeps_nothing(run: Run):
    drawn = run.method.draw()
    with pytest.raises(RuntimeError, match="has no backward pass"):
        saved = count(run, run.denoiser, drawn)
        with saved.counting():
            terms = terms_of(run, drawn)
        sum(terms.values()).backward()
