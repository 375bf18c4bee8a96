"""DreamBench as it is read, the methods' settings, the tables, and what is refused."""

import csv
from pathlib import Path

import pytest
import torch

from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.evaluate.averages import Estimate
from detex_pack.detex.evaluate.benchmark import Bench
from detex_pack.detex.evaluate.command import main
from detex_pack.detex.evaluate.dreambench import DREAMBENCH, opened, read_bench
from detex_pack.detex.evaluate.evaluation import Evaluation, Score
from detex_pack.detex.evaluate.protocol import (
    laid_out,
    lay_out,
    one_file,
    row_name,
    training_row,
    write_table,
)
from detex_pack.detex.evaluate.protocol_page import cell, deviations, facts, markdown, score_tables
from detex_pack.detex.evaluate.recipes import PAPER, RECIPES, TABLES, chosen_recipes, settings_of
from detex_pack.detex.evaluate.workflows import Amounts, drawing, subject_training
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.training.config import TrainConfig

LIST = """Classes

subject_name,class
dog2,dog
vase,vase
lost,toy

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""
CHECKPOINT = Amounts(checkpoint="sd15.safetensors", clip_vision="l14.safetensors")


def save(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    as_picture(image).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    for name in ("dog2", "vase"):
        for i in range(3):
            save(folder / name / f"{i:02d}.png", torch.rand(70, 80, 3))
    (folder / "prompts_and_classes.txt").write_text(LIST)
    return folder


@pytest.fixture
def masks(tmp_path: Path, photos: Path) -> Path:
    plane = torch.zeros(70, 80, 3)
    plane[20:50, 20:50] = 1
    for name, ending in (("dog2", ".png"), ("vase", ".mask.png")):
        for i in range(3):
            save(tmp_path / "masks" / name / f"{i:02d}{ending}", plane)
    return tmp_path / "masks"


def test_living_subjects_have_their_own_prompts_and_what_has_no_folder_is_counted(photos: Path):
    bench = read_bench(photos, references=2)
    assert [subject.name for subject in bench.subjects] == ["dog2", "vase"]
    assert bench.listed == 3
    dog, vase = bench.subjects
    assert dog.prompts == ("a [V] dog wearing a red hat",)
    assert vase.prompts == ("a [V] vase in the jungle", "a red [V] vase")
    assert [files.photo.name for files in vase.photos] == ["00.png", "01.png"]


def test_all_references_are_taken_for_0(photos: Path):
    assert len(read_bench(photos, references=0).subjects[0].photos) == 3


def test_masks_of_a_folder_belong_to_the_photos_of_their_names(photos: Path, masks: Path):
    dog, vase = read_bench(photos, masks).subjects
    assert [files.mask.name for files in dog.photos] == ["00.png", "01.png", "02.png"]
    assert vase.photos[1].mask == masks / "vase" / "01.mask.png"
    assert opened(dog).masks[0].mean().item() == pytest.approx(900 / 5600)
    assert dog.is_masked and not read_bench(photos).subjects[0].is_masked


def test_a_subject_is_laid_out_as_the_folder_node_reads_it(
    photos: Path, masks: Path, tmp_path: Path
):
    lay_out(read_bench(photos, masks, references=3), tmp_path / "out")
    lay_out(read_bench(photos, masks, references=1), tmp_path / "out")
    found = sorted(file.name for file in (tmp_path / "out" / "dog2").iterdir())
    assert found == ["00.mask.png", "00.png"]


def faults(photos: Path, masks: Path, fault: str) -> None:
    if fault == "no list":
        (photos / "prompts_and_classes.txt").unlink()
    if fault == "no prompts":
        (photos / "prompts_and_classes.txt").write_text(LIST.partition("Live")[0])
    if fault == "no class in a prompt":
        text = LIST.replace("a red {0} {1}", "a red {0} thing")
        (photos / "prompts_and_classes.txt").write_text(text)
    if fault == "a mask less":
        (masks / "vase" / "02.mask.png").unlink()
    if fault == "two masks":
        save(masks / "vase" / "02.png", torch.ones(70, 80, 3))
    if fault == "a mask of nothing":
        save(masks / "dog2" / "01.png", torch.zeros(70, 80, 3))
    if fault == "a mask of another shape":
        save(masks / "dog2" / "01.png", torch.ones(70, 70, 3))


@pytest.mark.parametrize(
    ("fault", "chosen", "message"),
    [
        ("no list", [], "There is no prompts_and_classes.txt in .* --photos wants the folder"),
        ("no prompts", [], "is not laid out as in google/dreambooth: it has no subjects or no pro"),
        ("no class in a prompt", [], 'it has the prompt "a red .0. thing". It wants lines'),
        ("none", ["cat9"], "has no subject cat9. It has dog2, vase, lost"),
        ("none", ["lost"], "has no photos of lost: there is no folder of that name"),
        ("a mask less", [], "has no mask of vase/02.png. The mask of dog/00.jpg is dog/00.png"),
        ("two masks", [], "has two masks of 02.png: 02.mask.png and 02.png. Take one"),
        ("a mask of nothing", [], "dog2: The mask leaves nothing of the subject of 01.png"),
        ("a mask of another shape", [], "dog2: 01.png has 70x70 pixels, but its photo"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(
    photos: Path, masks: Path, fault: str, chosen: list[str], message: str
):
    faults(photos, masks, fault)
    with pytest.raises(ValueError, match=message):
        for subject in read_bench(photos, masks, chosen).subjects:
            opened(subject)


def test_masks_beside_some_photos_alone_are_refused(photos: Path):
    save(photos / "vase" / "00.mask.png", torch.ones(70, 80, 3))
    with pytest.raises(ValueError, match="Some photos have masks, but not dog2/00.png"):
        read_bench(photos)


def test_detex_is_that_of_the_paper():
    paper, train = DetexConfig(), TrainConfig()
    named = {"lambda_ca": paper.attention_weight, "lambda_pr": paper.prior_weight}
    named |= {"attributes": paper.attributes.value, "rank": 0}
    found = settings_of(RECIPES["detex"], None, 1.0)
    for name in ("gamma", "subject_attention", "center_poses", "relative_speed", "masked_loss",
                 "attention_norm", "attention_map", "detach_start_token"):  # fmt: skip
        assert found[name] == getattr(paper, name), name
    for name in ("steps", "batch_size", "learning_rate", "token_rate", "mapper_rate", "kv_rate"):
        assert found[name] == getattr(train, name), name
    assert {name: found[name] for name in named} == named


def test_ablations_change_one_thing_each():
    changed = {name: RECIPES[name].changes for name in TABLES["Table 3: DETEX's parts"][:3]}
    assert changed == {
        "detex_without_mapper": {"attributes": "vectors"},
        "detex_without_attention": {"lambda_ca": 0.0},
        "detex_without_joint": {"gamma": 0.0},
    }
    assert all(change.keys() <= PAPER.keys() for change in changed.values())


def test_steps_replace_and_the_rate_multiplies_each_methods_own():
    found = settings_of(RECIPES["textual_inversion"], 7, 10.0)
    assert (found["steps"], found["learning_rate"]) == (7, pytest.approx(4e-4))
    assert settings_of(RECIPES["custom_diffusion"], None, 1.0)["steps"] == 300


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="--methods has no svdiff. Choose of textual_inversion, "):
        chosen_recipes("detex,svdiff", RECIPES)
    with pytest.raises(ValueError, match="--methods names none"):
        chosen_recipes(" , ", RECIPES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": 0}, "--pictures is 0; 1 is the least"),
        ({"sampling_steps": 0}, "--sampling-steps is 0; 1 is the least"),
        ({"steps": 1}, "--steps is 1; 2 is the least"),
        ({"rate": 0.0}, "--rate multiplies the learning rates: above 0, got 0.0"),
        ({"clip_vision": ""}, "--clip-vision is missing: name the file"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Amounts(**{"checkpoint": "x", "clip_vision": "y", **change})


def test_features_masks_and_places_are_wired_only_where_a_method_reads_them():
    """So that a method's trainings stay the same jobs, whatever it is compared with."""
    plain, features = (subject_training(CHECKPOINT, k, masked=True) for k in ("plain", "features"))
    places = subject_training(CHECKPOINT, "places", masked=True)
    wired = [graph["subject"]["inputs"].keys() for graph in (plain, features, places)]
    assert ["clip_vision" in w for w in wired] == [False, True, True]
    assert ["places" in w for w in wired] == [False, False, True]
    assert "masks" not in subject_training(CHECKPOINT, "plain", masked=False)["subject"]["inputs"]
    assert drawing(CHECKPOINT, "ddim", "x")["latents"]["inputs"]["batch_size"] == 8


