"""DisenDiff's data set as it is read, what its methods change, and what is refused."""

from pathlib import Path

import pytest
import torch

from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.evaluate.benchmark import Bench
from detex_pack.detex.evaluate.command import check_picture_masks
from detex_pack.detex.evaluate.disendiff import CUT_OUT, DISENDIFF, read_scenes, squared
from detex_pack.detex.evaluate.evaluation import Evaluation, Score
from detex_pack.detex.evaluate.protocol import lay_out, masks_of, row_name, training_row
from detex_pack.detex.evaluate.protocol_page import deviations, facts, score_tables
from detex_pack.detex.evaluate.recipes import RELEASED, SCENE_RECIPES, settings_of
from detex_pack.detex.evaluate.workflows import Amounts, scene_training
from detex_pack.detex.methods.disendiff import RELEASED as RELEASED_TRAINING
from detex_pack.detex.methods.disendiff import DisenDiffConfig

PROMPTS = {
    "global": "Photo of a <new1> cat and <new2> dog\n<mew2> dog on the <cat>\n",
    "subject1": "photo of a <new1> cat\n\na [V] orange cat\n",
    "subject2": "photo of a <new2> dog \n",
}
AMOUNTS = Amounts(checkpoint="sd15.safetensors", **DISENDIFF.usual)


