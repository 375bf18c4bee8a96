"""DisenDiff on ComfyUI's classes: tokens, nodes, and what a concept of two subjects is good for."""

from collections.abc import Iterator
from pathlib import Path

import comfy.sample
import comfy.sd
import node_helpers
import nodes
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from graphs import Keep, executor_errors, node, one_photo_graph, run
from safetensors.torch import load_file
from torch import Tensor

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host import attention as host_attention
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.denoiser import training_session
from detex_pack.detex.host.export import Export, plan, write
from detex_pack.detex.host.families import cross_attentions
from detex_pack.detex.host.images import latent_encoder
from detex_pack.detex.host.sampling import sample as sample_live
from detex_pack.detex.host.text import ComfyTextEncoder
from detex_pack.detex.methods.disendiff import DisenDiff, DisenDiffConfig
from detex_pack.detex.photos.concepts import make_concepts, make_scene, named_concepts
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run
from detex_pack.detex.unet.attention import AttentionTap, attention_probs
from detex_pack.detex.unet.deltas import as_matrix
from detex_pack.detex.unet.features import quarter_grid
from detex_pack.nodes.attention import CaptureAttention
from detex_pack.nodes.compose import ComposePrompt
from detex_pack.nodes.concept import LoadEmbeddings
from detex_pack.nodes.grid import PromptGrid
from detex_pack.nodes.merge import MergeConcepts
from detex_pack.nodes.one_photo import ConceptsInOnePhoto
from devtools.checkpoints import LAYOUTS

SIDE = 32
BOTH = "photo of a [V] red ball and [V2] cup"


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def two_masks() -> Tensor:
    planes = torch.zeros(2, 64, 64)
    planes[0, 16:48, 4:28], planes[1, 16:48, 36:60] = 1, 1
    return planes


@pytest.fixture(scope="module")
def scene_of(picture: Tensor, two_masks: Tensor, vae: comfy.sd.VAE):
    def make(class_words: str = "red ball, cup", *, masks: bool = False, side=SIDE) -> Photos:
        named = named_concepts(class_words)
        scene = make_scene(picture, list(two_masks) if masks else None, named, side)
        return make_concepts(picture, scene, named, latent_encoder(vae), scaled_copies=4)

    return make


@pytest.fixture(scope="module")
def concept(train, scene_of) -> Concept:
    """Of a red ball and a cup."""
    return train(DisenDiffConfig(), photos=scene_of(masks=True), steps=3)[0]


@pytest.fixture
def session(model: ModelPatcher, clip: comfy.sd.CLIP) -> Iterator[tuple]:
    with training_session(model, clip, (4, 4, 8, 8)) as opened:
        yield opened


def method_of(session: tuple, photos: Photos) -> DisenDiff:
    return DisenDiff(photos, None, DisenDiffConfig(), TrainConfig(batch_size=2), *session)


# ---- words and tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_words", "pieces"),
    [
        ("cat, dog", [1, 1]),
        ("teddy bear, polar bear", [2, 2]),
        ("cat, cat", [1, 1]),
        ("zwergspitz", [5]),
        ("zwergspitz, old red boot, hat", [5, 3, 1]),
    ],
)
def test_class_words_stand_behind_their_modifiers_in_every_caption(
    session: tuple, scene_of, class_words: str, pieces: list[int]
):
    method = method_of(session, scene_of(class_words))
    assert list(method.pieces.values()) == pieces
    for _ in range(4):
        for prompt in method.draw().prompts:
            for word, one in method.concepts.items():
                start, count = prompt.position(word), method.pieces[word]
                assert start is not None
                alone = ComfyTextEncoder(session[1].clip).tokenize(one.class_word)
                assert prompt.ids[0][start + 1 : start + 1 + count] == alone.ids[0][1 : 1 + count]
                assert alone.ids[0][1 + count] == 49407  # and no piece is left out


def test_same_class_word_twice_has_maps_of_its_own_places(session: tuple, scene_of):
    method = method_of(session, scene_of("cat, cat"))
    batch, run_ = method.draw(), Run(method, session[0], method.train_config)
    tap = method.tap(batch)
    with method.insert(session[0]):
        run_.predict(batch, method.condition(batch), [tap])
    maps = method.class_maps(batch, tap)
    assert not torch.allclose(maps[:, 0], maps[:, 1], atol=1e-7)


