"""Training graphs that are cancelled, queued again, and found again, in ComfyUI's own executor."""

import re
from pathlib import Path

import comfy.model_management
import comfy.utils
import execution
import pytest
from graphs import messages, run, training_graph

from detex_pack.detex.concept.file import load_concept


def said_by(executor: execution.PromptExecutor, name: str) -> str:
    """The text that an output of the last prompt shows on a node."""
    return "\n".join(executor.history_result["outputs"][name]["text"])


@pytest.fixture
def interrupted(
    executor: execution.PromptExecutor, monkeypatch: pytest.MonkeyPatch
) -> execution.PromptExecutor:
    """An executor whose training of 12 steps was cancelled at step 4."""

    def cancel(value, total, *_args, **_kwargs) -> None:
        if total == 12 and value == 4:
            comfy.model_management.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        patch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
        run(executor, training_graph("TinyModels", steps=12))
    assert "execution_interrupted" in messages(executor)
    return executor


def test_cancelled_graph_goes_on_when_it_is_queued_again(
    interrupted: execution.PromptExecutor, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "detex")
    run(interrupted, training_graph("TinyModels", steps=12))
    assert interrupted.success, interrupted.status_messages
    assert "Continued after step 4." in said_by(interrupted, "train")
    rest = r"Continued after step 4\. After the first 9: 3 steps at [\d.]+ s, about \d+ s"
    assert re.search(rest, caplog.text)  # by then the node shows the same


def test_concept_of_a_cancelled_training_is_had_with_fewer_steps(
    interrupted: execution.PromptExecutor, model_folders: Path
):
    run(interrupted, training_graph("TinyModels", steps=4))
    assert interrupted.success, interrupted.status_messages
    concept = load_concept(model_folders / "detex" / "toy.safetensors")
    assert concept.config["steps"] == 4


def test_graph_finds_its_concept_after_a_restart(
    executor: execution.PromptExecutor, model_folders: Path
):
    run(executor, training_graph("TinyModels"))
    executor.reset()  # what a restart, or ComfyUI's memory pressure, leaves of the cache
    graph = training_graph("TinyModels", preview_every=7, snapshot_every=3)
    run(executor, graph)
    assert executor.success, executor.status_messages
    assert "Found on disk, not trained again" in said_by(executor, "train")
    first, second = (model_folders / "detex" / f"toy{n}.safetensors" for n in ("", "_2"))
    assert first.read_bytes() == second.read_bytes()
