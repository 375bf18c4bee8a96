"""Runs that are stopped and gone on with, and concepts that are found again."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import comfy.model_management as model_management
import comfy.sd
import comfy.supported_models
import folder_paths
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from detex_pack.detex.concept.file import Concept, concept_bytes
from detex_pack.detex.host import runs
from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.runs import ResumeStore, run_key, runs_folder
from detex_pack.detex.methods import method_of
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.prompt.grammar import Named
from detex_pack.detex.prompt.words import Attributes
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Losses, Run, Watcher

Train = Callable[..., tuple[Concept, Losses]]
Cancel = model_management.InterruptProcessingException
STEPS = 6


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return tmp_path


def files() -> list[str]:
    return sorted(path.name for path in runs_folder().rglob("*") if path.is_file())


class StopAfter(Watcher):
    """Raises `error` after a step, and keeps the numbers of all steps that were made."""

    def __init__(self, step: int, error: BaseException | None = None):
        self.step, self.error = step, error or Cancel()
        self.steps: list[int] = []

    def on_step(self, run: Run) -> None:
        self.steps.append(run.step)
        if run.step == self.step:
            raise self.error


def stopped(
    train: Train, step: int, every: int = 2, error: BaseException | None = None, **settings
):
    """Train until the error after `step`; -> the store."""
    stop = StopAfter(step, error)
    store = ResumeStore(every)
    with pytest.raises(type(stop.error)) as caught:
        train(settings.pop("config", None), stop, store=store, **({"steps": STEPS} | settings))
    if isinstance(stop.error, Cancel):
        assert caught.value is stop.error
    return store


def resumed(train: Train, *, start_over: bool = False, **settings):
    """Train to the end -> concept, the numbers of the steps that were made, store."""
    watch, store = StopAfter(-1), ResumeStore(2, start_over=start_over)
    config = settings.pop("config", None)
    concept, _ = train(config, watch, store=store, **({"steps": STEPS} | settings))
    return concept, watch.steps, store


CONFIGS = DetexConfig(), DetexConfig(attributes=Attributes.VECTORS), CustomDiffusionConfig()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("step", [1, 4])
def test_cancelled_run_goes_on_to_the_bytes_of_an_uninterrupted_one(
    train: Train, config: object, step: int
):
    whole = concept_bytes(train(config, steps=STEPS)[0])
    stopped(train, step, config=config)
    concept, steps, _ = resumed(train, config=config)
    assert steps == list(range(step + 1, STEPS + 1))
    assert concept_bytes(concept) == whole


def test_run_stopped_after_every_single_step_ends_with_the_same_bytes(train: Train):
    whole = concept_bytes(train(steps=STEPS)[0])
    for step in range(1, STEPS):
        stopped(train, step)
    assert concept_bytes(resumed(train)[0]) == whole


def test_cancel_inside_a_step_keeps_the_state_before_it(
    train: Train, monkeypatch: pytest.MonkeyPatch
):
    whole = concept_bytes(train(steps=STEPS)[0])
    calls, predict = [], ComfyDenoiser.predict

    def cancelled_at_the_fifth(self, *args):
        calls.append(1)
        if len(calls) == 6 + 2 + 16 + 5:  # six score maps, two measure memory, 16 the steady loss
            raise Cancel
        return predict(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Cancel):
        patch.setattr(ComfyDenoiser, "predict", cancelled_at_the_fifth)
        train(steps=STEPS, store=ResumeStore(every=0))
    assert files() == ["step_000004.safetensors"]
    concept, steps, _ = resumed(train)
    assert steps == [5, 6]
    assert concept_bytes(concept) == whole


def test_losses_of_a_resumed_run_are_those_of_the_whole_run(train: Train):
    _, whole = train(steps=STEPS)
    stopped(train, 3)
    _, losses = train(steps=STEPS, store=ResumeStore(2))
    assert losses == whole and list(losses.terms) == list(whole.terms)


def test_crash_goes_on_from_the_last_snapshot(train: Train):
    whole = concept_bytes(train(steps=STEPS)[0])
    stopped(train, 5, error=KeyError("a bug"))
    concept, steps, _ = resumed(train)
    assert steps == [5, 6]  # the snapshots are those of 2 and 4
    assert concept_bytes(concept) == whole


def test_snapshots_come_every_so_many_steps_and_the_last_two_stay(train: Train):
    stopped(train, 8, steps=20, error=KeyError())
    assert files() == ["step_000006.safetensors", "step_000008.safetensors"]


def test_finished_run_leaves_its_concept_its_losses_and_its_last_state(train: Train):
    concept, *_ = resumed(train)
    assert files() == [
        "finished_000006.json",
        "finished_000006.safetensors",
        "step_000006.safetensors",
    ]
    (path,) = runs_folder().rglob("finished_*.safetensors")
    assert path.read_bytes() == concept_bytes(concept)


def test_finished_concept_is_found_and_not_trained_again(train: Train):
    first, losses = train(steps=STEPS, store=ResumeStore(2))
    watch, store = StopAfter(-1), ResumeStore(2)
    second, again = train(None, watch, steps=STEPS, store=store)
    assert watch.steps == []
    assert concept_bytes(second) == concept_bytes(first) and again == losses
    assert "Found on disk, not trained again" in store.note
    assert "another seed" in store.note and "start over" in store.note


class Filming(Watcher):
    """Gives the store a picture after each step, as the live view does; its grey is the step."""

    def __init__(self, store: ResumeStore):
        self.store = store

    def on_step(self, run: Run) -> None:
        picture = torch.full((4, 4, 3), run.step / 255)
        self.store.keep_samples(run.step, {"[V]": picture, "[V] in water": picture})


def filmed(store: ResumeStore) -> dict[int, list[tuple[str, int]]]:
    """Step -> captions and greys, in their order."""
    return {
        step: [(words, int(image[0, 0, 0])) for words, image in shown.items()]
        for step, shown in store.samples.items()
    }


def film(train: Train, **settings) -> ResumeStore:
    store = ResumeStore(2, start_over=settings.pop("start_over", False))
    train(None, Filming(store), store=store, **settings)
    return store


def frames(*steps: int) -> dict[int, list[tuple[str, int]]]:
    return {step: [("[V]", step), ("[V] in water", step)] for step in steps}


def test_samples_of_a_finished_or_shorter_training_are_found_again(train: Train):
    assert filmed(film(train, steps=2)) == frames(1, 2)
    assert filmed(film(train, steps=2)) == frames(1, 2)  # found on disk, nothing is trained
    assert filmed(film(train, steps=4)) == frames(1, 2, 3, 4)
    assert filmed(film(train, steps=2)) == frames(1, 2)  # not those of later steps
    assert filmed(film(train, steps=2, start_over=True)) == frames(1, 2)
    assert "samples_000004.safetensors" not in files()


def test_damaged_samples_are_left_out(train: Train):
    film(train, steps=2)
    next(runs_folder().rglob("samples_000001.safetensors")).write_bytes(b"no tensors")
    assert filmed(film(train, steps=2)) == frames(2)


def test_start_over_forgets_what_is_on_disk(train: Train):
    stopped(train, 3)
    _, steps, store = resumed(train, start_over=True)
    assert steps == [1, 2, 3, 4, 5, 6] and store.note == ""
    assert resumed(train, start_over=True)[1] == steps  # a finished one too


def test_start_over_trains_anew_where_the_old_files_cannot_be_deleted(
    train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    resumed(train)

    def refuse(*_args, **_more) -> None:
        raise PermissionError("the file is open in another program")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING, "detex"):
        _, steps, store = resumed(train, start_over=True)
    assert steps == [1, 2, 3, 4, 5, 6] and store.note == ""
    assert "The training cannot be kept in" in caplog.text


def test_other_files_among_the_snapshots_do_no_harm(train: Train):
    stopped(train, 3)
    snapshot = next(runs_folder().rglob("step_000003.safetensors"))
    shutil.copy(snapshot, snapshot.with_name("step_000003 - Copy.safetensors"))
    _, steps, store = resumed(train)
    assert steps == [4, 5, 6] and store.note == "Continued after step 3."


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux shows which files are held")
def test_what_was_read_holds_no_file(train: Train):
    stopped(train, 3)
    resumed(train)  # from a snapshot
    concept = resumed(train)[0]  # from the finished concept
    assert concept.deltas
    assert str(runs_folder()) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_fewer_steps_use_what_was_learned_by_then(train: Train):
    short = concept_bytes(train(steps=3)[0])
    store = stopped(train, 3)
    assert store.remedy() == "Step 3 is kept: set steps to 3 to use what was learned by then."
    concept, steps, _ = resumed(train, steps=3)
    assert steps == []  # the snapshot of the cancel is all that it takes
    assert concept_bytes(concept) == short


def test_more_steps_go_on_where_a_finished_run_ended(train: Train):
    whole = concept_bytes(train(steps=9)[0])
    resumed(train)
    concept, steps, store = resumed(train, steps=9)
    assert steps == [7, 8, 9] and store.note == "Continued after step 6."
    assert concept_bytes(concept) == whole


def test_damaged_snapshot_gives_way_to_the_one_before(
    train: Train, caplog: pytest.LogCaptureFixture
):
    whole = concept_bytes(train(steps=STEPS)[0])
    stopped(train, 4, error=KeyError())
    latest = next(runs_folder().rglob("step_000004.safetensors"))
    latest.write_bytes(latest.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, "detex"):
        concept, steps, _ = resumed(train)
    assert steps == [3, 4, 5, 6] and "Snapshot skipped" in caplog.text
    assert concept_bytes(concept) == whole


@pytest.mark.parametrize("change", ["another shape", "missing"])
def test_snapshot_that_does_not_fit_gives_way_to_the_one_before(
    train: Train, caplog: pytest.LogCaptureFixture, change: str
):
    whole = concept_bytes(train(steps=STEPS)[0])
    stopped(train, 4, error=KeyError())
    latest = next(runs_folder().rglob("step_000004.safetensors"))
    tensors = {name: 1 + tensor for name, tensor in load_file(latest).items()}
    name = max(name for name in tensors if name.startswith("learned."))
    tensors[name] = tensors[name].repeat(2)
    if change == "missing":
        del tensors[name]
    with safe_open(latest, framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, latest, metadata)
    with caplog.at_level(logging.WARNING, "detex"):
        concept, steps, _ = resumed(train)
    assert steps == [3, 4, 5, 6]
    assert "Snapshot skipped: The snapshot of step 4 does not fit this training" in caplog.text
    assert concept_bytes(concept) == whole


def test_damaged_finished_concept_is_trained_again(train: Train):
    whole = concept_bytes(resumed(train)[0])
    (path,) = runs_folder().rglob("finished_*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    assert concept_bytes(resumed(train)[0]) == whole
    assert path.read_bytes() == whole


def test_half_written_files_of_a_crash_are_cleared_away(train: Train):
    stopped(train, 2)
    (folder,) = runs_folder().iterdir()
    (folder / ".step_000004.safetensors.123.part").write_bytes(b"half")
    resumed(train)
    assert not [name for name in files() if name.endswith(".part")]


def test_disk_that_cannot_be_written_to_does_not_end_the_training(
    train: Train, user_folder: Path, caplog: pytest.LogCaptureFixture
):
    (user_folder / "__detex").write_bytes(b"a file where the folder should be")
    with caplog.at_level(logging.WARNING, "detex"):
        concept, steps, store = resumed(train)
    assert len(steps) == STEPS and concept.deltas
    assert caplog.text.count("The training cannot be kept in") == 1
    assert store.note == f"The training cannot be kept in {runs_folder()}: save the concept."


def test_cancel_that_kept_nothing_does_not_promise_to_go_on(train: Train, user_folder: Path):
    (user_folder / "__detex").write_bytes(b"a file where the folder should be")
    said: list[str] = []
    with pytest.raises(Cancel):
        train(None, StopAfter(3), steps=STEPS, store=ResumeStore(2, say=said.append))
    assert said == ["Stopped after step 3 of 6. Nothing of it is kept on disk."]


def test_loss_that_is_no_number_leaves_the_good_state_and_names_its_step(
    train: Train, monkeypatch: pytest.MonkeyPatch
):
    broken = Detex.losses

    def breaks_in_step_nine(self, *args):
        terms = broken(self, *args)
        self.made = getattr(self, "made", 0) + 1
        factor = torch.nan if self.made == 2 + 16 + 9 else 1  # memory, and the steady loss
        return {name: factor * term for name, term in terms.items()}

    said = r"at step 10\..* Step 8 is kept: set steps to 8"
    with monkeypatch.context() as patch, pytest.raises(FloatingPointError, match=said):
        patch.setattr(Detex, "losses", breaks_in_step_nine)
        train(steps=20, store=ResumeStore(4))
    assert files() == ["step_000004.safetensors", "step_000008.safetensors"]
    concept, steps, _ = resumed(train, steps=8)
    assert steps == []
    assert all(delta.isfinite().all() for delta in concept.deltas.values())


def test_snapshot_with_a_weight_that_is_no_number_is_not_written(
    train: Train, monkeypatch: pytest.MonkeyPatch
):
    class Spoil(Watcher):
        def on_step(self, run: Run) -> None:
            if run.step == 3:
                with torch.no_grad():
                    next(run.method.learned.parameters()).fill_(torch.nan)

    with pytest.raises(FloatingPointError, match="learned weights is no number at step 4"):
        train(None, Spoil(), steps=STEPS, store=ResumeStore(2))
    assert files() == ["step_000002.safetensors"]


def test_cancel_says_how_to_go_on(train: Train):
    said: list[str] = []
    with pytest.raises(Cancel):
        train(None, StopAfter(3), steps=STEPS, store=ResumeStore(2, say=said.append))
    assert said == [
        "Stopped after step 3 of 6. Run again to go on. "
        "Step 3 is kept: set steps to 3 to use what was learned by then."
    ]


class LoseFolder(Watcher):
    """Deletes the run's folder after a step; `for_good`: nothing can be written there again."""

    def __init__(self, step: int, *, for_good: bool):
        self.step, self.for_good = step, for_good

    def on_step(self, run: Run) -> None:
        if run.step == self.step:
            shutil.rmtree(runs_folder())
            if self.for_good:
                runs_folder().write_bytes(b"a file where the folder should be")