def test_live_samples_are_one_a_concept_and_one_of_all(session: tuple, scene_of):
    method = method_of(session, scene_of("cat, dog, hat"))
    with method.insert(session[0]):
        drawn = sample_live(session[0], method.samples(), (4, 8, 8), 1)
    assert drawn.shape == (4, 4, 8, 8) and drawn.isfinite().all()


def test_class_words_that_do_not_fit_are_refused_before_the_first_step(session: tuple, scene_of):
    long = ", ".join(f"{'zwergspitz ' * 3}{colour}" for colour in ("red", "blue", "old", "big"))
    with pytest.raises(ValueError, match=r'"(.*)photo of a \[V\] zwerg.* longer than 77 tokens'):
        method_of(session, scene_of(long))


def test_maps_of_a_quarter_exist_where_the_unet_halves_twice(vae: comfy.sd.VAE, clip):
    """Three levels of 32, 16 and 8 cells: the maps of 32 / 4 are those of the deepest."""
    layout = {
        "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 1, 2],
        "transformer_depth": [1, 1, 1],
        "transformer_depth_output": [1] * 6,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.UNETS, comfy.supported_models.SD15, {**tiny.UNET, **layout})
        model = tiny.tiny_model()
        with training_session(model, clip, (1, 4, 32, 32)) as opened:
            photo, named = torch.rand(128, 128, 3), named_concepts("cat, dog")
            scene = make_scene(photo, None, named, 128)
            photos = make_concepts(photo, scene, named, latent_encoder(vae), scaled_copies=0)
            method = DisenDiff(photos, None, DisenDiffConfig(), TrainConfig(batch_size=1), *opened)
            batch = method.draw()
            tap = method.tap(batch)
            with method.insert(opened[0]), torch.no_grad():
                Run(method, opened[0], method.train_config).predict(
                    batch, method.condition(batch), [tap]
                )
    assert tap.grid == (8, 8)
    # at 8 x 8: input block 5 or so, the middle, two of the output; the finer ones have no map
    assert tap.layers == 4


def test_maps_at_real_size_are_those_of_16_by_16_alone(monkeypatch: pytest.MonkeyPatch):
    """Stable Diffusion 1.5's own UNet at 512 pixels: shapes without numbers."""
    layout, meta, seen = LAYOUTS["sd15"], torch.device("meta"), []

    def probs(q: Tensor, k: Tensor, heads: int) -> Tensor:
        seen.append(q.shape[1])
        return attention_probs(q, k, heads)

    monkeypatch.setattr(host_attention, "attention_probs", probs)
    with meta:
        base = layout.kind(dict(layout.unet)).get_model({}, "", meta)
        latents, context = torch.zeros(1, 4, 64, 64), torch.zeros(1, 77, 768)
        tap = AttentionTap(quarter_grid(latents), rows=1)
        layers = cross_attentions(ModelPatcher(base, meta, meta))
        options = host_attention.training_options(layers, (tap,))
        unet = base.diffusion_model
        unet(latents, torch.zeros(1), context=context, transformer_options=options)
    assert len(layers) == 16 and tap.grid == (16, 16)
    assert seen == [256] * 5  # input blocks 7 and 8, output blocks 3, 4 and 5


# ---- the nodes -----------------------------------------------------------------------------------


def one_photo(vae, image, masks=None, **widgets):
    settings = {"class_words": "red ball, cup", "resolution": 64, "scaled_copies": 2, "seed": 0}
    lists = {name: [value] for name, value in (settings | widgets).items()}
    planes = None if masks is None else [masks]
    return ConceptsInOnePhoto.execute([image], [vae], planes, **lists).args


def test_node_gives_photo_sheet_and_the_class_words_in_one(vae, picture: Tensor, two_masks: Tensor):
    photo, sheet, class_word = one_photo(vae, picture[None], two_masks)
    assert class_word == "red ball and a cup"
    assert [one.word for one in photo.photos.named] == ["V", "V2"]
    assert photo.photos.masks.shape[:3] == (1, 2, 2)
    assert sheet.shape[0] == 1 and sheet.shape[2] > 512
    assert one_photo(vae, picture[None])[0].photos.masks is None


