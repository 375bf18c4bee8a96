"""Evaluate Concept and Compare Concepts in real graphs."""

import json

import pytest
import tiny
import torch
from graphs import Keep, default_widgets, executor_errors, node, run

from detex_pack.detex.evaluate.evaluation import Evaluation
from detex_pack.nodes.evaluate import EvaluateConcept

SIDE = 64


class Pictures:
    """Batches of noise: one for each seed, `each` pictures in it."""

    RETURN_TYPES = ("IMAGE", "STRING")
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"each": ("INT", {}), "seed": ("INT", {}), "prompts": ("STRING", {})}}

    def make(self, each: int, seed: int, prompts: str) -> tuple:
        lines, generator = prompts.split("|"), torch.Generator().manual_seed(seed)
        batches = [torch.rand(each, SIDE, SIDE, 3, generator=generator) for _ in lines]
        return batches, lines


@pytest.fixture(autouse=True)
def pictures_node(registered, monkeypatch: pytest.MonkeyPatch) -> None:
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Pictures", Pictures)


def evaluation(name: str, seed: int, **wires) -> dict:
    """A branch of the graph: pictures and their evaluation."""
    prompts = "|".join(f"a [V] ball, place {i}" for i in range(3))
    pictures = f"{name} pictures"
    inputs = default_widgets("DETEXEvaluateConcept") | {
        "name": name,
        "images": [pictures, 0],
        "prompts": [pictures, 1],
        "photos": ["photos", 0],
        "clip_vision": ["models", 3],
    }
    return {
        pictures: node("Pictures", each=2, seed=seed, prompts=prompts),
        name: node("DETEXEvaluateConcept", **inputs | wires),
    }


def base_graph() -> dict:
    return {
        "models": node("TinyModels"),
        "photos": node("DETEXDemoSubject", number=1, count=3, seed=0),
    }


def kept(name: str, output: int = 0) -> dict:
    return {f"keep {name} {output}": node("Keep", value=[name, output], name=f"{name} {output}")}


def test_a_list_of_batches_becomes_scores_a_chart_and_a_sorted_sheet(executor):
    graph = base_graph() | evaluation("toy", 0, photo_masks=["photos", 1])
    for output in range(5):
        graph |= kept("toy", output)
    run(executor, graph)
    assert executor.success, executor_errors(executor)
    found, table, text, plot, sheet = (Keep.kept[f"toy {i}"] for i in range(5))
    names = [score.name for score in found.scores]
    assert names == ["CLIP-I", "CLIP-I fg_ref", "CLIP diversity"]
    assert found.prompts == tuple(f"a [V] ball, place {i}" for i in (0, 0, 1, 1, 2, 2))
    assert "toy: 6 pictures of 3 prompts" in table and "CLIP-T is missing: no clip" in table
    assert Evaluation.from_json(text) == found
    assert len(json.loads(text)["scores"]) == 3
    assert plot.shape[0] == sheet.shape[0] == 1
    assert sheet.shape[2] > 2 * 192


def test_the_same_pictures_differ_in_nothing(executor):
    graph = base_graph() | evaluation("one", 0) | evaluation("two", 0)
    graph["compare"] = node(
        "DETEXCompareConcepts", evaluation_1=["one", 0], evaluation_2=["two", 0]
    )
    graph |= kept("compare") | kept("compare", 1)
    run(executor, graph)
    assert executor.success, executor_errors(executor)
    assert Keep.kept["compare 0"].startswith("Nothing is sure: every difference (CLIP-I) may be")
    assert Keep.kept["compare 1"].shape[0] == 1


