"""States that DETEX Train keeps, and the node that chooses among them, in real graphs."""

from pathlib import Path

import comfy.model_management as model_management
import folder_paths
import pytest
import torch
from graphs import Keep, default_widgets, executor_errors, node, run, training_graph

from detex_pack.detex.concept.file import load_concept
from detex_pack.detex.host import best_step
from detex_pack.detex.host.runs import runs_folder
from detex_pack.detex.host.states import states_in, states_of

PROMPTS = "a [V] ball in snow\na red [V] ball"


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))


def train_graph(keep_every: int = 2, steps: int = 4, **settings) -> dict:
    graph = training_graph(
        "TinyModels", steps=steps, keep_every=keep_every, lambda_pr=0.0, **settings
    )
    del graph["train"]["inputs"]["prior_images"], graph["save"], graph["model"]
    graph["concept"] = node("Keep", value=["train", 0], name="concept")
    return graph


def best_graph(**settings) -> dict:
    widgets = default_widgets("DETEXBestStep") | {
        "prompts": PROMPTS,
        "count": 1,
        "resolution": 64,
        "steps": 1,
    }
    graph = train_graph()
    graph["best"] = node(
        "DETEXBestStep",
        model=["models", 0],
        clip=["models", 1],
        vae=["models", 2],
        concept=["train", 0],
        photos=["photos", 0],
        photo_masks=["photos", 1],
        clip_vision=["models", 3],
        **widgets | settings,
    )
    for output, name in enumerate(("best", "step", "table", "plot", "sheet")):
        graph[f"keep {name}"] = node("Keep", value=["best", output], name=name)
    return graph


def run_folders() -> list[Path]:
    return list(runs_folder().iterdir())


def test_states_are_kept_after_every_n_steps_and_the_last(executor):
    run(executor, train_graph(keep_every=3, steps=4))
    assert executor.success, executor_errors(executor)
    (folder,) = run_folders()
    states = states_in(folder)
    assert list(states) == [3, 4]
    first, last = (load_concept(path) for path in states.values())
    assert (first.config["steps"], last.config["steps"]) == (3, 4)
    trained = Keep.kept["concept"]
    assert torch.equal(last.words["V"]["l"], trained.words["V"]["l"])
    assert not torch.equal(first.words["V"]["l"], trained.words["V"]["l"])
    name = next(iter(trained.deltas))
    assert torch.equal(last.deltas[name], trained.deltas[name])


def test_by_default_no_state_is_kept_and_the_training_is_the_same(executor):
    run(executor, train_graph(keep_every=0))
    plain = Keep.kept["concept"]
    (folder,) = run_folders()
    assert states_in(folder) == {}
    with pytest.raises(ValueError, match="Set keep_every of DETEX Train to 100"):
        states_of(plain)
    run(executor, train_graph(keep_every=1, resume="start over"))
    assert executor.success, executor_errors(executor)
    kept = Keep.kept["concept"]
    assert all(torch.equal(kept.deltas[name], plain.deltas[name]) for name in plain.deltas)


def test_best_step_gives_out_one_of_the_states_with_its_scores(executor):
    run(executor, best_graph())
    assert executor.success, executor_errors(executor)
    (folder,) = run_folders()
    step = Keep.kept["step"]
    assert step in (2, 4)
    chosen = load_concept(states_in(folder)[step])
    assert torch.equal(Keep.kept["best"].words["V"]["l"], chosen.words["V"]["l"])
    table = Keep.kept["table"]
    assert table.startswith(f"best: step {step}\n")
    assert table.count("CLIP-I fg_ref") == 2 and table.count("spread of the prompts") == 2
    assert Keep.kept["plot"].shape[0] == Keep.kept["sheet"].shape[0] == 1


def test_a_cancelled_choice_goes_on_with_the_pictures_that_are_there(executor, monkeypatch):
    """Two states of two prompts: four pictures, of which two are there after the cancel."""
    made, real = [], best_step.prior_pictures

    def counted(*args, **named):
        if len(made) == 2:
            made.append("cancelled")
            raise model_management.InterruptProcessingException
        result = real(*args, **named)
        made.append(result[2])
        return result

    monkeypatch.setattr(best_step, "prior_pictures", counted)
    run(executor, best_graph())
    assert made == [1, 1, "cancelled"] and "step" not in Keep.kept
    run(executor, best_graph())
    assert executor.success, executor_errors(executor)
    assert made[3:] == [0, 0, 1, 1]
    assert Keep.kept["step"] in (2, 4)


def test_one_prompt_is_refused_before_anything_is_drawn(executor):
    run(executor, best_graph(prompts="a [V] ball"))
    assert "best: There are 1 different prompts. Write two or more" in executor_errors(executor)[0]
