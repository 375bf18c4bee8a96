"""Whole graphs through ComfyUI's own executor, as a queued prompt runs them."""

import logging
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.utils
import execution
import pytest
import tiny
import torch
from graphs import Keep, messages, node, run, training_graph

from detex_pack.detex.concept.file import load_concept


def sampling_graph(loader: str) -> dict:
    return {
        "models": node(loader),
        "load": node(
            "DETEXLoadEmbeddings", model=["models", 0], file="toy.safetensors", strength=1.0
        ),
        "compose": node(
            "DETEXComposePrompt",
            clip=["models", 1],
            concept=["load", 1],
            text="photo of a ([V]:1.1) ball",
            pose=2,
            background=1,
        ),
        "negative": node("CLIPTextEncode", clip=["models", 1], text=""),
        "capture": node(
            "DETEXCaptureAttention",
            model=["load", 0],
            clip=["models", 1],
            text=["compose", 1],
            words="[V], [P2], [B1], ball",
        ),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=2),
        "sampler": node(
            "KSampler",
            model=["capture", 0],
            positive=["compose", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=1,
            steps=2,
            cfg=4.0,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["models", 2]),
        "preview": node("DETEXAttentionPreview", attention=["capture", 1], image=["decode", 0]),
        "show": node("PreviewImage", images=["preview", 0]),
        "image": node("Keep", value=["decode", 0], name="image"),
        "masks": node("Keep", value=["preview", 1], name="masks"),
    }


@pytest.mark.parametrize("loader", ["TinyModels", "DETEXDemoModel"])
def test_train_save_load_compose_and_sample_run_to_the_end(
    executor: execution.PromptExecutor, model_folders: Path, loader: str
):
    run(executor, training_graph(loader))
    assert executor.success, executor.status_messages
    assert (model_folders / "detex" / "toy.safetensors").is_file()
    run(executor, sampling_graph(loader))
    assert executor.success, executor.status_messages
    image, masks = Keep.kept["image"], Keep.kept["masks"]
    assert image.shape[0] == 2 and image.isfinite().all()
    assert masks.shape == (8, *image.shape[1:3])


@pytest.mark.parametrize("turned_off", [False, True])
@pytest.mark.parametrize("name", ["subject_attention", "center_poses"])
def test_what_the_paper_has_not_is_on_unless_it_is_turned_off(
    executor: execution.PromptExecutor, model_folders: Path, name: str, turned_off: bool
):
    graph = training_graph("TinyModels")
    graph["train"]["inputs"].pop(name, None)  # as in a script that does not know it
    graph["train"]["inputs"] |= {name: False} if turned_off else {}
    run(executor, graph)
    concept = load_concept(model_folders / "detex" / "toy.safetensors")
    assert concept.config[name] is not turned_off


def test_without_an_image_encoder_poses_and_backgrounds_are_free_vectors_and_the_node_says_so(
    executor: execution.PromptExecutor, model_folders: Path
):
    graph = training_graph("TinyModels")
    del graph["subject"]["inputs"]["clip_vision"]
    run(executor, graph)
    assert executor.success, executor.status_messages
    concept = load_concept(model_folders / "detex" / "toy.safetensors")
    assert concept.config["attributes"] == "vectors"
    assert {"P1", "P3", "B1", "B3"} <= set(concept.word_names)
    (said,) = executor.history_result["outputs"]["train"]["text"]
    assert "Without CLIP_VISION in Subject Images: each [P] and [B] is a free vector." in said


def test_training_graph_logs_no_warning(
    executor: execution.PromptExecutor, caplog: pytest.LogCaptureFixture
):
    run(executor, training_graph("TinyModels"))
    noise = ("Missing VAE keys",)  # the small VAE has random weights
    with_level = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert [m for m in with_level if not m.startswith(noise)] == []


def test_second_queueing_of_the_same_graph_trains_nothing(executor: execution.PromptExecutor):
    run(executor, training_graph("TinyModels"))
    run(executor, training_graph("TinyModels"))
    cached = next(
        d["nodes"] for event, d in executor.status_messages if event == "execution_cached"
    )
    assert "train" in cached


def test_new_file_name_saves_again_without_training(
    executor: execution.PromptExecutor, model_folders: Path
):
    graph = training_graph("TinyModels")
    run(executor, graph)
    run(
        executor,
        graph
        | {"save": node("DETEXSaveEmbeddings", concept=["train", 0], name="b", stock_files=False)},
    )
    cached = next(
        d["nodes"] for event, d in executor.status_messages if event == "execution_cached"
    )
    assert "train" in cached
    assert {p.name for p in (model_folders / "detex").iterdir()} == {
        "toy.safetensors",
        "b.safetensors",
    }


def test_cancel_stops_the_graph_and_the_same_executor_trains_again(
    executor: execution.PromptExecutor,
    monkeypatch: pytest.MonkeyPatch,
    model_folders: Path,
    weight_hash: Callable,
):
    calls = []

    def cancel(value, *_args, **_kwargs) -> None:
        calls.append(value)
        comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
    run(executor, training_graph("TinyModels", steps=100))
    assert "execution_interrupted" in messages(executor)
    assert len(calls) <= 2
    assert not list((model_folders / "detex").iterdir())
    assert not comfy.model_management.in_training

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    run(executor, training_graph("TinyModels"))
    assert executor.success, executor.status_messages


def test_wrong_number_fails_the_graph_with_our_message(executor: execution.PromptExecutor):
    run(executor, training_graph("TinyModels"))
    graph = sampling_graph("TinyModels")
    graph["compose"]["inputs"]["pose"] = 9
    run(executor, graph)
    error = next(d for event, d in executor.status_messages if event == "execution_error")
    assert error["node_id"] == "compose"
    assert "asks for [P9], but this concept has [V], [P1]" in error["exception_message"]


def test_graph_leaves_the_loaded_model_as_it_was(
    executor: execution.PromptExecutor, weight_hash: Callable
):
    run(executor, training_graph("TinyModels"))
    kept = Keep.kept["model"]
    assert weight_hash(kept.model) == weight_hash(tiny.tiny_model().model)
    assert kept.patches == {}
    assert torch.is_grad_enabled()