@pytest.mark.parametrize(
    ("image", "masks", "widgets", "message"),
    [
        (torch.rand(2, 64, 64, 3), None, {}, "There are 2 photos, and the concepts are learned"),
        (torch.rand(1, 64, 64, 3), None, {"class_words": " "}, "The class word is empty"),
        (torch.rand(1, 64, 64, 3), None, {"class_words": "b,c,d,e,f,g,h,i"}, "There are 8 class"),
        (torch.rand(1, 64, 64, 3), torch.zeros(3, 64, 64), {}, "There are 3 masks for 2 class"),
        (torch.rand(1, 64, 64, 3), torch.zeros(2, 64, 64), {}, r"mask of \[V\] red ball is empty"),
    ],
)
def test_bad_input_is_told_by_the_node(vae, image, masks, widgets, message):
    with pytest.raises(ValueError, match=message):
        one_photo(vae, image, masks, **widgets)


def test_prior_images_of_the_node_are_captioned_as_the_training_captions_them(
    session: tuple, scene_of
):
    method = method_of(session, scene_of("apple, cup"))
    prompt = method.prompt("", ())
    assert prompt == method.text.tokenize("photo of an apple and a cup")


def test_graph_of_three_concepts_trains_saves_and_tells_the_overlap(
    executor, model_folders: Path, two_masks: Tensor
):
    graph = one_photo_graph("TinyModels", "ball, cup, hat", steps=2)
    graph["third"] = node("Keep", value=["train", 0], name="concept")
    run(executor, graph)
    assert executor.success, executor_errors(executor)
    assert Keep.kept["concept"].word_names == ("V", "V2", "V3")
    files = {path.name for path in (model_folders / "embeddings").iterdir()}
    assert files == {f"toy_{word}.safetensors" for word in ("v", "v2", "v3")}


def test_weights_of_zero_ask_for_no_maps(train, scene_of):
    plain = DisenDiffConfig(bind_weight=0, separate_weight=0)
    losses = train(plain, photos=scene_of(), steps=2)[1]
    assert set(losses.terms) == {"diffusion", "prior", "total"}


# ---- the concept ---------------------------------------------------------------------------------


def test_concept_of_two_is_saved_loaded_composed_and_exported(
    concept: Concept, model: ModelPatcher, clip: comfy.sd.CLIP, model_folders: Path
):
    write(plan(concept, "toy", [Export.STOCK, Export.DIFFUSERS]))
    _, loaded, sheet = LoadEmbeddings.execute(model, "toy.safetensors", 1.0).args
    assert loaded.named == concept.named and loaded.word_names == ("V", "V2")
    assert loaded.class_word == "red ball and cup" and sheet.shape[0] == 1
    assert concept.report["overlap"]["after"].keys() == {"[V]", "[V2]"}
    conditioning, text = ComposePrompt.execute(clip, loaded, BOTH, 0, 0).args
    assert text == BOTH and conditioning[0][0].isfinite().all()
    _, plain = ComposePrompt.execute(clip, loaded, "a red ball, a cup", 0, 0, insert_v=True).args
    assert plain == "a [V] red ball, a [V2] cup"
    for word in ("v", "v2"):
        stored = load_file(model_folders / "embeddings" / f"toy_{word}.safetensors")
        assert torch.equal(stored["clip_l"], concept.words[word.upper()]["l"])
    grid = PromptGrid.execute(clip, loaded, "a [V] red ball\na [V2] cup", "", "").args
    assert len(grid[0]) == 2


def test_attention_of_both_words_is_captured(
    concept: Concept, model: ModelPatcher, clip: comfy.sd.CLIP
):
    patched = apply_concept(model, concept, 1.0)
    watched, maps = CaptureAttention.execute(patched, clip, BOTH, "[V], [V2], cup").args
    sample(watched, ComposePrompt.execute(clip, concept, BOTH, 0, 0).args[0], clip)
    heat = maps.heat_maps()
    assert heat.shape[:2] == (3, 1) and not torch.equal(heat[0], heat[1])


def test_concept_of_two_merges_with_another(train, concept: Concept, clip: comfy.sd.CLIP):
    merged = MergeConcepts.execute(clip, concept_1=concept, concept_2=train(steps=2)[0]).args[0]
    assert merged.word_names[:3] == ("V", "V2", "V3")
    assert torch.equal(merged.words["V2"]["l"], concept.words["V2"]["l"])
    assert merged.class_word == "red ball and cup and ball"


