"""Graphs through ComfyUI's own executor: its fixtures, two nodes for tests, small helpers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import execution
import folder_paths
import nodes
import pytest
import server
import tiny

from detex_pack.detex.methods import METHODS
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


class KeepAll(Keep):
    """The same for a whole list at once."""

    INPUT_IS_LIST = True

    def keep(self, value, name: list[str]) -> dict:
        return super().keep(value, name[0])


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        mappings = dict(nodes.NODE_CLASS_MAPPINGS)
        extension = asyncio.run(comfy_entrypoint())
        asyncio.run(extension.on_load())  # as ComfyUI does, before it asks for the nodes
        for node in asyncio.run(extension.get_node_list()):
            mappings[node.GET_SCHEMA().node_id] = node
        mappings |= {"TinyModels": TinyModels, "Keep": Keep, "KeepAll": KeepAll}
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


def messages(executor: execution.PromptExecutor) -> list[str]:
    return [event for event, _ in executor.status_messages]


def default_widgets(class_type: str) -> dict:
    """What the page sends of a node that was left as it came."""
    inputs = nodes.NODE_CLASS_MAPPINGS[class_type].GET_SCHEMA().inputs
    return {i.id: i.default for i in inputs if getattr(i, "default", None) is not None}


SMALL = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3}


def graph_of_method(loader: str, method: str, **settings) -> dict:
    """A training of the method, by the nodes that it has."""
    if METHODS[method].photos_from == "Concepts in One Photo":
        return one_photo_graph(loader, **settings)
    if METHODS[method].photos_from == "Varied Images":
        return varied_graph(loader, **settings)
    return training_graph(loader, method=method, **settings)


def one_photo_graph(loader: str, class_words: str = "red ball, cup", **settings) -> dict:
    graph = training_graph(loader)
    photo = default_widgets("DETEXConceptsInOnePhoto") | {"class_words": class_words}
    widgets = default_widgets("DETEXDisenDiffTrain") | SMALL | settings
    graph["photos"]["inputs"]["count"] = 1
    graph["photo"] = node(
        "DETEXConceptsInOnePhoto",
        image=["photos", 0],
        vae=["models", 2],
        **photo | {"resolution": 64, "scaled_copies": 4},
    )
    graph["train"] = node(
        "DETEXDisenDiffTrain",
        model=["models", 0],
        clip=["models", 1],
        photo=["photo", 0],
        prior_images=["photos", 0],
        **widgets,
    )
    del graph["subject"]
    return graph


def varied_graph(loader: str, **settings) -> dict:
    """A training on eight toys, of which one individual is drawn and saved."""
    widgets = default_widgets("DETEXDis2BoothTrain") | SMALL | settings
    return {
        "models": node(loader),
        "photos": node("DETEXDemoSet", count=8, seed=0),
        "subject": node(
            "DETEXVariedImages",
            images=["photos", 0],
            masks=["photos", 1],
            class_word=["photos", 2],
            backgrounds=["photos", 3],
            clip_vision=["models", 3],
            vae=["models", 2],
            resolution=64,
            seed=0,
        ),
        "train": node(
            "DETEXDis2BoothTrain",
            model=["models", 0],
            clip=["models", 1],
            varied_images=["subject", 0],
            **widgets,
        ),
        "draw": node(
            "DETEXDrawIndividuals",
            distribution=["train", 0],
            **default_widgets("DETEXDrawIndividuals") | {"count": 1},
        ),
        "save": node("DETEXSaveEmbeddings", concept=["draw", 0], name="toy", stock_files=True),
        "model": node("Keep", value=["models", 0], name="model"),
    }


def training_graph(loader: str, **settings) -> dict:
    widgets = default_widgets("DETEXTrain") | SMALL | settings
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


def executor_errors(executor: execution.PromptExecutor) -> list[str]:
    """What went wrong, in the words that the page shows."""
    errors = (d for event, d in executor.status_messages if event == "execution_error")
    return [f"{d['node_id']}: {d['exception_message']}" for d in errors]
