"""The pack in ComfyUI's own loader, its schemas, and what each node refuses."""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import comfy.sd
import nodes
import pytest
import torch
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import io
from torch import Tensor

from detex_pack.benchmarks.arms import ARMS, tuned_values
from detex_pack.benchmarks.hypotheses import study
from detex_pack.detex.concept.file import Concept
from detex_pack.detex.evaluate.recipes import NODES, PAPER
from detex_pack.detex.methods import method_of
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.prompt.grammar import Named
from detex_pack.detex.training.config import TrainConfig, as_json
from detex_pack.detex.training.loop import Losses
from detex_pack.nodes import comfy_entrypoint
from detex_pack.nodes import train as train_node
from detex_pack.nodes.concept import ApplyEmbeddings, LoadEmbeddings, SaveEmbeddings
from detex_pack.nodes.preset import TrainingPreset
from detex_pack.nodes.subject import SubjectImages
from detex_pack.nodes.train import Train, prior_note
from detex_pack.nodes.train import prior_latents as prior_latents_of
from detex_pack.nodes.train_inputs import config_of

SNAPSHOT = Path(__file__).with_name("schemas.json")
IDS = {
    "DETEXApplyEmbeddings",
    "DETEXAttentionPreview",
    "DETEXBestStep",
    "DETEXCaptureAttention",
    "DETEXClassPriorImages",
    "DETEXCompareConcepts",
    "DETEXComposePrompt",
    "DETEXConceptsInOnePhoto",
    "DETEXDemoModel",
    "DETEXDemoSet",
    "DETEXDemoSubject",
    "DETEXDis2BoothTrain",
    "DETEXDisenDiffTrain",
    "DETEXDrawIndividuals",
    "DETEXEvaluateConcept",
    "DETEXLabelledGrid",
    "DETEXLoadEmbeddings",
    "DETEXLoadSubjectFolder",
    "DETEXMergeConcepts",
    "DETEXPlacePictures",
    "DETEXPromptGrid",
    "DETEXSaveEmbeddings",
    "DETEXSubjectImages",
    "DETEXSubjectMask",
    "DETEXTrain",
    "DETEXTrainingPreset",
    "DETEXVariedImages",
}


class Records(logging.Handler):
    """Keeps every message of at least a warning."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(scope="module")
def loaded(root: Path) -> Iterator[SimpleNamespace]:
    """The pack, loaded by ComfyUI's own loader as from custom_nodes."""
    records, patch = Records(), pytest.MonkeyPatch()
    for name in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "EXTENSION_WEB_DIRS"):
        patch.setattr(nodes, name, dict(getattr(nodes, name)))
    known = set(nodes.NODE_CLASS_MAPPINGS)
    logging.getLogger().addHandler(records)
    try:
        success = asyncio.run(nodes.load_custom_node(str(root)))
        new = {k: v for k, v in nodes.NODE_CLASS_MAPPINGS.items() if k not in known}
        web = nodes.EXTENSION_WEB_DIRS.get(root.name)
        yield SimpleNamespace(success=success, classes=new, messages=records.messages, web=web)
    finally:
        logging.getLogger().removeHandler(records)
        patch.undo()


def test_pack_loads_without_a_warning(loaded: SimpleNamespace):
    assert loaded.success
    assert loaded.messages == []


def test_pack_registers_exactly_the_intended_nodes(loaded: SimpleNamespace):
    assert set(loaded.classes) == IDS


def test_pack_speaks_the_new_node_api_only(root: Path):
    # with NODE_CLASS_MAPPINGS beside it, ComfyUI would never call the entry point
    assert "NODE_CLASS_MAPPINGS" not in (root / "__init__.py").read_text(encoding="utf-8")


def test_every_node_has_its_help_page_where_the_page_looks(loaded: SimpleNamespace):
    assert loaded.web is not None
    pages = {path.stem for path in (Path(loaded.web) / "docs").glob("*.md")}
    assert pages == IDS


def type_of(specification: tuple) -> list:
    """[type] of an input; with its choices and default, where it has some."""
    kind, *rest = specification
    options = rest[0] if rest else {}
    fact: dict = {"type": "COMBO" if isinstance(kind, list) else kind}
    fact |= {key: options[key] for key in ("default", "min", "max", "advanced") if key in options}
    choices = options.get("options", kind if isinstance(kind, list) else None)
    if choices is not None:
        fact["choices"] = choices
    return fact


