"""A concept's deltas on a MODEL: as in training, as our patches, and beside other patches."""

import dataclasses
from collections.abc import Callable

import comfy.lora
import comfy.model_management
import comfy.sd
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host.copies import private_copy
from detex_pack.detex.host.deltas import apply_concept, live_deltas
from detex_pack.detex.host.families import fingerprint
from detex_pack.detex.unet.deltas import Deltas, Layer, LowRank, as_matrix

KEY = "diffusion_model.{}.weight"


def some_cond() -> Tensor:
    return torch.randn(2, 77, tiny.WIDTH, generator=torch.Generator().manual_seed(0))


def other_concept(concept: Concept) -> Concept:
    generator = torch.Generator().manual_seed(8)
    deltas = {
        n: 0.05 * torch.randn(d.shape, generator=generator) for n, d in concept.deltas.items()
    }
    return dataclasses.replace(concept, deltas=deltas)


@torch.no_grad()
def trained_kv(model: ModelPatcher, concept: Concept) -> dict[str, Tensor]:
    """K and V of every layer as training computes them, in bypass form."""
    unet = private_copy(model).model.diffusion_model
    layers = [Layer(name, *delta.shape, text=True) for name, delta in concept.deltas.items()]
    deltas = Deltas(layers, None, torch.Generator())
    for layer, matrix in deltas.of_layers():
        matrix.copy_(concept.deltas[layer.path])
    with live_deltas(unet, deltas, detach_start_token=True):
        return {name: unet.get_submodule(name)(some_cond()) for name in concept.deltas}


@torch.no_grad()
def sampled_kv(patched: ModelPatcher, concept: Concept) -> dict[str, Tensor]:
    """K and V of every layer as the sampler would compute them, with ComfyUI's patches loaded."""
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    unet = patched.model.diffusion_model
    try:
        return {name: unet.get_submodule(name)(some_cond()) for name in concept.deltas}
    finally:
        comfy.model_management.unload_all_models()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=1e-6)


def test_applied_concept_gives_the_k_and_v_of_training(model: ModelPatcher, concept: Concept):
    applied = sampled_kv(apply_concept(model, concept, 1.0), concept)
    assert_same(applied, trained_kv(model, concept))


def test_training_moved_every_matrix(model: ModelPatcher, concept: Concept):
    assert all(delta.any() for delta in concept.deltas.values())
    assert len(concept.deltas) == 14  # 7 cross-attentions


def test_strength_zero_changes_no_bit(model: ModelPatcher, concept: Concept):
    plain = sampled_kv(model, concept)
    applied = sampled_kv(apply_concept(model, concept, 0.0), concept)
    assert all(torch.equal(applied[name], plain[name]) for name in plain)


def test_half_strength_adds_half(model: ModelPatcher, concept: Concept):
    plain, half, whole = (
        sampled_kv(apply_concept(model, concept, s), concept) for s in (0.0, 0.5, 1.0)
    )
    assert_same(half, {name: (plain[name] + whole[name]) / 2 for name in plain})


def test_scale_of_a_low_rank_delta_is_applied(model: ModelPatcher, concept: Concept):
    generator = torch.Generator().manual_seed(4)
    low = {
        name: LowRank(
            0.1 * torch.randn(delta.shape[0], 2, generator=generator),
            0.1 * torch.randn(2, delta.shape[1], generator=generator),
            3.0,
        )
        for name, delta in concept.deltas.items()
    }
    factors, whole = (
        sampled_kv(apply_concept(model, dataclasses.replace(concept, deltas=d), 1.0), concept)
        for d in (low, {name: as_matrix(delta) for name, delta in low.items()})
    )
    assert_same(factors, whole, atol=1e-5)


def test_two_concepts_commute(model: ModelPatcher, concept: Concept):
    second = other_concept(concept)
    one = apply_concept(apply_concept(model, concept, 1.0), second, 0.5)
    two = apply_concept(apply_concept(model, second, 0.5), concept, 1.0)
    assert_same(sampled_kv(one, concept), sampled_kv(two, concept))


def test_second_concept_adds_to_the_first(model: ModelPatcher, concept: Concept):
    second = other_concept(concept)
    both = sampled_kv(apply_concept(apply_concept(model, concept, 1.0), second, 1.0), concept)
    plain, first, other = (
        sampled_kv(m, concept)
        for m in (model, apply_concept(model, concept, 1.0), apply_concept(model, second, 1.0))
    )
    assert_same(both, {n: first[n] + other[n] - plain[n] for n in plain}, atol=2e-6)


def test_concept_adds_to_a_lora_that_is_there_already(model: ModelPatcher, concept: Concept):
    name = next(iter(concept.deltas))
    up, down = torch.randn(32, 2), torch.randn(2, tiny.WIDTH)
    lora = {f"{KEY.format(name)[:-7]}.lora_up.weight": up}
    lora[f"{KEY.format(name)[:-7]}.lora_down.weight"] = down
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    plain, lora_only = sampled_kv(model, concept), sampled_kv(with_lora, concept)
    both = sampled_kv(apply_concept(with_lora, concept, 1.0), concept)
    first = sampled_kv(apply_concept(model, concept, 1.0), concept)
    assert not torch.allclose(lora_only[name], plain[name], atol=0.1)
    torch.testing.assert_close(
        both[name], first[name] + lora_only[name] - plain[name], atol=1e-4, rtol=1e-5
    )


def test_concept_goes_onto_a_model_whose_compiled_clone_is_loaded(
    model: ModelPatcher, concept: Concept
):
    plain = sampled_kv(apply_concept(model, concept, 1.0), concept)
    compiled = model.clone()
    compiled.add_object_patch(
        "diffusion_model", torch.compile(model.model.diffusion_model, backend="eager")
    )
    comfy.model_management.load_models_gpu([compiled])  # as sampling does; it stays there
    assert any("_orig_mod" in name for name in model.model.state_dict())
    assert fingerprint(model) == concept.base.fingerprint
    comfy.model_management.load_models_gpu([compiled])
    assert_same(sampled_kv(apply_concept(model, concept, 1.0), concept), plain)


def test_applying_leaves_the_users_model_unpatched(
    model: ModelPatcher, concept: Concept, weight_hash: Callable
):
    before = weight_hash(model.model)
    sampled_kv(apply_concept(model, concept, 1.0), concept)
    assert model.patches == {}
    assert weight_hash(model.model) == before


def test_applying_never_writes_into_the_concept(model: ModelPatcher, concept: Concept):
    before = {name: delta.clone() for name, delta in concept.deltas.items()}
    sampled_kv(apply_concept(model, concept, 0.7), concept)
    assert all(torch.equal(before[name], delta) for name, delta in concept.deltas.items())


def test_model_of_another_family_is_refused_by_name(concept: Concept):
    sd2 = tiny.tiny_model(comfy.supported_models.SD20)
    message = "trained on the DETEX demo model, but the MODEL wired here is Stable Diffusion 2.x"
    with pytest.raises(ValueError, match=message):
        apply_concept(sd2, concept, 1.0)


def test_matrices_of_another_layout_are_refused_by_name(model: ModelPatcher, concept: Concept):
    name = next(iter(concept.deltas))
    deltas = {
        **concept.deltas,
        name: torch.zeros(3, 3),
        "input_blocks.9.attn2.to_k": torch.zeros(1, 1),
    }
    odd = dataclasses.replace(concept, deltas=deltas)
    with pytest.raises(
        ValueError, match=f"2 of the concept's matrices do not fit .* {name} for one"
    ):
        apply_concept(model, odd, 1.0)
