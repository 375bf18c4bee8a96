"""What every method of the register does, on a fake denoiser and text encoder.

A new method gets these tests by its line in the register.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import STEPS, FakeDenoiser, FakeText, fake_concepts, fake_photos, fake_varied, rng
from torch import Tensor

from detex_pack.detex.concept.file import BaseModel, Concept, concept_bytes, load_concept
from detex_pack.detex.methods import METHODS, method_of
from detex_pack.detex.methods.base import Method
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.training.config import TrainConfig, as_json
from detex_pack.detex.training.loop import Run, Watcher, train
from detex_pack.detex.training.snapshot import read_snapshot, snapshot_bytes
from detex_pack.detex.training.steady import SteadyLoss
from detex_pack.detex.unet.deltas import LowRank, as_matrix

BASE = BaseModel("Fake", "0", "l", "eps", {})
FAKE_PHOTOS = {
    "Subject Images": fake_photos,
    "Concepts in One Photo": fake_concepts,
    "Varied Images": fake_varied,
}


@pytest.fixture(params=METHODS)
def kind(request: pytest.FixtureRequest) -> type[Method]:
    return METHODS[request.param]


def made(kind: type, steps: int = 6, photos=None, **settings) -> tuple[Any, FakeDenoiser]:
    """The method on fresh fakes, with prior images, at a rate that the fake world needs."""
    denoiser = FakeDenoiser()
    photos = photos or FAKE_PHOTOS[kind.photos_from]()
    config = {"steps": steps, "batch_size": 3, "learning_rate": 1e-3} | settings
    if kind.name == "Textual Inversion":
        config.setdefault("token_rate", 0.16)  # its own rate is 16 x that of others
    prior = torch.randn(4, *photos.latents.shape[-3:], generator=rng(7))
    given = (kind.Config.recommended(), TrainConfig(**config), denoiser, FakeText())
    return kind(photos, prior, *given), denoiser


def trained(kind: type, *watchers: Watcher, **settings):
    method, denoiser = made(kind, **settings)
    losses = train(method, denoiser, method.train_config, [*watchers, SteadyLoss()])
    return method, losses


def learned_bytes(method: Method) -> bytes:
    state = method.learned.state_dict()
    return b"".join(name.encode() + t.numpy().tobytes() for name, t in sorted(state.items()))


def concept_of(method: Any) -> Concept:
    learned = method.export()
    return Concept(
        words={name: {"l": vector} for name, vector in learned.words.items()},
        deltas=learned.deltas,
        named=method.named(),
        method=method.name,
        base=BASE,
        config=as_json(method.train_config, method.config),
    )


def test_same_seed_gives_the_same_bytes_and_another_other_ones(kind: type[Method]):
    first, second, other = (learned_bytes(trained(kind, seed=s)[0]) for s in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize("averaged", [None, 4])
def test_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(kind, averaged, tmp_path: Path):
    path = tmp_path / "step.safetensors"

    class Keep(Watcher):
        def on_step(self, run: Run) -> None:
            if run.step == 2:
                path.write_bytes(snapshot_bytes(run))

    class PutBack(Watcher):
        def on_start(self, run: Run) -> None:
            read_snapshot(path).apply(run)

    whole, losses = trained(kind, Keep(), averaged_steps=averaged)
    if not averaged:
        with pytest.raises(ValueError, match="The snapshot of step 2 has no average"):
            trained(kind, PutBack(), averaged_steps=4)
    resumed, again = trained(kind, PutBack(), averaged_steps=averaged)
    assert learned_bytes(resumed) == learned_bytes(whole)
    assert again == losses


def test_what_comes_out_is_the_average_and_the_steps_go_on_from_the_weights(kind: type[Method]):
    seen: list[list[bytes]] = []

    class Look(Watcher):
        def on_step(self, run: Run) -> None:
            with run.averaged():
                averaged = learned_bytes(run.method)
            seen.append([learned_bytes(run.method), averaged])

    plain = trained(kind, Look())[0]
    assert all(own == averaged for own, averaged in seen)
    first, seen = seen, []
    method = trained(kind, Look(), averaged_steps=4)[0]
    assert [own for own, _ in seen] == [own for own, _ in first]
    assert learned_bytes(method) == seen[-1][1] != learned_bytes(plain)


def test_nothing_but_what_is_learned_has_gradients(kind: type[Method]):
    method, denoiser = made(kind)
    run = Run(method, denoiser, method.train_config)
    with method.insert(denoiser):
        sum(method.losses(method.draw(), run.predict, method.turn(0)).values()).backward()
    assert all(p.grad is None for p in denoiser.unet.parameters())
    assert any(p.grad is not None and p.grad.any() for p in method.learned.parameters())


def gradients(method: Any, denoiser: FakeDenoiser, parts: int) -> list[Tensor]:
    run = Run(method, denoiser, method.train_config)
    batch = method.draw()
    with method.insert(denoiser):
        for share, part in batch.split(parts):
            terms = method.losses(part, run.predict, method.turn(0))
            (share * sum(method.weights[n] * term for n, term in terms.items())).backward()
    return [p.grad for p in method.learned.parameters() if p.grad is not None]


@pytest.mark.parametrize("parts", [2, 3])
def test_gradients_of_a_split_batch_add_up_to_those_of_the_whole(kind, parts: int):
    whole, split = (gradients(*made(kind), n) for n in (1, parts))
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_export_comes_back_from_its_file(kind: type[Method], tmp_path: Path):
    concept, path = concept_of(trained(kind)[0]), tmp_path / "toy.safetensors"
    path.write_bytes(concept_bytes(concept))
    loaded = load_concept(path)
    assert (loaded.named, loaded.method, loaded.word_names) == (
        concept.named,
        kind.name,
        concept.word_names,
    )
    for name, delta in concept.deltas.items():
        assert isinstance(loaded.deltas[name], LowRank) is isinstance(delta, LowRank)
        torch.testing.assert_close(as_matrix(loaded.deltas[name]), as_matrix(delta), atol=0, rtol=0)
    for name, towers in concept.words.items():
        assert torch.equal(loaded.words[name]["l"], towers["l"])


def test_exported_deltas_are_those_that_the_unet_had(kind: type[Method]):
    method, _ = trained(kind)
    exported = method.export().deltas
    for layer, delta in method.deltas.of_layers():
        torch.testing.assert_close(as_matrix(exported[layer.path]), as_matrix(delta).detach())


def test_samples_are_an_empty_prompt_and_v_alone_at_least(kind: type[Method]):
    samples = made(kind)[0].samples()
    assert {"", "[V]"} <= set(samples)
    assert all(len(condition) == 1 for condition in samples.values())
    assert not torch.equal(samples[""].context, samples["[V]"].context)


def test_every_term_has_a_weight_and_the_photos_have_one(kind: type[Method]):
    _, losses = trained(kind, steps=2)
    method = made(kind)[0]
    assert "diffusion" in losses.terms
    assert set(losses.terms) - {"total"} <= set(method.weights)
    last = {name: values[-1] for name, values in losses.terms.items() if name != "total"}
    assert losses.terms["total"][-1] == pytest.approx(
        sum(method.weights[name] * value for name, value in last.items()), rel=1e-5
    )


def test_steady_loss_falls_while_it_learns(kind: type[Method]):
    losses = trained(kind, steps=60)[1]
    assert list(losses.steady) == ["0", "60"]
    assert losses.steady["60"] < losses.steady["0"]


def test_steady_loss_changes_nothing_of_the_training(kind: type[Method]):
    method, denoiser = made(kind)
    train(method, denoiser, method.train_config)
    assert learned_bytes(method) == learned_bytes(trained(kind)[0])


def test_key_changes_with_whatever_the_method_reads_but_not_with_the_steps(kind: type[Method]):
    def key(**settings) -> str:
        parts = made(kind, **settings)[0].key()
        return repr([part.tolist() if torch.is_tensor(part) else part for part in parts])

    plain = key()
    assert key(steps=9) == plain
    assert key(seed=3) != plain
    assert key(photos=fake_photos(2)) != plain


def test_draws_are_of_its_own_generators_alone(kind: type[Method]):
    method, denoiser = made(kind, steps=2)
    before = torch.get_rng_state()
    train(method, denoiser, method.train_config)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("lacking", ["masks", "features"])
def test_photos_that_lack_what_a_method_needs_are_refused_with_the_remedy(kind, lacking: str):
    photos = fake_photos(**{lacking: False})
    if lacking not in kind.needs(kind.Config.recommended()):
        made(kind, photos=photos)
        return
    with pytest.raises(ValueError, match=rf"{kind.name} needs .* Wire .* into Subject Images"):
        made(kind, photos=photos)


def test_settings_tell_their_method(kind: type[Method]):
    assert method_of(kind.Config.recommended()) is kind


def test_settings_of_no_method_are_refused_by_name():
    with pytest.raises(ValueError, match="settings of kind TrainConfig. The methods are DETEX,"):
        method_of(TrainConfig())


class Cyclist(METHODS["Custom Diffusion"]):
    """Words and deltas in turn, each with an optimiser of its own."""

    name = "Cyclist"

    def optimisers(self) -> dict[str, list[dict]]:
        return {
            "words": [{"params": [self.words.subject], "lr": 1e-2}],
            "deltas": [{"params": list(self.deltas.parameters()), "lr": 1e-2}],
        }

    def turn(self, step: int) -> tuple[str, ...]:
        return ("words",) if step % 2 == 0 else ("deltas",)

    def losses(self, batch, predict, turn) -> dict[str, Tensor]:
        terms = super().losses(batch, predict, turn)
        return terms if "deltas" in turn else {"diffusion": terms["diffusion"]}


def test_only_the_optimisers_whose_turn_it_is_move_their_weights_or_moments():
    method, denoiser = made(Cyclist)
    run, seen = Run(method, denoiser, method.train_config), []
    with method.insert(denoiser):
        for _ in range(2):
            run.take_step()
            moved = [p.detach().clone() for p in (method.words.subject, method.deltas.ups[0])]
            seen.append((moved, {name: len(o.state) for name, o in run.optimisers.items()}))
    (first, after_words), (second, after_deltas) = seen
    assert not first[1].any() and after_words == {"words": 1, "deltas": 0}
    assert (
        torch.equal(first[0], second[0]) and second[1].any() and after_deltas["deltas"] == 2
    )  # K and V


def test_term_that_a_step_leaves_out_is_no_number_there():
    _, losses = trained(Cyclist, steps=4)
    assert [math.isnan(value) for value in losses.terms["prior"]] == [True, False, True, False]
    assert not any(map(math.isnan, losses.terms["diffusion"]))


def test_paper_mode_without_its_additions_is_custom_diffusion_to_the_bit():
    plain = DetexConfig(gamma=0, attention_weight=0)
    detex, custom = METHODS["DETEX"], METHODS["Custom Diffusion"]
    denoiser, prior = FakeDenoiser(), None
    rates = TrainConfig(steps=4, batch_size=3, learning_rate=1e-3, mapper_rate=0)
    found = []
    for kind, config in ((detex, plain), (custom, custom.Config())):
        method = kind(fake_photos(), prior, config, rates, denoiser, FakeText())
        if kind is detex:  # the same captions: photos without words
            method.choose = super(detex, method).choose
        train(method, denoiser, rates)
        found.append([method.words.subject, *method.deltas.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_fake_schedule_is_drawn_from_end_to_end():
    method, _ = made(METHODS["Custom Diffusion"])
    drawn = torch.cat([method.draw().timesteps for _ in range(200)])
    assert (drawn.min(), drawn.max()) == (0, STEPS - 1)


def rates_of(photos=None, **settings) -> list[float]:
    """Of the deltas, [V], and the mappers of [P] and [B], as DETEX is recommended."""
    method, _ = made(METHODS["DETEX"], photos=photos, **settings)
    return [rate for _, rate in method.rates()]


def test_words_of_photos_that_look_alike_are_not_forced_apart():
    photos = fake_photos()
    alike = replace(photos, features=photos.features[:1].expand_as(photos.features))
    assert rates_of(alike)[2] <= 1.0


def test_poses_and_backgrounds_learn_where_the_subject_is_at_rest():
    _, subject, pose, background = rates_of(token_rate=0.0)
    assert subject == 0 < min(pose, background)


def test_textual_inversion_learns_at_its_recipes_rate_where_the_nodes_leave_it():
    config = METHODS["Textual Inversion"].Config.recommended()
    train_config = TrainConfig.recommended()
    rate = config.rate * train_config.token_rate * train_config.effective_rate
    assert rate == pytest.approx(5e-3)
