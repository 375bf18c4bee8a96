"""Dis²Booth on ComfyUI's classes: an individual in the sampler, its files, and the nodes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.sd
import nodes
import pytest
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from safetensors.torch import load_file
from torch import Tensor

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.concept.individuals import drawn_codes, individual
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.denoiser import training_session
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.individuals import compose_all
from detex_pack.detex.methods.dis2booth import Dis2Booth, Dis2BoothConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.photos.varied import make_varied
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run
from detex_pack.detex.unet.condition import Condition
from detex_pack.detex.unet.deltas import LowRank, as_matrix
from detex_pack.nodes.attention import CaptureAttention
from detex_pack.nodes.compose import ComposePrompt
from detex_pack.nodes.concept import ApplyEmbeddings, LoadEmbeddings, SaveEmbeddings
from detex_pack.nodes.draw import DrawIndividuals
from detex_pack.nodes.grid import PromptGrid
from detex_pack.nodes.merge import MergeConcepts
from detex_pack.nodes.varied import VariedImages

SIDE = 32
TEXT = "photo of a [V] ball"


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.rand(64, 64, 3, generator=generator) for _ in range(5)]


@pytest.fixture(scope="module")
def varied(pictures: list[Tensor], vae: comfy.sd.VAE, clip_vision: ClipVisionModel) -> Photos:
    mask = torch.zeros(64, 64)
    mask[16:48, 16:48] = 1
    see, encode = feature_encoder(clip_vision), latent_encoder(vae)
    return make_varied(pictures, [mask] * 5, see, encode, "ball", resolution=SIDE)


@pytest.fixture(scope="module")
def distribution(train, varied: Photos) -> Concept:
    return train(Dis2BoothConfig(), photos=varied, steps=6, learning_rate=5e-3)[0]


@pytest.fixture(scope="module")
def code(distribution: Concept) -> Tensor:
    return drawn_codes(distribution, 1, 1.0, 3)[0]


@pytest.fixture(scope="module")
def one(distribution: Concept, code: Tensor) -> Concept:
    return individual(distribution, code)


class Branches:
    """What the sampler's two branches answer at each step."""

    def __init__(self):
        self.seen: list[dict[str, Any]] = []

    def __call__(self, args: dict[str, Any]) -> Tensor:
        self.seen.append(args)
        return args["denoised"]


def sample(model: ModelPatcher, clip: comfy.sd.CLIP, conditioning: list) -> list[dict]:
    """ComfyUI's own sampler on fixed latents -> each step's branches."""
    branches, watched = Branches(), model.clone()
    watched.set_model_sampler_post_cfg_function(branches)
    negative = nodes.CLIPTextEncode().encode(clip, "")[0]
    generator = torch.Generator().manual_seed(0)
    start, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
    settings = (3, 4.0, "euler", "normal", conditioning, negative, start)
    comfy.sample.sample(watched, noise, *settings, disable_pbar=True, seed=0)
    return branches.seen


def live(method: Dis2Booth, denoiser, step: dict, context: Tensor, code: Tensor) -> Tensor:
    """What the UNet in training answers at a step of the sampler, denoised."""
    x, sigma = step["input"], step["sigma"]
    given = denoiser.sampling.calculate_input(sigma, x)
    times = denoiser.sampling.timestep(sigma).float()
    condition = Condition(context, context[:, 0, :0], codes=code[None])
    with method.insert(denoiser), torch.no_grad():
        output = denoiser.predict(given.clone(), times.clone(), condition)
    return denoiser.sampling.calculate_denoised(sigma, output, x)


def away(found: Tensor, wanted: Tensor) -> float:
    """The size of the difference, relative to what is wanted."""
    return ((found - wanted).norm() / wanted.norm()).item()


def test_applied_individual_is_the_live_forward_pass_branch_by_branch(
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    varied: Photos,
    distribution: Concept,
    code: Tensor,
    one: Concept,
):
    conditioning = compose_all(clip, one, [TEXT])[0]
    steps = sample(apply_concept(model, one, 1.0), clip, conditioning)
    empty = nodes.CLIPTextEncode().encode(clip, "")[0][0][0]
    with training_session(model, clip, (2, 4, 8, 8)) as session:
        method = Dis2Booth(varied, None, Dis2BoothConfig(), TrainConfig(), *session)
        with torch.no_grad():
            for deltas, kept in ((method.deltas, "deltas"), (method.varied, "varied")):
                for (layer, _), up, down in zip(
                    deltas.of_layers(), deltas.ups, deltas.downs, strict=True
                ):
                    stored: Any = getattr(distribution, kept)[layer.path]
                    up.copy_(stored.up)
                    down.copy_(stored.down)
        for step in steps:
            with_code = live(method, session[0], step, conditioning[0][0].clone(), code)
            without = live(method, session[0], step, empty.clone(), torch.zeros(8))
            assert away(step["cond_denoised"], with_code) < 1e-6
            assert away(step["uncond_denoised"], without) < 1e-6
            assert away(step["cond_denoised"], without) > 1e-5