def test_evaluations_of_one_name_and_two_subjects_are_averaged_over_subjects(executor):
    graph = base_graph()
    for name, subject, seed in (
        ("a", "ball", 0),
        ("a", "box", 1),
        ("b", "ball", 2),
        ("b", "box", 3),
    ):
        branch = evaluation(name, seed, subject=subject)
        graph |= {f"{key} {subject}": value for key, value in branch.items()}
        pictures = f"{name} pictures {subject}"
        graph[f"{name} {subject}"]["inputs"] |= {"images": [pictures, 0], "prompts": [pictures, 1]}
    wires = ("a ball", "a box", "b ball", "b box")
    inputs = {f"evaluation_{i}": [wire, 0] for i, wire in enumerate(wires, 1)}
    graph["compare"] = node("DETEXCompareConcepts", **inputs)
    graph |= kept("compare")
    run(executor, graph)
    assert executor.success, executor_errors(executor)
    assert "over 2 subjects (may be noise" in Keep.kept["compare 0"]


def test_evaluations_by_two_encoders_are_refused(executor):
    class OtherVision:
        RETURN_TYPES = ("CLIP_VISION",)
        FUNCTION = "load"

        @classmethod
        def INPUT_TYPES(cls) -> dict:
            return {"required": {}}

        def load(self) -> tuple:
            vision = tiny.tiny_clip_vision()
            tiny.seeded(vision.model, 99)
            return (vision,)

    import nodes

    nodes.NODE_CLASS_MAPPINGS["OtherVision"] = OtherVision  # the fixture's own copy
    graph = base_graph() | {"other": node("OtherVision")}
    graph |= evaluation("one", 0) | evaluation("two", 0, clip_vision=["other", 0])
    graph["compare"] = node(
        "DETEXCompareConcepts", evaluation_1=["one", 0], evaluation_2=["two", 0]
    )
    run(executor, graph | kept("compare"))
    assert "Scores of different encoders cannot be compared" in executor_errors(executor)[0]


def test_pictures_with_too_few_prompts_fail_before_anything_is_encoded(executor):
    graph = base_graph() | evaluation("toy", 0)
    graph["few"] = node("Pictures", each=1, seed=0, prompts="a [V] ball|a [V] box")
    graph["toy"]["inputs"]["prompts"] = ["few", 1]
    run(executor, graph | kept("toy"))
    assert "toy: There are 6 pictures but 2 prompts" in executor_errors(executor)[0]


def test_a_clip_of_another_width_is_refused(executor):
    graph = base_graph() | evaluation("toy", 0, clip=["models", 1])
    run(executor, graph | kept("toy"))
    assert "gives features of 24 numbers, the CLIP of 32" in executor_errors(executor)[0]


def test_the_text_side_of_a_matching_clip_adds_the_captions_score():
    vision, clip = tiny.tiny_clip_vision(projection_dim=32), tiny.tiny_clip()
    pictures = list(torch.rand(2, 1, SIDE, SIDE, 3))
    wired = {"photos": [torch.rand(1, SIDE, SIDE, 3)], "clip_vision": [vision], "clip": [clip]}
    prompts = ["a [V] ball", "a red [V] ball"]
    widgets = {"name": ["toy"], "subject": ["ball"], "order": ["both"]}
    found, table, *_ = EvaluateConcept.execute(pictures, prompts, **wired, **widgets).args
    assert [score.name for score in found.scores] == ["CLIP-T", "CLIP-I"]
    text_score = next(iter(found.scores))
    assert ", text " in text_score.encoder and text_score.encoder in table


def test_pictures_of_the_class_and_of_the_base_model_give_the_drift():
    vision = tiny.tiny_clip_vision()
    same, other = torch.rand(2, 1, SIDE, SIDE, 3)
    widgets = {"name": ["toy"], "subject": ["ball"], "order": ["both"]}
    wired = {"photos": [other], "clip_vision": [vision], "base_images": [same]}
    found, *_ = EvaluateConcept.execute(
        [other, same], ["a [V] ball", "a ball"], **wired, **widgets
    ).args
    drift = next(values for score, values in found.scores.items() if score.name == "CLIP drift")
    assert drift[1] == pytest.approx(0, abs=1e-6)
