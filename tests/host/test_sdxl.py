"""Stable Diffusion XL: two text towers, a pooled prompt and sizes, deltas of low rank."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import comfy.sample
import comfy.sd
import comfy.supported_models
import nodes
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from detex_pack.detex.concept.compress import LowRankForms, low_rank
from detex_pack.detex.concept.file import Concept, concept_bytes, load_concept
from detex_pack.detex.concept.merge import merge_concepts
from detex_pack.detex.host.deltas import apply_concept
from detex_pack.detex.host.denoiser import training_session
from detex_pack.detex.host.export import Export, plan, write
from detex_pack.detex.host.families import SDXL, family_of
from detex_pack.detex.host.text import ComfyTextEncoder, compose, text_features, word_positions
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.prompt.words import Attributes
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run, accumulate
from detex_pack.detex.unet.condition import Condition, whole_picture
from detex_pack.detex.unet.deltas import LowRank, as_matrix

WORDS = ("V", "P1", "P2", "P3", "B1", "B2", "B3")
L, G = tiny.WIDTHS["l"], tiny.WIDTHS["g"]


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_model(comfy.supported_models.SDXL)


@pytest.fixture(scope="module")
def clip() -> comfy.sd.CLIP:
    return tiny.tiny_sdxl_clip()


@pytest.fixture(scope="module")
def session(model: ModelPatcher, clip: comfy.sd.CLIP) -> Iterator[tuple]:
    with training_session(model, clip, (4, 4, 8, 8)) as opened:
        yield opened


@pytest.fixture(scope="module")
def method(session: tuple, subject: Photos, prior_latents: Tensor) -> Detex:
    settings = DetexConfig(gamma=0), TrainConfig(batch_size=3)
    return Detex(subject, prior_latents, *settings, *session)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_family_is_stable_diffusion_xl(model: ModelPatcher):
    assert family_of(model) == SDXL


def test_word_is_as_wide_as_both_towers_and_is_filed_by_tower(concept: Concept):
    assert concept.word_names == WORDS
    for towers in concept.words.values():
        assert {name: tuple(part.shape) for name, part in towers.items()} == {
            "l": (1, L),
            "g": (1, G),
        }
    assert concept.base.tower == "l+g"


def test_words_for_the_clip_are_the_parts_side_by_side(concept: Concept):
    both = concept.vectors("l+g")["V"]
    assert torch.equal(both, torch.cat([concept.words["V"]["l"], concept.words["V"]["g"]], dim=1))


def test_new_word_starts_at_the_rare_row_of_each_table(method: Detex, session: tuple):
    tables = [tower.table.weight[42170] for tower in session[1].towers]
    assert torch.equal(method.words.subject, torch.cat(tables))


def test_both_towers_take_the_word_as_from_comfyuis_embedding_file(tmp_path: Path):
    parts = {"clip_l": 0.05 * drawn(1, L), "clip_g": 0.05 * drawn(1, G, seed=1)}
    save_file(parts, tmp_path / "word.safetensors")
    clip = tiny.tiny_sdxl_clip([str(tmp_path)])
    text = "photo of a embedding:word dog"
    host, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    vector = torch.cat(list(parts.values()), dim=1)
    encoder = ComfyTextEncoder(clip)
    ours = encoder.encode([encoder.tokenize("photo of a [V] dog")], [{"V": vector[0]}])
    torch.testing.assert_close(ours.context, host, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pooled, pooled, atol=1e-5, rtol=0)
    composed = compose(clip, "photo of a [V] dog", {"V": vector})[0]
    assert torch.equal(composed[0], host)
    assert torch.equal(composed[1]["pooled_output"], pooled)


def test_gradient_reaches_the_word_through_the_pooled_prompt_alone(clip: comfy.sd.CLIP):
    encoder = ComfyTextEncoder(clip)
    vector = (0.05 * drawn(L + G)).requires_grad_()
    encoder.encode(
        [encoder.tokenize("photo of a [V] dog")], [{"V": vector}]
    ).pooled.sum().backward()
    assert not vector.grad[:L].any()  # CLIP-L has no part in it
    assert vector.grad[L:].abs().min() > 0


def test_unet_is_told_what_comfyui_tells_it(session: tuple, model: ModelPatcher):
    denoiser, _ = session
    latents, cond, pooled = drawn(2, 4, 8, 12), drawn(2, 77, L + G), drawn(2, G)
    timesteps = torch.tensor([700, 40])
    sigmas = denoiser.schedule.sigmas[timesteps]
    sizes = {"height": 320, "width": 480, "crop_h": 8, "crop_w": 16}
    sizes |= {"target_height": 32, "target_width": 48}
    with torch.no_grad():
        adm = model.model.encode_adm(pooled_output=pooled, **sizes)
        denoised = model.model.apply_model(latents, sigmas, c_crossattn=cond, y=adm)
        told = torch.tensor([list(sizes.values())]).expand(2, -1)
        scaled = latents / (1 + sigmas.view(-1, 1, 1, 1) ** 2).sqrt()
        ours = denoiser.predict(scaled, timesteps.float(), Condition(cond, pooled, told))
    spread = sigmas.view(-1, 1, 1, 1)
    torch.testing.assert_close(latents - spread * ours, denoised, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_sizes_change_the_answer(session: tuple):
    denoiser, _ = session
    told = [whole_picture(1, side, side) for side in (32, 512)]
    inputs = drawn(1, 77, L + G), drawn(1, G)
    answers = [
        denoiser.predict(drawn(1, 4, 8, 8), torch.tensor([500.0]), Condition(*inputs, sizes))
        for sizes in told
    ]
    assert not torch.allclose(*answers, atol=1e-4)


@torch.no_grad()
def test_sizes_are_by_default_those_of_the_latents(session: tuple):
    denoiser, _ = session
    inputs = drawn(1, 77, L + G), drawn(1, G)
    told = Condition(*inputs, whole_picture(1, 32, 48)), Condition(*inputs)  # 8 x 12 cells of 4
    answers = [denoiser.predict(drawn(1, 4, 8, 12), torch.tensor([500.0]), c) for c in told]
    assert torch.equal(*answers)


def test_batch_is_told_each_photos_size_and_crop_and_the_priors_own(method: Detex):
    # photos of 40 x 32, 32 x 32 and 36 x 48, masked at rows 10 to 25 and columns 8 to 23: the
    # square around the centre (17.5, 15.5) begins at row 2 of the first, at column 0 of the last
    known = {
        0: [40, 32, 2, 0, 32, 32],
        1: [32, 32, 0, 0, 32, 32],
        2: [36, 48, 0, 0, 32, 32],
    }
    batch = method.draw()
    told = method.condition(batch).size_ids.tolist()
    assert told[:3] == [known[photo] for photo in batch.photos.tolist()]
    assert told[3:] == [[32, 32, 0, 0, 32, 32]] * 3


def test_gradients_of_two_passes_are_those_of_one(method: Detex, session: tuple):
    told = method.photos.size_ids.flatten(0, -2)
    assert len(told.unique(dim=0)) > 1  # the photos are not of one size
    run = Run(method, session[0], method.train_config)
    batch = method.draw()
    found = []
    for run.passes in (1, 2):
        with method.insert(session[0]):
            losses = accumulate(run, batch, method.turn(0))
        found.append((losses, [p.grad.clone() for p in method.learned.parameters()]))
        run.forget_gradients()
    (losses, whole), (again, parts) = found
    assert losses.keys() == {"diffusion", "prior", "attention", "total"}
    torch.testing.assert_close(again, losses, rtol=1e-5, atol=1e-7)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * one.abs().max().item())


def test_deltas_are_of_rank_16_by_default(concept: Concept, model: ModelPatcher):
    assert all(isinstance(delta, LowRank) for delta in concept.deltas.values())
    assert {len(delta.down) for delta in concept.deltas.values()} == {16}
    assert all(as_matrix(delta).any() for delta in concept.deltas.values())


def test_rank_can_be_chosen(train):
    concept, _ = train(steps=2, rank=3)
    assert {len(delta.down) for delta in concept.deltas.values()} == {3}
    assert concept.config["rank"] == 3


def test_every_loss_is_finite_and_every_word_learns(train, method: Detex):
    concept, losses = train(steps=3)
    assert set(losses.terms) == {"diffusion", "prior", "attention", "total"}
    assert torch.tensor(list(losses.terms.values())).isfinite().all()
    start = method.words.export()
    for name, vector in concept.vectors("l+g").items():
        moved = (vector - start[name]).abs()
        assert moved[:, :L].max() > 1e-6
        assert moved[:, L:].max() > 1e-6


def test_training_leaves_users_model_and_clip_as_they_were(train, model, clip, weight_hash):
    before = weight_hash(model.model), weight_hash(clip.cond_stage_model)
    train(steps=1)
    assert (weight_hash(model.model), weight_hash(clip.cond_stage_model)) == before


def test_same_seed_gives_the_same_bytes(train):
    one, two = (concept_bytes(train(steps=2)[0]) for _ in range(2))
    assert one == two


def test_free_vectors_and_custom_diffusion_train_too(train):
    assert train(DetexConfig(attributes=Attributes.VECTORS))[0].word_names == WORDS
    assert train(CustomDiffusionConfig())[0].word_names == ("V",)


def test_file_gives_the_concept_back(concept: Concept, tmp_path: Path):
    path = tmp_path / "toy.safetensors"
    path.write_bytes(concept_bytes(concept))
    loaded = load_concept(path)
    assert loaded.base == concept.base
    for name, delta in concept.deltas.items():
        assert all(
            torch.equal(a, b) for a, b in zip(delta[:2], loaded.deltas[name][:2], strict=True)
        )
    for name, vector in concept.vectors("l+g").items():
        assert torch.equal(loaded.vectors("l+g")[name], vector)
    with safe_open(path, framework="pt") as file:
        assert "words.V.g" in file.keys()  # noqa: SIM118


def test_applied_weights_are_the_bases_plus_the_deltas(concept: Concept, model: ModelPatcher):
    patched = apply_concept(model, concept, 0.5)
    for name, delta in concept.deltas.items():
        key = f"diffusion_model.{name}.weight"
        base = model.model_state_dict(key)[key]
        weight = patched.patch_weight_to_device(key, inplace_update=False, return_weight=True)
        torch.testing.assert_close(weight, base + 0.5 * as_matrix(delta), atol=1e-5, rtol=1e-5)


def test_stock_lora_and_embeddings_are_the_concept(
    concept: Concept, model: ModelPatcher, clip: comfy.sd.CLIP, model_folders: Path
):
    write(plan(concept, "toy", [Export.STOCK]))
    patched, _ = nodes.LoraLoader().load_lora(model, clip, "toy_lora.safetensors", 1.0, 1.0)
    ours = apply_concept(model, concept, 1.0)
    for name in concept.deltas:
        key = f"diffusion_model.{name}.weight"
        weights = [
            of.patch_weight_to_device(key, inplace_update=False, return_weight=True)
            for of in (patched, ours)
        ]
        torch.testing.assert_close(*weights, atol=1e-6, rtol=0)
    stock = tiny.tiny_sdxl_clip([str(model_folders / "embeddings")])
    (host, extra), *_ = nodes.CLIPTextEncode().encode(stock, "a embedding:toy_v ball")[0]
    cond, more = compose(clip, "a [V] ball", concept.vectors("l+g"))[0]
    assert torch.equal(host, cond)
    assert torch.equal(extra["pooled_output"], more["pooled_output"])


def test_lora_of_a_smaller_share_is_of_a_smaller_rank(concept: Concept):
    whole, part = LowRankForms(concept.deltas).sizes([1.0, 0.5])
    assert whole.size == 4 * sum(16 * sum(delta.shape) for delta in concept.deltas.values())
    assert whole.ranks == (16, 16)
    assert part.size < whole.size and max(part.ranks) < 16
    delta = next(iter(concept.deltas.values()))
    products = [up @ down for up, down in (low_rank(d, 0.5) for d in (delta, as_matrix(delta)))]
    torch.testing.assert_close(*products, atol=1e-6, rtol=1e-3)


def test_diffusers_folder_has_a_tensor_for_each_text_encoder(concept: Concept, model_folders: Path):
    files = {file.name: file.content for file in plan(concept, "toy", [Export.DIFFUSERS])}
    assert set(load(files["toy/words/v.safetensors"])) == {"clip_l", "clip_g"}
    page = files["toy/README.md"].decode()
    assert "StableDiffusionXLPipeline" in page
    compile(page.split("```python")[1].split("```")[0], "README.md", "exec")


def test_inpainting_model_takes_what_was_learned_on_the_plain_one(concept: Concept):
    model = tiny.tiny_inpainting_model(comfy.supported_models.SDXL)
    patched = apply_concept(model, concept, 1.0)
    name, delta = next(iter(concept.deltas.items()))
    key = f"diffusion_model.{name}.weight"
    base = model.model_state_dict(key)[key]
    weight = patched.patch_weight_to_device(key, inplace_update=False, return_weight=True)
    torch.testing.assert_close(weight, base + as_matrix(delta), atol=1e-5, rtol=1e-5)


def sampled(model: ModelPatcher, conditioning: list, clip: comfy.sd.CLIP) -> Tensor:
    empty = nodes.CLIPTextEncode().encode(clip, "")[0]
    settings = (3, 4.0, "euler", "normal", conditioning, empty, torch.zeros(1, 4, 8, 8))
    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 0)
    return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=0)


def test_concept_samples_with_comfyuis_sampler(
    concept: Concept, model: ModelPatcher, clip: comfy.sd.CLIP
):
    vectors = concept.vectors("l+g")
    pictures = [
        sampled(patched, compose(clip, text, vectors), clip)
        for patched in (model, apply_concept(model, concept, 1.0))
        for text in ("photo of a [V] ball", "photo of a [V] ball in [B1] background")
    ]
    assert all(picture.isfinite().all() for picture in pictures)
    assert len({picture.numpy().tobytes() for picture in pictures}) == 4


def test_word_positions_are_those_of_either_tower(clip: comfy.sd.CLIP):
    assert word_positions(clip, "a [V] dog", ["[V]", "dog"]) == {"[V]": [2], "dog": [3]}


def test_merge_keeps_each_concepts_keys_and_values(train, concept: Concept, clip: comfy.sd.CLIP):
    other, _ = train(steps=3, seed=9)
    other = dataclasses.replace(other, photo_hashes=())  # as of other photos
    merged, quality = merge_concepts(
        [concept, other], lambda texts, words: text_features(clip, texts, words)
    )
    assert merged.word_names[:2] == ("V", "V2")
    assert {len(delta.down) for delta in merged.deltas.values()} == {32}
    assert all(0 <= share <= 1 for share in quality.kept)
    (rows,) = text_features(clip, ["photo of a [V2] ball"], merged.vectors("l+g"))
    for name, delta in other.deltas.items():
        wanted, kept = (rows[3:] @ as_matrix(d).mT for d in (delta, merged.deltas[name]))
        torch.testing.assert_close(kept, wanted, atol=1e-2 * wanted.abs().max().item(), rtol=0)


def test_concept_of_another_family_is_refused_both_ways(concept: Concept, clip: comfy.sd.CLIP):
    with pytest.raises(ValueError, match="trained on Stable Diffusion XL, but the MODEL .* demo"):
        apply_concept(tiny.tiny_model(), concept, 1.0)
    with pytest.raises(ValueError, match=r'of Stable Diffusion XL; the CLIP wired here .*"l"'):
        concept.vectors("l")


def test_clip_of_another_family_is_refused_before_training(
    model: ModelPatcher, subject: Photos, clip: comfy.sd.CLIP
):
    with (
        pytest.raises(ValueError, match="features of 32 numbers, the MODEL, .* XL, reads"),
        training_session(model, tiny.tiny_clip(), (2, 4, 8, 8)),
    ):
        pass
    settings = DetexConfig(), TrainConfig(steps=1)
    with pytest.raises(ValueError, match="Wire CLIP and MODEL of one checkpoint"):
        train_concept(tiny.tiny_model(), clip, subject, None, *settings)
