"""Whole graphs through ComfyUI's own executor, as a queued prompt runs them."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import comfy.model_management
import comfy.utils
import execution
import folder_paths
import nodes
import pytest
import server
import tiny
import torch

from detex_pack.nodes import comfy_entrypoint


class TinyModels:
    """A loader of the tests' small models."""

    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "CLIP_VISION")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {}}

    def load(self) -> tuple:
        folders = folder_paths.get_folder_paths("embeddings")
        clip = tiny.tiny_clip(folders)
        return tiny.tiny_model(), clip, tiny.tiny_vae(), tiny.tiny_clip_vision()


class Keep:
    """An output node that keeps what reaches it."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True
    kept: dict = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": ("*", {}), "name": ("STRING", {"default": ""})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types) -> bool:
        return True

    def keep(self, value, name: str) -> dict:
        self.kept[name] = value
        return {"ui": {}}


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        mappings = dict(nodes.NODE_CLASS_MAPPINGS)
        extension = asyncio.run(comfy_entrypoint())
        asyncio.run(extension.on_load())  # as ComfyUI does, before it asks for the nodes
        for node in asyncio.run(extension.get_node_list()):
            mappings[node.GET_SCHEMA().node_id] = node
        mappings |= {"TinyModels": TinyModels, "Keep": Keep}
        patch.setattr(nodes, "NODE_CLASS_MAPPINGS", mappings)
        yield


@pytest.fixture
def executor(registered: None, model_folders: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("output", "temp", "user", "input"):
        (model_folders / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(model_folders / name))
    monkeypatch.setattr(Keep, "kept", {})
    loop = asyncio.new_event_loop()
    prompts = server.PromptServer(loop)
    cache = {"lru": 0, "ram": 0, "ram_inactive": 0}
    yield execution.PromptExecutor(prompts, execution.CacheType.CLASSIC, cache)
    loop.close()


def run(executor: execution.PromptExecutor, prompt: dict) -> None:
    """Validate and execute, as the server does with a queued prompt."""
    valid, error, outputs, node_errors = asyncio.run(
        execution.validate_prompt("test", prompt, None)
    )
    assert valid, (error, node_errors)
    executor.execute(prompt, "test", {}, outputs)


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def training_graph(loader: str, **settings) -> dict:
    schema = nodes.NODE_CLASS_MAPPINGS["DETEXTrain"].GET_SCHEMA()
    defaults = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None}
    widgets = defaults | {"steps": 2, "batch_size": 2, "learning_rate": 1e-3} | settings
    return {
        "models": node(loader),
        "photos": node("DETEXDemoSubject", number=1, count=3, seed=0),
        "subject": node(
            "DETEXSubjectImages",
            images=["photos", 0],
            masks=["photos", 1],
            class_word=["photos", 2],
            clip_vision=["models", 3],
            vae=["models", 2],
            attribute="auto",
            resolution=64,
            blank="white",
            scaled_copies=0,
            seed=0,
        ),
        "train": node(
            "DETEXTrain",
            model=["models", 0],
            clip=["models", 1],
            subject=["subject", 0],
            prior_images=["photos", 0],
            **widgets,
        ),
        "save": node("DETEXSaveEmbeddings", concept=["train", 0], name="toy", stock_files=True),
        "model": node("Keep", value=["models", 0], name="model"),
    }


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


def messages(executor: execution.PromptExecutor) -> list[str]:
    return [event for event, _ in executor.status_messages]


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