def schema_facts(node: type) -> dict:
    info = node.GET_NODE_INFO_V1()
    inputs = {
        group: {name: type_of(spec) for name, spec in info["input"].get(group, {}).items()}
        for group in ("required", "optional")
    }
    for name in ("file", "checkpoint", "sampler_name", "scheduler"):
        inputs["required"].get(name, {}).pop("choices", None)  # of this machine and ComfyUI
    return {
        "inputs": inputs,
        "outputs": [
            [name, kind] for name, kind in zip(info["output_name"], info["output"], strict=True)
        ],
        "is_output_node": info["output_node"],
    }


def test_schemas_are_those_of_the_snapshot(loaded: SimpleNamespace):
    facts = {name: schema_facts(node) for name, node in sorted(loaded.classes.items())}
    if os.environ.get("UPDATE_SCHEMAS"):
        SNAPSHOT.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(facts)) == stored, (
        "Saved workflows depend on these names and types. If the change is meant, say so in "
        "CHANGELOG.md and run the test once with UPDATE_SCHEMAS=1."
    )


@pytest.fixture(scope="module", params=sorted(IDS))
def schema(request: pytest.FixtureRequest) -> io.Schema:
    extension = asyncio.run(comfy_entrypoint())
    asyncio.run(extension.on_load())  # as ComfyUI does, before it asks for the nodes
    classes = asyncio.run(extension.get_node_list())
    return next(s for s in (c.GET_SCHEMA() for c in classes) if s.node_id == request.param)


def test_every_input_and_output_has_a_tooltip(schema: io.Schema):
    bare = [
        part.id or part.display_name
        for part in (*schema.inputs, *schema.outputs)
        if not part.tooltip
    ]
    assert bare == []


def test_every_node_has_a_description_and_the_packs_category(schema: io.Schema):
    assert schema.description
    assert schema.category.split("/")[0] == "DETEX"


def test_defaults_are_the_improved_mode_of_the_experiment():
    """README gives its figures as those of DETEX as the nodes have it, at the rates of the little
    world.
    """
    node, subject = defaults(Train), defaults(SubjectImages)
    arm, without_places = ARMS["places"], ARMS["improved"]
    for one in (arm, without_places):
        assert (subject["blank"], subject["scaled_copies"]) == (one.blank, one.scaled_copies)
    settings = as_json(arm.train_config(study("main").steps[0], seed=0), arm.config)
    called = {
        "attention_weight": "lambda_ca",
        "prior_weight": "lambda_pr",
        "keep_weight": "lambda_keep",
    }
    measured = {called.get(name, name): value for name, value in settings.items()}
    measured["method"] = method_of(arm.config).name
    no_inputs = {"weight_decay", "gradient_clip", "masked_pose", "plain_mapper"}
    assert measured.keys() - node.keys() == no_inputs
    same = measured.keys() - no_inputs - tuned_values().keys() - {"center_poses"}
    assert {name: node[name] for name in same} == {name: measured[name] for name in same}
    assert node["center_poses"] is without_places.config.center_poses is True
    assert arm.config.center_poses is False  # as the node decides where there are composites


def test_protocol_trains_the_papers_detex_and_that_of_the_nodes():
    widgets = {name for name, value in defaults(Train).items() if value is not None}
    assert PAPER.keys() == widgets
    assert config_of(Detex, PAPER) == (DetexConfig(), TrainConfig())
    own = {"steps", "preview_every"}  # of the protocol
    assert {k: v for k, v in (PAPER | NODES).items() if k not in own} == {
        name: value
        for name, value in defaults(Train).items()
        if name in widgets and name not in own
    }


def defaults(node: type[io.ComfyNode]) -> dict[str, object]:
    return {part.id: getattr(part, "default", None) for part in node.GET_SCHEMA().inputs}


Collect = Callable[..., object]


@pytest.fixture(scope="module")
def photos(photos: list[Tensor]) -> list[Tensor]:
    """conftest's at twice their size: the node takes none below 64 pixels."""
    return [photo.repeat_interleave(2, 0).repeat_interleave(2, 1) for photo in photos]


@pytest.fixture(scope="module")
def collect(vae: comfy.sd.VAE, clip_vision: ClipVisionModel) -> Collect:
    """Subject Images as ComfyUI calls it: every input a list."""

    def run(photos: list[Tensor], masks: list[Tensor], **changes):
        widgets = {
            "class_word": "dog",
            "attribute": "auto",
            "resolution": 32,
            "blank": "white",
            "scaled_copies": 0,
            "seed": 0,
        }
        single = {name: [value] for name, value in (widgets | changes).items()}
        wired = {"masks": [m[None] for m in masks], "clip_vision": [clip_vision]}
        return SubjectImages.execute([p[None] for p in photos], [vae], **wired, **single).args[0]

    return run