def test_code_is_in_the_positive_branch_alone_and_leaves_the_model_as_it_was(
    model: ModelPatcher, clip: comfy.sd.CLIP, one: Concept
):
    patched = apply_concept(model, one, 1.0)
    riding = compose_all(clip, one, [TEXT])[0]
    bare = compose_all(clip, replace(one, varied={}), [TEXT])[0]
    with_code, anchor = sample(patched, clip, riding)[0], sample(patched, clip, bare)[0]
    # not to the bit: what has hooks is computed apart, in passes of another size
    assert away(with_code["uncond_denoised"], anchor["uncond_denoised"]) < 1e-6
    assert away(with_code["cond_denoised"], anchor["cond_denoised"]) > 1e-5
    again = sample(patched, clip, bare)[0]
    assert torch.equal(again["cond_denoised"], anchor["cond_denoised"])


def test_only_prompts_that_name_the_individual_have_its_part(clip: comfy.sd.CLIP, one: Concept):
    named = ComposePrompt.execute(clip, one, TEXT, 0, 0).args[0]
    negative = ComposePrompt.execute(clip, one, "blurry, ugly", 0, 0).args[0]
    assert len(named[0][1]["hooks"]) == 1 and "hooks" not in negative[0][1]
    cells = PromptGrid.execute(clip, one, f"{TEXT}\na ball\n{TEXT} at night", "0", "0").args[0]
    first, without, last = (cell[0][1].get("hooks") for cell in cells)
    assert without is None and first is last  # patched once for all cells


def test_strength_of_apply_is_that_of_both_parts(model, clip, one: Concept):
    _, half, _ = ApplyEmbeddings.execute(model, one, 0.5).args
    for name, delta in half.varied.items():
        assert torch.equal(as_matrix(delta), 0.5 * as_matrix(one.varied[name]))
    assert ApplyEmbeddings.execute(model, one, 1.0).args[1] is one
    assert not ApplyEmbeddings.execute(model, one, 0.0).args[1].varied


def test_attention_of_an_individual_is_captured(model, clip: comfy.sd.CLIP, one: Concept):
    patched = apply_concept(model, one, 1.0)
    watched, maps = CaptureAttention.execute(patched, clip, TEXT, "[V], ball").args
    sample(watched, clip, compose_all(clip, one, [TEXT])[0])
    heat = maps.heat_maps()
    assert heat.shape[:2] == (2, 1) and heat.isfinite().all()


# ---- files ---------------------------------------------------------------------------------------


def test_saved_individual_is_a_lora_of_the_sum_and_one_of_the_anchor(
    model, one: Concept, model_folders: Path
):
    saved = SaveEmbeddings.execute(one, "toy", True, diffusers_folder=True)
    (text,) = saved.ui.as_dict()["text"]
    assert "Create Hook LoRA" in text
    loras = {path.name: load_file(path) for path in (model_folders / "loras").iterdir()}
    assert set(loras) == {"toy_lora.safetensors", "toy_anchor_lora.safetensors"}
    for name, rank in (("toy_lora.safetensors", 16), ("toy_anchor_lora.safetensors", 8)):
        downs = [t for key, t in loras[name].items() if key.endswith("lora_down.weight")]
        assert len(downs) == len(one.deltas) and {len(down) for down in downs} == {rank}
    _, loaded, _ = LoadEmbeddings.execute(model, "toy.safetensors", 1.0).args
    for name, delta in one.varied.items():
        assert torch.equal(as_matrix(loaded.varied[name]), as_matrix(delta))


def test_anchor_alone_has_one_lora(distribution: Concept, model_folders: Path):
    SaveEmbeddings.execute(individual(distribution, torch.zeros(8)), "anchor", True)
    assert [path.name for path in (model_folders / "loras").iterdir()] == [
        "anchor_lora.safetensors"
    ]


def test_distribution_is_no_concept_for_apply_compose_and_save(
    model, clip: comfy.sd.CLIP, distribution: Concept, model_folders: Path
):
    for use in (
        lambda: ApplyEmbeddings.execute(model, distribution, 1.0),
        lambda: ComposePrompt.execute(clip, distribution, TEXT, 0, 0),
        lambda: SaveEmbeddings.execute(distribution, "toy", True),
    ):
        with pytest.raises(ValueError, match="many individuals, not one concept. Wire it into"):
            use()