def save(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    as_picture(image).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A photo of 80 x 100 pixels and what belongs to it."""
    folder = tmp_path / "datasets"
    save(folder / "images" / "cat_dog" / "both.png", torch.rand(80, 100, 3))
    for part, text in PROMPTS.items():
        (folder / "prompts").mkdir(exist_ok=True)
        (folder / "prompts" / f"cat_dog_{part}.txt").write_text(text)
    for number in (1, 2):
        save(folder / "data_eval" / "cat_dog" / f"subject{number}" / "a.png", torch.rand(70, 70, 3))
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """The cat at the left, 40 x 20 pixels; the dog at the right, 20 x 30."""
    for number, (rows, columns) in enumerate(((40, (10, 30)), (20, (60, 90))), start=1):
        plane = torch.zeros(80, 100, 3)
        plane[20 : 20 + rows, columns[0] : columns[1]] = 1
        save(tmp_path / "masks" / "cat_dog" / f"subject{number}.png", plane)
    return tmp_path / "masks"


def test_a_photo_is_asked_for_all_concepts_and_for_each(photos: Path):
    (scene,) = read_scenes(photos, None, [], AMOUNTS).subjects
    assert scene.class_words == ("cat", "dog")
    combined, cat, dog = scene.asked
    assert combined.prompts == ("Photo of a [V] cat and [V2] dog", "[V2] dog on the [V] cat")
    assert cat.prompts == ("photo of a [V] cat", "a [V] orange cat")
    assert dog.prompts == ("photo of a [V2] dog",)
    assert [asked.kind for asked in scene.asked] == ["Combined", "Concept 1", "Concept 2"]
    assert row_name("disendiff", dog, 0) == "disendiff cat_dog concept2 1"


def test_each_concept_is_compared_with_its_own_pictures_and_both_with_the_photo(photos: Path):
    (scene,) = read_scenes(photos, None, [], AMOUNTS).subjects
    files = [asked.files[0].relative_to(photos).as_posix() for asked in scene.asked]
    assert files == [
        "images/cat_dog/both.png",
        "data_eval/cat_dog/subject1/a.png",
        "data_eval/cat_dog/subject2/a.png",
    ]
    assert scene.asked[1].references().pictures[0].shape == (70, 70, 3)


def test_masks_cut_each_concept_out_of_the_photo(photos: Path, masks: Path):
    bench = read_scenes(photos, masks, [], AMOUNTS)
    combined, cat, dog = (asked.references() for asked in bench.subjects[0].asked)
    assert cat.pictures[0].shape == (40, 40, 3) and dog.pictures[0].shape == (30, 30, 3)
    for references, area in ((combined, 800 + 600), (cat, 800), (dog, 600)):
        assert references.masks is not None
        assert references.masks[0].sum().item() == pytest.approx(area)
    assert bench.notes == (CUT_OUT,)


def test_a_square_around_a_wide_subject_is_white_outside_the_photo():
    """40 wide in a photo 20 high: 10 rows above it and 10 below."""
    mask = torch.zeros(20, 100)
    mask[5:15, 30:70] = 1
    picture, plane = squared(torch.zeros(20, 100, 3), mask)
    assert picture.shape == (40, 40, 3) and plane.sum().item() == 400
    assert picture[:10].min() == 1 and picture[10:30].max() == 0 and picture[30:].min() == 1


def test_numbers_in_a_folders_name_tell_photos_of_the_same_classes_apart(photos: Path):
    for part in PROMPTS:
        (photos / "prompts" / f"cat_dog_{part}.txt").rename(
            photos / "prompts" / f"cat_dog_2_{part}.txt"
        )
    for folder in ("images", "data_eval"):
        (photos / folder / "cat_dog").rename(photos / folder / "cat_dog_2")
    (scene,) = read_scenes(photos, None, [], AMOUNTS).subjects
    assert (scene.name, scene.class_words) == ("cat_dog_2", ("cat", "dog"))


def test_the_servers_are_sent_the_photo_and_the_masks_in_the_order_of_the_words(
    photos: Path, masks: Path, tmp_path: Path
):
    lay_out(read_scenes(photos, masks, [], AMOUNTS), tmp_path / "out")
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/*/*"))
    assert found == ["cat_dog.masks/1.png", "cat_dog.masks/2.png", "cat_dog/both.png"]
    first, sent = masks / "cat_dog" / "subject1.png", tmp_path / "out" / "cat_dog.masks" / "1.png"
    assert sent.read_bytes() == first.read_bytes()


def test_disendiff_is_the_released_one():
    paper = DisenDiffConfig(use_masks=False)
    named = {"lambda_bind": paper.bind_weight, "lambda_separate": paper.separate_weight}
    named |= {"lambda_pr": paper.prior_weight, "rank": 0}
    found = settings_of(SCENE_RECIPES["disendiff"], None, 1.0)
    for name in ("use_masks", "suppress", "random_order", "detach_start_token"):
        assert found[name] == getattr(paper, name), name
    for name in ("steps", "batch_size", "learning_rate", "token_rate", "kv_rate"):
        assert found[name] == getattr(RELEASED_TRAINING, name), name
    assert {name: found[name] for name in named} == named


def test_each_of_its_parts_is_taken_away_alone():
    changed = {name: recipe.changes for name, recipe in SCENE_RECIPES.items()}
    assert changed == {
        "custom_diffusion": {"lambda_bind": 0.0, "lambda_separate": 0.0},
        "disendiff": {},
        "disendiff_without_bind": {"lambda_bind": 0.0},
        "disendiff_without_separate": {"lambda_separate": 0.0},
        "disendiff_without_suppression": {"suppress": False},
        "disendiff_masks": {"use_masks": True},
    }
    assert all(change.keys() <= RELEASED.keys() for change in changed.values())


def test_masks_are_wired_for_the_method_that_is_held_to_them_alone(photos: Path, masks: Path):
    """So that a method's trainings stay the same jobs where masks are named."""
    plain, held = (scene_training(AMOUNTS, kind, masked=True) for kind in ("plain", "masks"))
    assert "masks" not in plain["photo"]["inputs"] and held["photo"]["inputs"]["masks"]
    (scene,) = read_scenes(photos, masks, [], AMOUNTS).subjects
    rows = [training_row(DISENDIFF, scene, name, AMOUNTS) for name in
            ("disendiff", "disendiff_masks")]  # fmt: skip
    assert [row.get("mask_folder.folder") for row in rows] == [None, "../subjects/cat_dog.masks"]
    assert rows[0]["photo.class_words"] == "cat, dog"
    for row, graph in zip(rows, (plain, held), strict=True):
        for column in row.keys() - {"name"}:
            node, _, name = column.partition(".")
            assert name in graph[node]["inputs"], column


EYE = "CLIP ViT-B/32 0a1b2c3d"


def method(name: str) -> Evaluation:
    scores = {Score("CLIP-I", EYE): (0.25, 0.75)}
    return Evaluation(name, ("cat_dog", "man_woman"), ("[V] cat", "[V] man"), scores)


def test_each_kind_of_prompts_has_tables_of_its_own(photos: Path):
    kinds = ("Combined", "Concept 1")
    names = ("custom_diffusion", "disendiff", "disendiff_without_bind")
    found = {kind: {name: method(name) for name in names} for kind in kinds}
    tables = score_tables(DISENDIFF, found)
    assert [table.title for table in tables] == [
        "Combined: methods",
        "Combined: DisenDiff's parts",
        "Concept 1: methods",
        "Concept 1: DisenDiff's parts",
    ]
    assert "2 photos are too few" in tables[0].verdict
    bench = read_scenes(photos, None, [], AMOUNTS)
    text = "\n".join(facts(DISENDIFF, Bench(bench.subjects, 10), AMOUNTS, found))
    assert "1 of 10 photos, 1 or 2 prompts each of each kind (Combined, Concept 1), 16" in text
    assert "bootstrap interval over photos" in text
    assert deviations(DISENDIFF, AMOUNTS) == []


def faults(photos: Path, masks: Path, fault: str) -> None:
    if fault == "no prompts":
        (photos / "prompts" / "cat_dog_subject2.txt").write_text("\n")
    if fault == "another word":
        (photos / "prompts" / "cat_dog_subject2.txt").write_text("a <new1> dog")
    if fault == "unknown word":
        (photos / "prompts" / "cat_dog_subject2.txt").write_text("a <bird>")
    if fault == "no reference":
        (photos / "data_eval" / "cat_dog" / "subject2" / "a.png").unlink()
    if fault == "two photos":
        save(photos / "images" / "cat_dog" / "more.png", torch.rand(80, 100, 3))
    if fault == "one word":
        (photos / "images" / "cat_dog").rename(photos / "images" / "cat")
    if fault == "no mask":
        (masks / "cat_dog" / "subject2.png").unlink()
    if fault == "an empty mask":
        save(masks / "cat_dog" / "subject2.png", torch.zeros(80, 100, 3))
    if fault == "a green mask":
        green = torch.zeros(80, 100, 3)
        green[20:60, 60:90, 1] = 1
        save(masks / "cat_dog" / "subject2.png", green)


@pytest.mark.parametrize(
    ("fault", "chosen", "message"),
    [
        ("none", ["cat_cow"], "images has no folder cat_cow. --photos wants the folder datasets"),
        ("no prompts", [], "cat_dog: there are no prompts in .*cat_dog_subject2.txt"),
        ("another word", [], r'has the prompt "a <new1> dog", which should have \[V2\] and no'),
        ("unknown word", [], r'has the prompt "a <bird>", which should have \[V2\]'),
        ("no reference", [], "there is no picture in .*subject2, with which those of concept 2"),
        ("two photos", [], "there are 2 photos in .*cat_dog; all is learned from one"),
        ("one word", [], "cat: the folder's name says what the photo shows"),
    ],
)
def test_what_does_not_fit_is_told(
    photos: Path, masks: Path, fault: str, chosen: list[str], message: str
):
    faults(photos, masks, fault)
    with pytest.raises(ValueError, match=message):
        read_scenes(photos, None, chosen, AMOUNTS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no mask", "cat_dog: there is no subject2.png in .*cat_dog: the mask of concept 2"),
        ("an empty mask", r"cat_dog: The mask of \[V2\] dog is empty"),
        ("a green mask", "cat_dog: .*subject2.png is not a grey picture"),
    ],
)
def test_masks_that_do_not_fit_are_told(photos: Path, masks: Path, fault: str, message: str):
    faults(photos, masks, fault)
    with pytest.raises(ValueError, match=message):
        read_scenes(photos, masks, [], AMOUNTS)