def test_photos_and_masks_become_a_subject(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    made = collect(photos, masks).photos
    assert made.named == (Named("V", "dog", "pose", (1, 2, 3)),)
    assert made.count == 3 and made.latents.shape == (3, 1, 4, 8, 8)


def test_batch_of_photos_counts_as_that_many(vae: comfy.sd.VAE, clip_vision: ClipVisionModel):
    photos = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 32, 32)
    masks[:, 8:20, 8:20] = 1
    single = [["dog"], ["auto"], [32], ["white"], [0], [0]]
    names = ("class_word", "attribute", "resolution", "blank", "scaled_copies", "seed")
    widgets = dict(zip(names, single, strict=True))
    wired = {"masks": [masks], "clip_vision": [clip_vision]}
    made = SubjectImages.execute([photos], [vae], **wired, **widgets).args[0]
    assert made.photos.count == 2


def test_transparency_of_a_photo_is_ignored(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    with_alpha = [torch.cat([p, torch.zeros_like(p[..., :1])], dim=-1) for p in photos]
    made = collect(with_alpha, masks)
    assert made.photos.hashes == collect(photos, masks).photos.hashes


def test_grey_photo_is_read_as_rgb(collect: Collect, photos: list[Tensor], masks: list[Tensor]):
    grey = [p[..., :1] for p in photos]
    in_colour = [g.expand(-1, -1, 3) for g in grey]
    assert collect(grey, masks).photos.hashes == collect(in_colour, masks).photos.hashes


def test_mask_of_another_size_is_scaled_to_its_photo(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    small = [m[::2, ::2] for m in masks]
    scaled, whole = (collect(photos, planes).photos.masks.mean() for planes in (small, masks))
    torch.testing.assert_close(scaled, whole, atol=0.03, rtol=0)


def test_mask_of_another_shape_is_refused_by_number_unless_it_is_empty(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    height = len(masks[1])
    with pytest.raises(ValueError, match=r"mask of photo 2 has .* another shape"):
        collect(photos, [masks[0], masks[1][: height // 2], masks[2]])
    with pytest.raises(ValueError, match="mask of photo 2 is empty"):
        collect(photos, [masks[0], torch.zeros(64, 32), masks[2]])


def test_photo_of_less_than_64_pixels_is_refused_before_anything_is_encoded(
    photos: list[Tensor], masks: list[Tensor]
):
    small = photos[1][:48, :60]
    with pytest.raises(ValueError, match="Photo 2 has 60 x 48 pixels; .* leave it out"):
        SubjectImages.execute([photos[0][None], small[None]], [None], [masks[0][None]], [None])


def test_count_mismatch_is_refused(collect: Collect, photos: list[Tensor], masks: list[Tensor]):
    with pytest.raises(ValueError, match="There are 3 photos but 2 masks. Wire one mask for each"):
        collect(photos, masks[:2])


def test_photo_with_nan_is_refused_by_number(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    broken = photos[1].clone()
    broken[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Photo 2 holds NaN or infinite pixels"):
        collect([photos[0], broken, photos[2]], masks)


def test_empty_and_inverted_masks_are_refused_by_number(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    with pytest.raises(ValueError, match="mask of photo 3 is empty"):
        collect(photos, [*masks[:2], torch.zeros_like(masks[2])])
    with pytest.raises(ValueError, match="mask of photo 1 looks inverted"):
        collect(photos, [1 - masks[0], *masks[1:]])


def test_prior_images_are_cropped_and_encoded_like_photos(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    subject = collect(photos, masks)
    wide = torch.rand(2, 40, 60, 3, generator=torch.Generator().manual_seed(1))
    latents = prior_latents_of(subject, wide)
    assert latents.shape == (2, 4, 8, 8)


def test_prior_images_that_are_enlarged_are_told_of(
    collect: Collect, photos: list[Tensor], masks: list[Tensor]
):
    subject = collect(photos, masks)
    assert prior_note(subject, torch.zeros(2, 24, 40, 3)) == (
        "The prior images of 24 pixels were enlarged to 32, and are blurred. Make them at 32."
    )
    assert prior_note(subject, torch.zeros(2, 32, 40, 3)) == ""
    assert prior_note(subject, None) == ""


@pytest.fixture
def trained(
    collect: Collect,
    photos: list[Tensor],
    masks: list[Tensor],
    clip: comfy.sd.CLIP,
    concept: Concept,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Losses], io.NodeOutput]:
    """What DETEX Train gives out where the training had these losses."""

    def output(losses: Losses) -> io.NodeOutput:
        monkeypatch.setattr(train_node, "train_concept", lambda *_: (concept, losses))
        wired = {"model": None, "clip": clip, "subject": collect(photos, masks)}
        widgets = {name: value for name, value in defaults(Train).items() if value is not None}
        return Train.execute(**wired, **widgets)

    return output


def test_loss_map_is_the_total_and_the_steady_loss(
    trained: Callable[[Losses], io.NodeOutput], concept: Concept
):
    terms = {"diffusion": [1.0, 2.0], "prior": [4.0, 2.0], "total": [5.0, 4.0]}
    learned, loss_map, _ = trained(Losses(terms, {"0": 0.7, "2": 0.5})).args
    assert learned is concept
    assert loss_map == {"loss": [5.0, 4.0], "steady_loss": [0.7, 0.5]}


def test_last_text_names_the_best_step_of_the_live_samples(
    trained: Callable[[Losses], io.NodeOutput],
):
    scores = {"1": {"looks like it": 0.7}, "2": {"looks like it": 0.6}}
    losses = Losses({"total": [5.0, 4.0]}, {"0": 0.7, "2": 0.5}, scores)
    (text,) = trained(losses).ui.as_dict()["text"]
    best = "\nOf the live samples, one picture each, step 1 was the best. "
    assert text.endswith(best + "To have that step, set steps to 1.")


def test_photos_go_without_masks_and_image_encoder(vae: comfy.sd.VAE, photos: list[Tensor]):
    names = ("class_word", "attribute", "resolution", "blank", "scaled_copies", "seed")
    widgets = dict(zip(names, [["dog"], ["auto"], [32], ["white"], [0], [0]], strict=True))
    made = SubjectImages.execute([p[None] for p in photos], [vae], **widgets).args[0].photos
    assert made.count == 3
    assert made.masks is None and made.blanked is None and made.features is None


@pytest.mark.parametrize(
    ("word", "prompt"),
    [
        ("brown dog", "photo of a [V] brown dog with [P1] pose in [B1] background"),
        ("犬", "photo of a [V] 犬 with [P1] view in [B1] background"),
    ],
)
def test_subject_images_shows_the_word_that_auto_chose(vae, photos: list[Tensor], word, prompt):
    names = ("class_word", "attribute", "resolution", "blank", "scaled_copies", "seed")
    widgets = dict(zip(names, [[word], ["auto"], [32], ["white"], [0], [0]], strict=True))
    shown = SubjectImages.execute([p[None] for p in photos], [vae], **widgets).ui
    assert shown.as_dict()["text"] == (f"Photo 1: {prompt}",)


def test_a_preset_says_what_it_chose_for_the_model(model):
    chosen = TrainingPreset.execute(model, "fast")
    assert chosen.args == (64, 50, 20, 300)
    assert chosen.ui.as_dict()["text"][0] == (
        "the DETEX demo model: 64 pixels, 300 steps; 50 prior images and all places in 20 sampling "
        "steps each"
    )


def test_load_gives_what_save_wrote(model, model_folders: Path, concept: Concept):
    (name,) = SaveEmbeddings.execute(concept, "toy", False).args
    patched, loaded_concept, sheet = LoadEmbeddings.execute(model, name, 1.0).args
    assert loaded_concept.word_names == concept.word_names
    assert len(patched.patches) == 14
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3


def test_load_of_a_foreign_file_says_where_it_belongs(model, model_folders: Path, concept: Concept):
    SaveEmbeddings.execute(concept, "toy", True)
    lora = (model_folders / "loras" / "toy_lora.safetensors").read_bytes()
    (model_folders / "detex" / "lora.safetensors").write_bytes(lora)
    with pytest.raises(ValueError, match="lora.safetensors is not a DETEX concept file. A LoRA"):
        LoadEmbeddings.execute(model, "lora.safetensors", 1.0)


def test_strength_zero_hands_on_the_very_model(model, concept: Concept):
    assert ApplyEmbeddings.execute(model, concept, 0.0).args[0] is model


def test_changed_file_is_loaded_again(model_folders: Path, concept: Concept):
    (name,) = SaveEmbeddings.execute(concept, "toy", False).args
    before = LoadEmbeddings.fingerprint_inputs(file=name)
    path = model_folders / "detex" / name
    assert LoadEmbeddings.fingerprint_inputs(file=name) == before
    path.write_bytes(path.read_bytes() + b" ")
    assert LoadEmbeddings.fingerprint_inputs(file=name) != before
