"""The measurements of speed: what they measure, and that they run to their end."""

import argparse
from functools import partial
from pathlib import Path

import folder_paths
import pytest
import torch

from detex_pack.benchmarks.speed import choices, contenders, photos, report, stages, step
from detex_pack.benchmarks.speed.choices import CHOICES
from detex_pack.benchmarks.speed.measure import operations
from detex_pack.benchmarks.speed.runs import encoded, random_concept, sampled, toy_run
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.demo_model import load_demo_model
from detex_pack.detex.toys.subjects import demo_subject
from detex_pack.detex.training.loop import gradients
from devtools.checkpoints import write_checkpoint


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::cudnn_convolution", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention", "attention without maps"),
        ("aten::_cudnn_attention_forward", "attention without maps"),
        ("aten::native_group_norm", "normalisation"),
        ("aten::normal_", step.OTHER),
        ("aten::linalg_vector_norm", "optimiser"),
        ("aten::_foreach_addcdiv_", "optimiser"),
        ("aten::_softmax_backward_data", "softmax of the maps"),
        ("aten::copy_", "copies"),
        ("aten::cat", "copies"),
        ("aten::scatter_add", step.OTHER),
    ],
)
def test_operation_is_of_its_kind(operation: str, kind: str):
    assert step.kind_of(operation) == kind


def test_contender_without_its_package_is_not_started(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    monkeypatch.setattr(contenders, "steps_of", lambda names, *_: [{"seconds": 1.0}] * len(names))
    assert contenders.is_installed("DETEX")
    found = contenders.compare("DETEX", "Custom Diffusion, diffusers", [], 1)
    assert found == {"ours": {"name": "DETEX", "seconds": 1.0}}


def test_page_shows_ours_where_nothing_was_there_to_compare_with():
    ours = {"name": "DETEX", "seconds": 1.0, "peak_gb": 2.0, "foretold_gb": 1.9}
    found = {"pixels": 512, "photos": 4, "rounds": 5}
    pairs = [{"ours": ours | {"of_possible": 0.5}}]
    assert "| DETEX | not measured | 1.00 |" in report.contenders(found | {"pairs": pairs})


def test_each_stage_is_told_as_soon_as_it_is_over():
    told: list[list[str]] = []
    clock = stages.Clock(lambda seconds: told.append(list(seconds)))
    clock.done("load")
    clock.done("train")
    assert told == [["load"], ["load", "train"]]


def test_choice_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch):
    def fails(*_args):
        raise RuntimeError("no compiler")

    broken = CHOICES["fused AdamW"]._replace(change=fails)
    monkeypatch.setitem(CHOICES, "fused AdamW", broken)
    names = [choices.PLAIN, "fused AdamW", "gradient checkpointing"]
    kept: list[dict] = []
    with toy_run(load_demo_model(), photos=2, batch=2, pixels=64) as (run, denoiser):
        choices.in_turn(run, denoiser, 2, kept.append, names)
    assert {name: found["steps"] for name, found in kept[-1]["choices"].items()} == {
        choices.PLAIN: 2,
        "gradient checkpointing": 2,
    }


@pytest.mark.parametrize("name", [name for name in CHOICES if "compile" not in name])
def test_choice_changes_neither_the_losses_nor_what_comes_after_it(name: str):
    with toy_run(load_demo_model(), photos=2, batch=2, pixels=64) as (run, denoiser):

        def losses() -> dict[str, float]:
            terms = gradients(run, run.method.turn(run.step))
            run.rewind()
            return {term: value.item() for term, value in terms.items()}

        plain = losses()
        weights = [weight.data_ptr() for weight in denoiser.unet.parameters()]
        with CHOICES[name].made(run, denoiser):
            changed = losses()
            run.take_step()
        assert changed == pytest.approx(plain, rel=1e-4)
        run.take_step()
        assert run.step == 2
        assert [weight.data_ptr() for weight in denoiser.unet.parameters()] == weights


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> list[photos.Masked]:
    """Three, in place of DreamBench's subjects."""
    monkeypatch.setattr(photos, "SIDE", 64)
    found = [demo_subject(number, 4, 0) for number in range(3)]
    return [photos.Masked(toy.class_word, list(toy.images), list(toy.masks)) for toy in found]


def test_subjects_side_by_side_keep_their_own_masks(toys: list[photos.Masked]):
    scene = photos.side_by_side(toys, 192, photos.unseen)
    assert [one.class_word for one in scene.named] == [toy.class_word for toy in toys]
    assert scene.masks is not None
    masks = scene.masks[0, 0]  # of the plain copy: [3, 24, 24]
    shares, own = masks.mean((1, 2)), torch.stack([toy.masks[0].mean() for toy in toys])
    torch.testing.assert_close(shares / shares.sum(), own / own.sum(), rtol=0.02, atol=0)
    assert (masks > 0.5).sum(dim=0).max() == 1
    columns = masks.sum(1) @ torch.arange(24.0) / masks.sum((1, 2))
    assert columns.tolist() == sorted(columns.tolist())


def test_a_step_on_places_keeps_as_much_as_one_on_blanks(
    toys: list[photos.Masked], monkeypatch: pytest.MonkeyPatch
):
    demo = load_demo_model()
    monkeypatch.setattr(folder_paths, "output_directory", folder_paths.output_directory)  # put back
    monkeypatch.setattr(photos, "masked_subjects", lambda *_: lambda number: toys[number % 3])
    monkeypatch.setattr(photos, "loaded", lambda _: (demo.model, demo.clip, demo.vae))
    settings = {"pixels": 64, "photos": 1, "steps": 2, "encoded": 2, "rounds": 1}
    kept: list[dict] = []
    options = argparse.Namespace(checkpoint=Path(), bench=Path(), **settings)
    photos.measure(options, kept.append)
    told = kept[-1]
    # 4 photos of 12 composites of 4 channels, mask and valid cells, 8 x 8 float32
    assert told["composites"]["kept_mb"] == round(4 * 12 * (4 + 1 + 1) * 64 * 4 / 2**20, 2)
    blanks, places, two, three = (method["kept_mb"] for method in told["methods"])
    assert places == pytest.approx(blanks, rel=0.02)
    assert two > 0 and three > 0
    assert "| DETEX on places |" in report.photos(settings | told)


@torch.inference_mode()
def test_applied_concept_adds_no_operation_to_sampling():
    demo = load_demo_model()
    applied = apply_concept(demo.model, random_concept(demo.model, demo.clip), 1.0)
    conds = encoded(demo.clip, "a ball", "")
    alone, learned = (
        operations(partial(sampled, model, conds, 128, 2)) for model in (demo.model, applied)
    )
    assert alone == learned > 0


@pytest.mark.slow
def test_whole_run_of_real_size_is_timed_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_paths, "user_directory", folder_paths.user_directory)  # put back
    monkeypatch.setattr(stages, "PRIOR_STEPS", 1)
    monkeypatch.setattr(stages, "PICTURE_STEPS", 1)
    checkpoint = tmp_path / "sd15.safetensors"
    write_checkpoint(checkpoint, "sd15")
    settings = {"pixels": 64, "photos": 1, "steps": 2, "priors": 1}
    options = argparse.Namespace(checkpoint=checkpoint, **settings)
    kept: list[dict] = []
    stages.measure(options, kept.append)
    assert len(kept[-1]["seconds"]) == 9 and kept[-1]["peak_gb"] > 0