def test_individuals_are_not_merged_and_the_reason_is_told(train, clip, one: Concept):
    with pytest.raises(ValueError, match="Concept 1 was learned with Dis²Booth .*just K"):
        MergeConcepts.execute(clip, concept_1=one, concept_2=train()[0])


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
def test_gradient_checkpointing_finds_the_codes_of_its_own_pass(
    model, clip: comfy.sd.CLIP, varied: Photos, schedule: str
):
    """The contextual loss asks the UNet about other pictures, before the pass with gradients."""
    config = Dis2BoothConfig(schedule=schedule, contextual_weight=1.0, code_dropout=0.5)

    def gradients(*, checkpointing: bool) -> list[Tensor]:
        with training_session(model, clip, (6, 4, 8, 8)) as session:
            method = Dis2Booth(varied, None, config, TrainConfig(batch_size=4), *session)
            session[0].gradient_checkpointing = checkpointing
            with torch.no_grad():
                for up in (*method.deltas.ups, *method.varied.ups):
                    up.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
            run, batch = Run(method, session[0], method.train_config), method.draw()
            batch = replace(batch, timesteps=torch.full((4,), 300), clear=(True,) * 4)  # type: ignore[call-arg]
            with method.insert(session[0]):
                terms = method.losses(batch, run.predict, method.turn(0))
                torch.stack([method.weights[n] * t for n, t in terms.items()]).sum().backward()
            assert terms["contextual"] > 0
            return [p.grad.clone() for p in method.learned.parameters() if p.grad is not None]

    plain, again = gradients(checkpointing=False), gradients(checkpointing=True)
    assert len(plain) == len(again) and any(gradient.any() for gradient in plain)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


# ---- the nodes -----------------------------------------------------------------------------------


def collected(vae, pictures: Tensor, masks: Tensor | None = None, **changes: Any):
    widgets = {"class_word": "ball", "backgrounds": "", "resolution": 64, "seed": 0} | changes
    lists = {name: [value] for name, value in widgets.items()}
    planes = None if masks is None else [masks]
    return VariedImages.execute([pictures], [vae], planes, **lists).args


def test_node_gives_the_pictures_and_a_sheet_with_numbers(vae, pictures: list[Tensor]):
    subject, sheet = collected(vae, torch.stack(pictures), backgrounds="a\n\nb\n\nc")
    assert subject.photos.count == 5 and subject.photos.places == ("a", "", "b", "", "c")
    assert subject.photos.features is None and sheet.shape[0] == 1


def test_black_masks_throughout_count_as_none(vae, pictures: list[Tensor]):
    subject, _ = collected(vae, torch.stack(pictures), torch.zeros(5, 64, 64))
    assert subject.photos.masks is None and subject.photos.composites is None


@pytest.mark.parametrize(
    ("images", "masks", "changes", "message"),
    [
        (torch.rand(3, 64, 64, 3), None, {}, "There are 3 pictures, and 4 are the least"),
        (torch.full((6, 64, 64, 3), 0.5), None, {}, "All 6 pictures are the same"),
        (torch.rand(5, 64, 64, 3), torch.ones(2, 64, 64), {}, "There are 5 photos but 2 masks"),
        (torch.rand(5, 64, 64, 3), None, {"backgrounds": "a\nb"}, "There are 5 pictures but 2 li"),
        (torch.rand(5, 48, 48, 3), None, {}, "Photo 1 has 48 x 48 pixels"),
        (torch.rand(5, 64, 64, 3), None, {"class_word": ""}, "The class word is empty"),
    ],
)
def test_bad_input_is_told_by_the_node(vae, images, masks, changes, message):
    with pytest.raises(ValueError, match=message):
        collected(vae, images, masks, **changes)


def test_individuals_are_a_list_of_concepts_with_labels(distribution: Concept):
    concepts, labels = DrawIndividuals.execute(distribution, 3, 5, 1.0, 0, 0).args
    assert labels == ["5-1", "5-2", "5-3"]
    assert len({tuple(concept.config["code"]) for concept in concepts}) == 3
    assert all(concept.codes is None and concept.varied for concept in concepts)
    mixed, labels = DrawIndividuals.execute(distribution, 3, 5, 1.0, 1, 4).args
    assert labels == ["1 to 4, 0%", "1 to 4, 50%", "1 to 4, 100%"] and len(mixed) == 3
    fourth, labels = DrawIndividuals.execute(distribution, 9, 5, 1.0, 0, 0, only=2).args
    assert labels == ["5-2"] and fourth[0].config["code"] == concepts[1].config["code"]
    (picture,), labels = DrawIndividuals.execute(distribution, 1, 5, 1.0, 2, 0).args
    assert labels == ["picture 2"] and isinstance(next(iter(picture.varied.values())), LowRank)


def test_bad_requests_are_told_by_the_node(distribution: Concept, varied: Photos, train):
    with pytest.raises(ValueError, match="The diversity is -1; it lies between 0"):
        DrawIndividuals.execute(distribution, 1, 0, -1.0, 0, 0)
    with pytest.raises(ValueError, match="There is no picture 8: .* learned from 5"):
        DrawIndividuals.execute(distribution, 1, 0, 1.0, 8, 0)
    with pytest.raises(ValueError, match="Only individual 4 is wanted, but 3 are drawn"):
        DrawIndividuals.execute(distribution, 3, 0, 1.0, 0, 0, only=4)
    untrained = train(Dis2BoothConfig(schedule="sequential"), photos=varied, steps=2)[0]
    with pytest.raises(ValueError, match="has not learned how its individuals vary"):
        DrawIndividuals.execute(untrained, 1, 0, 1.0, 0, 0)