def test_a_row_names_the_folder_from_where_the_table_lies(photos: Path, tmp_path: Path):
    (dog, _) = read_bench(photos).subjects
    row = training_row(DREAMBENCH, dog, "detex", CHECKPOINT)
    write_table(tmp_path / "features.csv", [row])
    with (tmp_path / "features.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["folder.folder"] == "../subjects/dog2"
    assert (line["class.value"], line["train.steps"]) == ("dog", "600")
    assert row_name("detex", dog.asked[0], 0) == "detex dog2 1"


def test_a_training_that_brought_no_concept_is_told():
    with pytest.raises(ValueError, match="training detex dog has brought 0 files where one"):
        one_file("detex dog", [])


EYE = "CLIP ViT-B/32 0a1b2c3d"
SCORES = ("CLIP-T", "CLIP-I", "CLIP-I fg_ref", "CLIP diversity")


def method(name: str, low: float) -> Evaluation:
    """Two subjects of one prompt and picture each."""
    scores = {Score(title, EYE): (low, low + 0.5) for title in SCORES}
    return Evaluation(name, ("dog", "vase"), ("a [V] dog", "a [V] vase"), scores)


def test_a_table_has_the_mean_over_subjects_and_its_interval():
    """(0.25 + 0.75) / 2 = 0.5; of two subjects the interval reaches from one to the other."""
    found = {"detex": method("DETEX", 0.25), "custom_diffusion": method("Custom Diffusion", 0.25)}
    (table,) = score_tables(DREAMBENCH, {"": found})
    assert table.head == ("method", "CLIP-T", "CLIP-I", "CLIP-I fg_ref")
    assert [row[0] for row in table.rows] == ["Custom Diffusion", "DETEX"]
    assert table.rows[0][1] == "0.5000 (0.2500 to 0.7500)"
    assert "2 subjects are too few" in table.verdict
    assert cell(Estimate(0.25, float("nan"), float("nan"), 1)) == "0.2500"


def test_an_ablation_has_a_table_of_its_own():
    found = {name: method(name, 0.25) for name in ("detex", "detex_without_joint")}
    assert [table.title for table in score_tables(DREAMBENCH, {"": found})] == [
        "Table 1: methods",
        "Table 3: DETEX's parts",
    ]


def test_the_page_says_how_many_subjects_and_what_differs_from_the_papers(photos: Path):
    bench = read_bench(photos)
    amounts = Amounts(checkpoint="a.safetensors", clip_vision="l", pictures=1, prior=20)
    found = {"": {"detex": method("DETEX", 0.25)}}
    lines = facts(DREAMBENCH, Bench(bench.subjects, 30), amounts, found)
    text = markdown("DreamBench", score_tables(DREAMBENCH, found), lines)
    assert "2 of 30 subjects, 1 or 2 prompts each, 1 pictures a prompt, 1 methods" in text
    assert "cannot stand beside figures over all of them" in text
    assert "Not as in the papers: --prior 20, --pictures 1." in text
    assert f"Encoders: {EYE}." in text
    assert deviations(DREAMBENCH, CHECKPOINT) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "detex"], "detex needs masks of the photos: name a folder of them"),
        (["--methods", "custom_diffusion"], "There is no config.json in"),
    ],
)
def test_the_command_refuses_before_it_asks_for_a_server(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
):
    line = ["dreambench", "--photos", str(photos), "--checkpoint", "demo", "--out", str(tmp_path)]
    nobody = ["--server", "http://127.0.0.1:9", "--encoders", str(tmp_path)]
    assert main([*line, *words, *nobody]) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def test_concepts_lie_under_names_that_stay_whatever_is_added(tmp_path: Path):
    """The row number in the file of a training moves where a subject is put before it."""
    brought = {}
    for number, name in enumerate(("detex dog", "detex cat"), start=1):
        brought[name] = tmp_path / f"{number:04d}_{name}.safetensors"
        brought[name].write_bytes(name.encode())
    files = laid_out(brought, tmp_path / "concepts")
    assert [file.name for file in files.values()] == [
        "detex_dog.safetensors",
        "detex_cat.safetensors",
    ]
    files["detex dog"].write_bytes(b"half")
    again = laid_out({"detex dog": brought["detex dog"]}, tmp_path / "concepts")
    assert again["detex dog"].read_bytes() == b"detex dog"
    assert again["detex dog"] == files["detex dog"]