@pytest.mark.parametrize("for_good", [False, True])
def test_folder_that_vanishes_is_no_longer_promised(train: Train, for_good: bool):
    said: list[str] = []
    store, lose = ResumeStore(2, say=said.append), LoseFolder(4, for_good=for_good)
    with pytest.raises(Cancel):
        train(None, lose, StopAfter(4), steps=STEPS, store=store)
    kept = [int(path.stem[5:]) for path in runs_folder().rglob("step_*")]
    assert kept == ([] if for_good else [4])
    assert ("Step 4 is kept" in said[-1]) == bool(kept)
    assert ("Nothing of it is kept on disk" in said[-1]) == for_good


def test_cancel_of_a_start_over_says_to_leave_it_and_then_goes_on(train: Train):
    said: list[str] = []
    stopped(train, 5)
    with pytest.raises(Cancel):
        store = ResumeStore(2, start_over=True, say=said.append)
        train(None, StopAfter(3), steps=STEPS, store=store)
    assert said == [
        "Stopped after step 3 of 6. Set resume to auto and run again to go on. "
        "Step 3 is kept: set resume to auto and steps to 3 to use what was learned by then."
    ]
    assert resumed(train)[1] == [4, 5, 6]


def test_old_runs_go_and_the_latest_keep_their_snapshots(
    train: Train, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runs, "RUNS", 3)
    monkeypatch.setattr(runs, "RUNS_WITH_SNAPSHOTS", 2)
    for seed in range(5):
        resumed(train, seed=seed, steps=2)
    kept = {
        json.loads(folder.joinpath("finished_000002.json").read_text())["terms"]["diffusion"][
            0
        ]: len(list(folder.glob("step_*")))
        for folder in runs_folder().iterdir()
    }
    firsts = {seed: train(seed=seed, steps=2)[1].terms["diffusion"][0] for seed in (2, 3, 4)}
    assert kept == {firsts[2]: 0, firsts[3]: 1, firsts[4]: 1}


