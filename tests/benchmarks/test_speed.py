"""The measurements of speed: what they measure, and that they run to their end."""

import argparse
import dataclasses
import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import folder_paths
import pytest
import torch

from detex_pack.benchmarks import choices, growth, performance, profile, stages, train_step
from detex_pack.benchmarks.choices import CHOICES
from detex_pack.benchmarks.contenders import Setting
from detex_pack.benchmarks.inference import random_concept, sampled
from detex_pack.benchmarks.machine import operations
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.demo_model import load_demo_model
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
        ("aten::normal_", profile.OTHER),
        ("aten::linalg_vector_norm", "optimiser"),
        ("aten::_foreach_addcdiv_", "optimiser"),
        ("aten::_softmax_backward_data", "softmax of the maps"),
        ("aten::copy_", "copies"),
        ("aten::cat", "copies"),
        ("aten::scatter_add", profile.OTHER),
    ],
)
def test_operation_is_of_its_kind(operation: str, kind: str):
    assert profile.kind_of(operation) == kind


def test_contender_without_its_package_is_not_started(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train_step, "find_spec", lambda name: None)
    monkeypatch.setattr(train_step, "steps_of", lambda names, *_: [{"seconds": 1.0}] * len(names))
    assert train_step.is_installed("DETEX")
    found = train_step.compare("DETEX", "Custom Diffusion, diffusers", [], 1)
    assert found == {"ours": {"name": "DETEX", "seconds": 1.0}}


def test_page_shows_ours_where_nothing_was_there_to_compare_with():
    ours = {"name": "DETEX", "seconds": 1.0, "peak_gb": 2.0, "foretold_gb": 1.9}
    report = {"pixels": 512, "photos": 4, "rounds": 5}
    pairs = [{"ours": ours | {"of_possible": 0.5}}]
    assert "| DETEX | not measured | 1.00 |" in performance._train_step(
        report | {"pairs": pairs}, "cuda"
    )


def test_each_stage_is_told_as_soon_as_it_is_over():
    told: list[list[str]] = []
    clock = stages.Clock(lambda seconds: told.append(list(seconds)))
    clock.done("load")
    clock.done("train")
    assert told == [["load"], ["load", "train"]]


def test_choice_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch):
    @contextmanager
    def fails(*_args):
        raise RuntimeError("no compiler")
        yield

    broken = dataclasses.replace(CHOICES["fused AdamW"], change=fails)
    monkeypatch.setitem(CHOICES, "fused AdamW", broken)
    run = growth.demo_run(load_demo_model(), photos=2, batch=2, pixels=64)
    monkeypatch.setattr(choices, "our_run", lambda *_: run)
    names = [choices.PLAIN, "fused AdamW", "gradient checkpointing"]
    *_, last = choices.measure(Setting("demo", 64, 2), 2, names)
    assert {name: found["steps"] for name, found in last.items()} == {
        choices.PLAIN: 2,
        "gradient checkpointing": 2,
    }


@pytest.mark.parametrize("name", [name for name in CHOICES if "compile" not in name])
def test_choice_changes_neither_the_losses_nor_what_comes_after_it(name: str):
    with growth.demo_run(load_demo_model(), photos=2, batch=2, pixels=64) as (run, denoiser):

        def losses() -> dict[str, float]:
            terms = gradients(run, run.method.turn(run.step))
            run.rewind()
            return {term: value.item() for term, value in terms.items()}

        plain = losses()
        weights = [weight.data_ptr() for weight in denoiser.unet.parameters()]
        with CHOICES[name].change(run, denoiser):
            changed = losses()
            run.take_step()
        assert changed == pytest.approx(plain, rel=1e-4)
        run.take_step()
        assert run.step == 2
        assert [weight.data_ptr() for weight in denoiser.unet.parameters()] == weights


@torch.inference_mode()
def test_applied_concept_adds_no_operation_to_sampling():
    demo = load_demo_model()
    applied = apply_concept(demo.model, random_concept(demo.model, demo.clip), 1.0)
    conds = [demo.clip.encode_from_tokens_scheduled(demo.clip.tokenize(t)) for t in ("a ball", "")]
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
    settings = {"pixels": 64, "batch": 1, "steps": 2, "priors": 1}
    options = argparse.Namespace(checkpoint=checkpoint, out=tmp_path / "stages.json", **settings)
    stages.timed_run(options, tmp_path / "dog.safetensors")
    found = json.loads(options.out.read_text())
    assert len(found["seconds"]) == 9 and found["peak_gb"] > 0
    assert (tmp_path / "dog.safetensors").is_file()