def sample(
    model: ModelPatcher, conditioning: list, clip: comfy.sd.CLIP, mask: Tensor | None = None
) -> Tensor:
    """ComfyUI's own sampler on fixed latents; mask [1, 1, h, w]: where it may paint."""
    empty = nodes.CLIPTextEncode().encode(clip, "")[0]
    generator = torch.Generator().manual_seed(0)
    start, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
    settings = (3, 4.0, "euler", "normal", conditioning, empty, start)
    return comfy.sample.sample(model, noise, *settings, noise_mask=mask, disable_pbar=True, seed=0)


def weights(patched: ModelPatcher, concept: Concept) -> dict[str, Tensor]:
    names = [f"diffusion_model.{name}.weight" for name in concept.deltas]
    return {name: patched.patch_weight_to_device(name, return_weight=True) for name in names}


def style_lora(model: ModelPatcher) -> dict[str, Tensor]:
    """A LoRA of rank 2 on all of the UNet's attention, under ComfyUI's generic names."""
    generator, lora = torch.Generator().manual_seed(6), {}
    for key, weight in model.model_state_dict("diffusion_model.").items():
        if ".attn" in key and key.endswith("weight"):
            name = key.removesuffix(".weight")
            lora[f"{name}.lora_up.weight"] = torch.randn(len(weight), 2, generator=generator) / 20
            lora[f"{name}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=generator)
    return lora


def test_style_lora_adds_to_the_concept_in_either_order(
    concept: Concept, model: ModelPatcher, clip: comfy.sd.CLIP
):
    style = style_lora(model)

    def with_style(patcher: ModelPatcher) -> ModelPatcher:
        return comfy.sd.load_lora_for_models(patcher, None, style, 0.8, 0)[0]

    behind = with_style(apply_concept(model, concept, 1.0))
    before = apply_concept(with_style(model), concept, 1.0)
    alone, styled = apply_concept(model, concept, 1.0), with_style(model)
    found = [weights(patcher, concept) for patcher in (behind, before, alone, styled, model)]
    for name, both in found[0].items():
        torch.testing.assert_close(found[1][name], both, atol=1e-6, rtol=1e-6)
        summed = found[2][name] + found[3][name] - found[4][name]
        torch.testing.assert_close(both, summed, atol=2e-6, rtol=1e-5)
        assert not torch.allclose(both, found[2][name], atol=1e-3)
    conditioning = ComposePrompt.execute(clip, concept, BOTH, 0, 0).args[0]
    pictures = [sample(patcher, conditioning, clip) for patcher in (behind, before)]
    torch.testing.assert_close(*pictures, atol=1e-3, rtol=1e-3)


def test_inpainting_by_a_noise_mask_changes_the_masked_part_alone(
    concept: Concept, model: ModelPatcher, clip: comfy.sd.CLIP
):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    conditioning = ComposePrompt.execute(clip, concept, BOTH, 0, 0).args[0]
    plain, patched = (
        sample(one, conditioning, clip, mask) for one in (model, apply_concept(model, concept, 1.0))
    )
    assert torch.allclose(plain[..., :4], patched[..., :4], atol=1e-5)
    assert not torch.allclose(plain[..., 4:], patched[..., 4:], atol=1e-4)


def test_concept_paints_on_the_inpainting_model_of_its_checkpoint(
    concept: Concept, clip: comfy.sd.CLIP
):
    model = tiny.tiny_inpainting_model()
    patched = apply_concept(model, concept, 1.0)
    base, changed = weights(model, concept), weights(patched, concept)
    for name, delta in concept.deltas.items():
        key = f"diffusion_model.{name}.weight"
        torch.testing.assert_close(changed[key], base[key] + as_matrix(delta), atol=1e-5, rtol=1e-5)
    hidden, mask = torch.zeros(1, 4, 8, 8), torch.ones(1, 1, 8, 8)
    conditioning = node_helpers.conditioning_set_values(
        ComposePrompt.execute(clip, concept, BOTH, 0, 0).args[0],
        {"concat_latent_image": hidden, "concat_mask": mask},
    )
    plain, painted = (sample(one, conditioning, clip, mask) for one in (model, patched))
    assert painted.isfinite().all() and not torch.allclose(plain, painted, atol=1e-4)