@pytest.fixture
def key(subject: Photos, prior_latents: Tensor):
    """key(model=..., subject=..., config=..., settings...) -> the run's key."""

    def make(
        model=None, clip=None, photos=subject, prior=prior_latents, config=None, **settings
    ) -> str:
        model, clip = model or tiny.tiny_model(), clip or tiny.tiny_clip()
        with training_session(model, clip, (4, 4, 8, 8)) as (denoiser, text):
            train_config = TrainConfig(**settings)
            config = config or DetexConfig()
            given = photos, prior, config, train_config
            method = method_of(config)(*given, denoiser, text)
            return run_key(method, denoiser, text)

    return make


def test_key_is_the_same_for_the_same_things_loaded_again(key):
    assert key() == key()


def test_projection_that_a_checkpoint_lacks_is_no_part_of_the_key(key):
    """Of CLIP-L's files most lack it; ComfyUI then leaves whatever the memory held."""
    keys = set()
    for left in (0.5, torch.nan):
        clip = tiny.tiny_clip()
        with torch.no_grad():
            clip.cond_stage_model.clip_l.transformer.text_projection.weight.fill_(left)
        clip.patcher.cached_patcher_init = (lambda disable_dynamic=False, c=clip: c.patcher, ())
        keys.add(key(clip=clip))
    assert len(keys) == 1


