"""Training where the graphics memory is too small for a whole batch."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import comfy.sd
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.runs import ResumeStore, runs_folder
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Losses, Run, Watcher

Train = Callable[..., tuple[Concept, Losses]]


class Passes(Watcher):
    """Computes each step in that many passes, and keeps how many there were at the end."""

    def __init__(self, forced: int | None = None):
        self.forced, self.used = forced, 0

    def on_start(self, run: Run) -> None:
        run.passes = self.forced or run.passes

    def on_step(self, run: Run) -> None:
        self.used = run.passes


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """card(rows): a denoiser that has memory for so many rows in a training pass, no more."""
    predict = ComfyDenoiser.predict

    def fit(rows: int) -> None:
        def limited(self, noisy: Tensor, *rest) -> Tensor:
            if len(noisy) > rows and torch.is_grad_enabled():
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            return predict(self, noisy, *rest)

        monkeypatch.setattr(ComfyDenoiser, "predict", limited)

    return fit


@pytest.fixture(scope="module")
def method(
    model: ModelPatcher, clip: comfy.sd.CLIP, subject: Photos, prior_latents: Tensor
) -> Iterator[Detex]:
    with training_session(model, clip, (4, 4, 8, 8)) as session:
        config = TrainConfig(batch_size=5)
        yield Detex(subject, prior_latents, DetexConfig(), config, *session)


def test_parts_of_a_batch_hold_each_photo_with_its_prior_image_once(method: Detex):
    batch = method.draw()  # five photos, five prior images
    shares, parts = zip(*batch.split(2), strict=True)
    assert shares == (3 / 5, 2 / 5)
    assert [part.count for part in parts] == [3, 2]
    for part, rows in zip(parts, ([0, 1, 2, 5, 6, 7], [3, 4, 8, 9]), strict=True):
        for name in ("latents", "noise", "timesteps", "valid", "size_ids"):
            assert torch.equal(getattr(part, name), getattr(batch, name)[rows]), name
        photos = rows[: part.count]
        for name in ("photos", "masks", "blanked"):
            assert torch.equal(getattr(part, name), getattr(batch, name)[photos]), name
        assert part.prompts == tuple(batch.prompts[i] for i in photos)


@pytest.mark.parametrize("passes", [2, 3, 4])
def test_several_passes_learn_what_one_pass_learns(train: Train, passes: int):
    # where a gradient is nothing but rounding Adam moves by its sign; with this seed there is none
    one, losses = train(None, Passes(1), steps=4, batch_size=4, seed=1)
    many, again = train(None, Passes(passes), steps=4, batch_size=4, seed=1)
    for name, values in losses.terms.items():
        torch.testing.assert_close(again.terms[name], values, rtol=1e-4, atol=1e-6)
    for name, delta in one.deltas.items():
        torch.testing.assert_close(many.deltas[name], delta, rtol=2e-2, atol=2e-4)
    assert not torch.equal(one.deltas[name], many.deltas[name])  # it was computed another way


def test_full_card_computes_the_step_again_in_more_passes(
    train: Train, card: Callable, caplog: pytest.LogCaptureFixture
):
    card(4)  # two photos with their prior images: half a batch
    passes = Passes()
    with caplog.at_level(logging.WARNING, "detex"):
        concept, _ = train(None, passes, steps=3, batch_size=4)
    assert passes.used == 2
    assert caplog.text.count("Out of graphics memory: from step 1 on") == 1
    forced, _ = train(None, Passes(2), steps=3, batch_size=4)
    # the same random numbers were used
    assert concept_bytes(concept) == concept_bytes(forced)


def test_passes_shrink_to_one_photo_with_its_prior_image(train: Train, card: Callable):
    card(2)
    passes = Passes()
    train(None, passes, steps=2, batch_size=3)
    assert passes.used == 3


def test_card_too_small_for_one_photo_ends_with_what_to_do(train: Train, card: Callable):
    card(1)
    said = "one photo at a time and 32 pixels. Lower the resolution .* or set lambda_pr to 0"
    with pytest.raises(torch.cuda.OutOfMemoryError, match=said):
        train(steps=2)


def test_full_card_in_the_middle_keeps_the_state_and_names_its_step(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: Callable
):
    class Fills(Watcher):
        def on_step(self, run: Run) -> None:
            if run.step == 3:
                card(0)

    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    with pytest.raises(torch.cuda.OutOfMemoryError, match="Step 3 is kept: set steps to 3"):
        train(None, Fills(), steps=6, store=ResumeStore(50))
    assert [path.name for path in runs_folder().rglob("*.safetensors")] == [
        "step_000003.safetensors"
    ]


def test_other_errors_of_the_card_are_not_taken_for_a_full_one(
    train: Train, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_args) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return torch.zeros(3, 4, 8, 8)

    monkeypatch.setattr(ComfyDenoiser, "predict", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(CustomDiffusionConfig(), steps=2)


def test_resumed_run_keeps_the_number_of_passes(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Stop(Passes):
        def on_step(self, run: Run) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        train(None, Stop(2), steps=4, store=ResumeStore(1))
    passes = Passes()
    train(None, passes, steps=4, store=ResumeStore(1))
    assert passes.used == 2