def test_masks_of_pictures_want_a_folder_and_masks_of_the_photos(photos, masks, tmp_path):
    bare, masked = (read_scenes(photos, m, [], AMOUNTS) for m in (None, masks))
    check_picture_masks(None, bare, DISENDIFF)
    check_picture_masks(tmp_path, masked, DISENDIFF)
    with pytest.raises(ValueError, match="is no folder"):
        check_picture_masks(tmp_path / "mistyped", masked, DISENDIFF)
    with pytest.raises(ValueError, match="--picture-masks is for fg_both, which wants masks of"):
        check_picture_masks(tmp_path, bare, DISENDIFF)


def test_two_masks_of_one_picture_are_refused(tmp_path: Path):
    for name in ("0001_a.png", "0002_a.png"):
        save(tmp_path / name, torch.ones(8, 8, 3))
    with pytest.raises(ValueError, match=r"0001_a.png and .*0002_a.png are both masks of one"):
        masks_of(tmp_path, {})


def test_a_picture_has_the_mask_of_its_name_wherever_its_row_stands(tmp_path: Path):
    save(tmp_path / "masks" / "0001_detex_dog_1.png", torch.ones(8, 8, 3))
    save(tmp_path / "masks" / "more" / "0002_detex_cat_1.mask.png", torch.ones(8, 8, 3))
    dog, cat = tmp_path / "0002_detex_dog_1.png", tmp_path / "0003_detex_cat_1.png"
    found = masks_of(tmp_path / "masks", {"detex dog 1": [dog], "detex cat 1": [cat]})
    assert [found[dog].name, found[cat].name] == [
        "0001_detex_dog_1.png",
        "0002_detex_cat_1.mask.png",
    ]
    with pytest.raises(ValueError, match="has no mask of 0004_detex_cow_1.png. It wants a file"):
        masks_of(tmp_path / "masks", {"detex cow 1": [tmp_path / "0004_detex_cow_1.png"]})