def test_number_of_steps_is_no_part_of_the_key(key):
    assert key(steps=10) == key(steps=600)


def test_rank_of_the_family_is_the_same_training_as_that_rank_chosen(key):
    model = tiny.tiny_model(comfy.supported_models.SDXL)
    clip = tiny.tiny_sdxl_clip()
    assert key(model, clip) == key(model, clip, rank=16) != key(model, clip, rank=8)


CHANGES = {
    "seed": lambda subject, prior: {"seed": 1},
    "learning rate": lambda subject, prior: {"learning_rate": 2e-5},
    "batch size": lambda subject, prior: {"batch_size": 3},
    "gamma": lambda subject, prior: {"config": DetexConfig(gamma=0.4)},
    "method": lambda subject, prior: {"config": CustomDiffusionConfig()},
    "class word": lambda subject, prior: {
        "photos": dataclasses.replace(subject, named=(Named("V", "cat", "view", (1, 2, 3)),))
    },
    "photos": lambda subject, prior: {
        "photos": dataclasses.replace(subject, hashes=("a", "b", "c"))
    },
    "latents": lambda subject, prior: {
        "photos": dataclasses.replace(subject, latents=subject.latents + 1e-3)
    },
    "sizes": lambda subject, prior: {
        "photos": dataclasses.replace(subject, size_ids=subject.size_ids + 1)
    },
    "rank": lambda subject, prior: {"rank": 4},
    "masks": lambda subject, prior: {
        "photos": dataclasses.replace(subject, masks=1 - subject.masks)
    },
    "captions": lambda subject, prior: {
        "photos": dataclasses.replace(subject, prefixes=(("close up ",),) * 3)
    },
    "prior images": lambda subject, prior: {"prior": prior[:2]},
    "no prior images": lambda subject, prior: {"prior": None},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_decides_the_result_is_in_the_key(
    key, subject: Photos, prior_latents: Tensor, change: Callable
):
    assert key(**change(subject, prior_latents)) != key()


def changed_model(part: str) -> tuple[ModelPatcher, comfy.sd.CLIP]:
    """A MODEL or CLIP with one weight a little different, as another checkpoint."""
    model, clip = tiny.tiny_model(), tiny.tiny_clip()
    module = model.model.diffusion_model if part == "unet" else clip.cond_stage_model
    with torch.no_grad():
        next(p for p in module.parameters() if p.ndim > 1).mul_(1.001)
    again = model if part == "unet" else clip.patcher
    again.cached_patcher_init = (lambda disable_dynamic=False: again, ())
    return model, clip


@pytest.mark.parametrize("part", ["unet", "clip"])
def test_every_weight_of_the_base_model_is_in_the_key(key, part: str):
    assert key(*changed_model(part)) != key()


def test_lora_on_the_model_is_in_the_key(key):
    model = tiny.tiny_model().clone()
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    weight = model.model_state_dict(name)[name]
    model.add_patches({name: ("diff", (torch.full_like(weight, 0.01),))}, 1.0)
    assert key(model) != key()


def test_clip_skip_is_in_the_key(key):
    clip = tiny.tiny_clip().clone()
    clip.clip_layer(-2)
    assert key(clip=clip) != key()
