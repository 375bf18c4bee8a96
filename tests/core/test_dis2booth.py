"""Dis²Booth's losses, codes, schedules and individuals; the numbers worked out by hand."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakes import BASE, STEPS, FakeDenoiser, FakeText, fake_varied, make_concept, rng
from torch import Tensor

from detex_pack.detex.concept.file import Concept, concept_bytes, load_concept
from detex_pack.detex.concept.individuals import (
    check_individual,
    drawn_codes,
    individual,
    law_of,
    mixed_codes,
    summed,
)
from detex_pack.detex.methods.dis2booth import Dis2Booth, Dis2BoothConfig
from detex_pack.detex.photos.photos import Photos, Said
from detex_pack.detex.photos.varied import background_names, make_varied
from detex_pack.detex.toys.scene import COLOURS
from detex_pack.detex.toys.subjects import demo_set
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Run, Watcher, train
from detex_pack.detex.training.snapshot import read_snapshot, snapshot_bytes
from detex_pack.detex.unet.coded import CodedDelta, RowCodes
from detex_pack.detex.unet.codes import FreeCodes, MappedCodes, SharedCodes
from detex_pack.detex.unet.condition import Condition, joined
from detex_pack.detex.unet.deltas import LowRank, as_matrix
from detex_pack.detex.unet.features import FeatureTap, quarter_grid
from detex_pack.detex.unet.losses import (
    code_scale_loss,
    contextual_loss,
    shared_direction_loss,
)

PARTED = ("alternate", "sequential")


def made(photos: Photos | None = None, *, steps: int = 8, **settings: Any):
    """The method on fresh fakes, with a short warm-up."""
    config = Dis2BoothConfig(**{"warm_up": 2} | settings)
    rates = TrainConfig(steps=steps, batch_size=3, learning_rate=1e-3)
    denoiser = FakeDenoiser()
    method = Dis2Booth(photos or fake_varied(), None, config, rates, denoiser, FakeText())
    return method, denoiser


def trained(*watchers: Watcher, **settings: Any) -> Any:
    method, denoiser = made(**settings)
    train(method, denoiser, method.train_config, watchers)
    return method


def concept_of(method: Any) -> Concept:
    learned = method.export()
    return Concept(
        words={name: {"l": vector} for name, vector in learned.words.items()},
        deltas=learned.deltas,
        varied=learned.varied,
        codes=learned.codes,
        named=method.named(),
        method=method.name,
        base=BASE,
    )


# ---- losses --------------------------------------------------------------------------------------


def direct_contextual(first: Tensor, second: Tensor) -> float:
    """CX of two sets of features [L, C], feature by feature, as the paper writes it."""
    centre = sum(second) / len(second)
    sure = []
    for x in first:
        distances = []
        for y in second:
            a, b = x - centre, y - centre
            cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
            distances.append((1 - cosine) / 2)
        nearest = min(distances) + 1e-5
        weights = [math.exp((1 - d / nearest) / 0.5) for d in distances]
        sure.append([w / sum(weights) for w in weights])
    best = [max(row[j] for row in sure) for j in range(len(second))]
    return -math.log(sum(best) / len(best))


def test_contextual_loss_is_that_of_a_direct_computation():
    features, others = torch.randn(2, 3, 7, 5, generator=rng(0), dtype=torch.float64)
    found = contextual_loss(features, others)
    wanted = [direct_contextual(x, y) for x, y in zip(features, others, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=0)


def test_contextual_loss_of_the_same_features_elsewhere_is_near_zero():
    features = torch.randn(1, 16, 8, generator=rng(1), dtype=torch.float64)
    shuffled = features[:, torch.randperm(16, generator=rng(2))]
    others = torch.randn(1, 16, 8, generator=rng(3), dtype=torch.float64)
    assert contextual_loss(features, shuffled).item() < 1e-3
    assert contextual_loss(features, others).item() > 0.5


def test_contextual_loss_holds_the_other_picture_still():
    features, others = torch.randn(2, 1, 6, 4, generator=rng(4)).requires_grad_().unbind()
    leaf = others.detach().requires_grad_()
    contextual_loss(features, leaf).sum().backward()
    assert leaf.grad is None


def test_gradients_are_those_of_finite_differences():
    generator = rng(5)
    features = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    others = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    codes = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    downs = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contextual_loss(x, others), features)
    assert torch.autograd.gradcheck(code_scale_loss, codes)
    assert torch.autograd.gradcheck(lambda both: shared_direction_loss(*both), downs)


def test_code_of_unit_size_costs_nothing_and_one_twice_as_long_nine():
    codes = torch.tensor([[1.0, -1.0], [2.0, 2.0], [0.0, 0.0]])  # mean squares 1, 4, 0
    torch.testing.assert_close(code_scale_loss(codes), torch.tensor([0.0, 9.0, 1.0]))


def test_shared_directions_are_the_squared_cosines():
    anchor = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    varied = torch.tensor([[5.0, 5.0, 0.0], [0.0, 0.0, 1.0]])  # 45 degrees to both; to neither
    # (1/2 + 1/2 + 0 + 0) / 2
    torch.testing.assert_close(shared_direction_loss(anchor, varied), torch.tensor(0.5))


# ---- codes ---------------------------------------------------------------------------------------


def test_mapped_codes_begin_centred_and_of_unit_variance():
    codes = MappedCodes(torch.rand(9, 20, generator=rng(0)), 4, rng(1)).every()
    torch.testing.assert_close(codes.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.std(dim=0), torch.ones(4), atol=1e-4, rtol=0)


def test_pictures_that_look_alike_are_not_forced_apart():
    alike = torch.rand(1, 20, generator=rng(0)).expand(6, -1)
    assert MappedCodes(alike, 4, rng(1)).every().abs().max() < 0.1


@pytest.mark.parametrize("kind", ["mapper", "free"])
def test_codes_stay_centred_while_they_learn(kind: str):
    codes = trained(codes=kind).codes.every()
    torch.testing.assert_close(codes.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)


def test_free_code_of_a_photo_outside_the_batch_does_not_move():
    method, denoiser = made(codes="free")
    run = Run(method, denoiser, method.train_config)
    before = [vector.detach().clone() for vector in method.codes.vectors]
    states = {name: generator.get_state() for name, generator in method.rngs.items()}
    batch = method.draw()
    for name, state in states.items():
        method.rngs[name].set_state(state)
    with method.insert(denoiser):
        run.take_step()
    inside = set(batch.photos.tolist())
    moved = [not torch.equal(a, b) for a, b in zip(before, method.codes.vectors, strict=True)]
    assert moved == [i in inside for i in range(5)]


def test_without_image_features_codes_are_free_and_a_mapper_is_refused():
    photos = fake_varied(features=False)
    assert isinstance(made(photos)[0].codes, FreeCodes)
    assert isinstance(made(photos, codes="shared")[0].codes, SharedCodes)
    assert isinstance(made()[0].codes, MappedCodes)
    with pytest.raises(ValueError, match="needs image features.*CLIP_VISION into Varied Images"):
        made(photos, codes="mapper")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "both"}, "schedule must be one of"),
        ({"codes": "none"}, "codes must be one of"),
        ({"code_dropout": 1.5}, "code_dropout is a chance between 0 and 1, got 1.5"),
        ({"anchor_rank": 0}, "anchor_rank must lie between 1 and 128, got 0"),
        ({"contextual_weight": -1.0}, "contextual_weight must not be negative"),
        ({"rate": 0.0}, "rate multiplies"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Dis2BoothConfig(**settings)


# ---- the anchor, and what varies around it -------------------------------------------------------


def coded(rows: Tensor | None) -> tuple[CodedDelta, Tensor]:
    generator = rng(8)
    anchor = LowRank(torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator))
    varied = LowRank(torch.randn(6, 3, generator=generator), torch.randn(3, 5, generator=generator))
    codes = RowCodes()
    codes.set(rows, "cpu")
    return CodedDelta(anchor, varied, codes), torch.randn(2, 4, 5, generator=generator)


def test_each_row_has_the_sum_of_the_anchor_and_its_own_code():
    rows = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]])
    delta, x = coded(rows)
    for row, code in enumerate(rows):
        whole = as_matrix(delta.anchor) + delta.varied.up @ torch.diag(code) @ delta.varied.down
        torch.testing.assert_close(delta.apply(x)[row], x[row] @ whole.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [torch.zeros(2, 3), None])
def test_code_zero_is_the_anchor(rows: Tensor | None):
    delta, x = coded(rows)
    torch.testing.assert_close(delta.apply(x), x @ as_matrix(delta.anchor).T)


def test_codes_go_with_their_conditions():
    one = Condition(torch.zeros(1, 3, 2), torch.zeros(1, 0), codes=torch.tensor([[1.0, 2.0]]))
    nothing = replace(one, codes=torch.zeros(1, 2))
    both = joined(one.expand(2), nothing)
    assert both.codes.tolist() == [[1, 2], [1, 2], [0, 0]]
    assert both.rows(slice(1, 3)).codes.tolist() == [[1, 2], [0, 0]]
    assert joined(replace(one, codes=None)).codes is None


@pytest.mark.parametrize("size", [(64, 16), (32, 8), (16, 8), (8, 4)])
def test_features_are_those_of_a_quarter_of_the_latents(size: tuple[int, int]):
    latents, side = size
    assert quarter_grid(torch.zeros(1, 4, latents, latents)) == (side, side)


def test_feature_tap_takes_its_rows_and_grid_until_it_is_closed():
    tap = FeatureTap((2, 3), rows=1)
    shown = torch.arange(24.0).view(2, 2, 2, 3)
    tap.add(shown)
    tap.add(torch.zeros(2, 2, 4, 6))
    tap.close()
    tap.add(shown)
    (found,) = tap.features()
    assert found.shape == (1, 6, 2) and found[0, 0].tolist() == [0, 6]
    with pytest.raises(RuntimeError, match="No output block works on a 5x5 grid"):
        FeatureTap((5, 5), 1).features()


# ---- schedules -----------------------------------------------------------------------------------

BOTH = ("anchor", "delta")


@pytest.mark.parametrize(
    ("schedule", "turns"),
    [
        ("joint", [BOTH] * 8),
        ("two_timescale", [BOTH] * 8),
        ("sequential", [("anchor",)] * 2 + [("delta",)] * 6),
        ("alternate", [("anchor",)] * 2 + [("anchor",), ("delta",), ("delta",)] * 2),
    ],
)
def test_turns_of_a_schedule(schedule: str, turns: list):
    method, _ = made(schedule=schedule)
    assert [method.turn(step) for step in range(8)] == turns


@pytest.mark.parametrize("codes", ["mapper", "free"])
@pytest.mark.parametrize("schedule", PARTED)
def test_anchor_and_delta_steps_never_touch_each_others_weights_or_moments(
    schedule: str, codes: str
):
    method, denoiser = made(schedule=schedule, codes=codes)
    run = Run(method, denoiser, method.train_config)

    def state(name: str) -> list[Tensor]:
        groups = run.optimisers[name].param_groups
        learned = [p for group in groups for p in group["params"]]
        moments = [t for s in run.optimisers[name].state.values() for t in s.values()]
        return [tensor.detach().clone() for tensor in (*learned, *moments)]

    with method.insert(denoiser):
        for step in range(8):
            (mine,) = method.turn(step)
            other = BOTH[BOTH.index(mine) - 1]
            before = state(mine), state(other)
            run.take_step()
            same = [torch.equal(a, b) for a, b in zip(before[1], state(other), strict=True)]
            assert all(same)
            assert any(not torch.equal(a, b) for a, b in zip(before[0], state(mine), strict=False))


def test_all_that_is_learned_has_one_optimiser():
    method, _ = made()
    owned = [p for groups in method.optimisers().values() for g in groups for p in g["params"]]
    assert {id(p) for p in owned} == {id(p) for p in method.learned.parameters()}
    assert len({id(p) for p in owned}) == len(owned)


def test_anchor_of_two_timescales_has_a_tenth_of_the_rate():
    def rates(schedule: str) -> dict[str, list[float]]:
        found = made(schedule=schedule)[0].optimisers()
        return {name: [group["lr"] for group in groups] for name, groups in found.items()}

    joint, slow = rates("joint"), rates("two_timescale")
    assert slow["anchor"] == pytest.approx([0.1 * rate for rate in joint["anchor"]])
    assert slow["delta"] == joint["delta"]


@pytest.mark.parametrize("schedule", ["two_timescale", *PARTED])
@pytest.mark.parametrize("codes", ["free", "shared"])
def test_resumed_run_of_every_schedule_ends_with_the_same_bytes(schedule, codes, tmp_path):
    path = tmp_path / "step.safetensors"

    class Keep(Watcher):
        def on_step(self, run: Run) -> None:
            if run.step == 3:
                path.write_bytes(snapshot_bytes(run))

    class PutBack(Watcher):
        def on_start(self, run: Run) -> None:
            read_snapshot(path).apply(run)

    whole = trained(Keep(), schedule=schedule, codes=codes, steps=6).learned.state_dict()
    resumed = trained(PutBack(), schedule=schedule, codes=codes, steps=6).learned.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("turn", [("anchor",), ("delta",), BOTH])
@pytest.mark.parametrize("codes", ["mapper", "free"])
def test_gradients_of_a_split_batch_add_up_in_every_turn(turn: tuple, codes: str):
    def gradients(parts: int) -> list[Tensor | None]:
        method, denoiser = made(codes=codes, contextual_weight=0.5, delta_weight=0.5)
        with torch.no_grad():
            for up in method.varied.ups:
                up.normal_(0, 0.1, generator=rng(3))
        run, batch = Run(method, denoiser, method.train_config), method.draw()
        with method.insert(denoiser):
            for share, part in batch.split(parts):
                terms = method.losses(part, run.predict, turn)
                (share * sum(method.weights[n] * t for n, t in terms.items())).backward()
        return [p.grad for p in method.learned.parameters()]

    for a, b in zip(gradients(1), gradients(3), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


# ---- what a sample is ----------------------------------------------------------------------------


def drawn(method: Any, turn: tuple = BOTH, count: int = 40) -> list:
    return [method.of_turn(method.draw(), turn) for _ in range(count)]


def test_a_quarter_of_the_samples_has_no_code_where_both_learn():
    method, _ = made()
    share = torch.tensor([batch.coded for batch in drawn(method, count=400)]).float().mean()
    assert share.item() == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize(("turn", "share"), [(("anchor",), 0), (("delta",), 1)])
def test_of_the_anchors_turn_none_has_a_code_and_of_the_deltas_all(turn: tuple, share: int):
    method, _ = made()
    batch = drawn(method, turn, 1)[0]
    codes = method.condition(batch).codes
    assert codes.ne(0).any(dim=1).float().mean().item() == share


def test_photo_with_its_code_counts_its_subject_alone():
    method, _ = made(composites=0.0)
    for batch in drawn(method, ("delta",), 4):
        assert torch.equal(batch.valid, method.photos.masks[batch.photos, 0])
    for batch in drawn(method, ("anchor",), 4):
        assert batch.valid.eq(1).all()


def test_composite_counts_whole_even_with_its_code():
    method, _ = made(composites=1.0)
    valid = {tuple(row.flatten().tolist()) for row in method.photos.composites.valid.flatten(0, 1)}
    for batch in drawn(method, ("delta",), 4):
        assert batch.blanked.all()
        assert {tuple(row.flatten().tolist()) for row in batch.valid} <= valid


def test_samples_with_a_code_have_high_noise_more_often():
    method, _ = made()

    def mean(turn: tuple) -> float:
        times = torch.cat([batch.timesteps for batch in drawn(method, turn, 400)])
        assert 0 <= times.min() and times.max() < STEPS
        return times.float().mean().item() / STEPS

    assert mean(("anchor",)) == pytest.approx(1 / 2, abs=0.03)  # of t = u
    assert mean(("delta",)) == pytest.approx(2 / 3, abs=0.03)  # of t = sqrt(u)


def test_captions_name_the_backgrounds_that_have_a_name():
    photos = replace(fake_varied(masks=False), places=("grass", "", "sky", "sand", "wood"))
    method, _ = made(photos)
    named = [method.caption(photo) for photo in range(5)]
    assert named[0] == method.tokens("photo of a [V] ball in grass background")
    assert named[1] == method.tokens("photo of a [V] ball")
    for batch in drawn(method, count=4):
        assert batch.prompts == tuple(named[i] for i in batch.photos.tolist())


def test_three_of_ten_composites_do_not_say_where_they_are():
    photos = replace(fake_varied(), places=("grass", "snow", "sky", "sand", "wood"))
    made_up = replace(photos.composites, said=((Said("V", "moon"),) * 4,) * 5)
    method, _ = made(replace(photos, composites=made_up), composites=1.0)
    prompts = [prompt for batch in drawn(method, count=200) for prompt in batch.prompts]
    found = Counter(prompts)
    assert set(found) == {method.prompt("", {"V"}), method.prompt("", {"V"}, "moon")}
    assert found[method.prompt("", {"V"})] / len(prompts) == pytest.approx(0.3, abs=0.06)


def test_contextual_loss_compares_another_photo_under_its_own_caption():
    photos = replace(fake_varied(masks=False), places=("grass", "snow", "sky", "sand", "wood"))
    method, _ = made(photos)
    captions = [method.caption(photo) for photo in range(5)]
    for batch in drawn(method, count=8):
        for row, prompt in enumerate(batch.other_prompts):
            other = captions.index(prompt)
            assert other != batch.photos[row]
            assert torch.equal(batch.other_latents[row], photos.latents[other, 0])


def test_weight_of_zero_asks_for_no_features():
    method, denoiser = made(contextual_weight=0.0, delta_weight=0.0)
    seen = []

    def predict(batch, condition, taps):
        seen.append(len(taps))
        return Run(method, denoiser, method.train_config).predict(batch, condition, taps)

    with method.insert(denoiser):
        terms = method.losses(method.draw(), predict, ("anchor",))
    assert seen == [0] and set(terms) == {"diffusion"}


def test_live_samples_are_the_anchor_and_three_individuals_of_fixed_draws():
    method, _ = made()
    samples, again = method.samples(), method.samples()
    assert list(samples) == ["", "[V]", "individual 1", "individual 2", "individual 3"]
    assert not samples["[V]"].codes.any() and not samples[""].codes.any()
    for name, condition in samples.items():
        assert torch.equal(condition.codes, again[name].codes)
    assert len({tuple(c.codes[0].tolist()) for c in samples.values()}) == 4


# ---- individuals ---------------------------------------------------------------------------------


def test_drawn_codes_have_the_mean_and_covariance_that_are_asked_for():
    codes = torch.randn(40, 3, generator=rng(0)) @ torch.randn(3, 3, generator=rng(1)) + 0.5
    law = law_of(codes)
    raw = torch.cov(codes.double().T)
    wanted = 0.8 * raw + 0.2 * torch.diag(raw.diagonal())
    torch.testing.assert_close(law.covariance, wanted)
    for diversity, share in ((0.5, 0.5), (1.0, 1.0), (2.0, 1.0)):
        found = law.draw(40_000, diversity, seed=3).double()
        mean, spread = share * codes.double().mean(dim=0), diversity**2 * wanted
        torch.testing.assert_close(found.mean(dim=0), mean, atol=0.06, rtol=0)
        torch.testing.assert_close(torch.cov(found.T), spread, atol=0.05, rtol=0.05)


def test_first_individuals_of_a_seed_do_not_depend_on_the_count():
    law = law_of(torch.randn(8, 4, generator=rng(0)))
    assert torch.equal(law.draw(2, 1.0, 5), law.draw(9, 1.0, 5)[:2])
    assert not torch.equal(law.draw(2, 1.0, 5), law.draw(2, 1.0, 6))


@pytest.fixture(scope="module")
def distribution() -> Concept:
    return concept_of(trained(steps=6))


def test_fewer_photos_than_numbers_of_a_code_still_have_individuals(distribution: Concept):
    assert distribution.codes is not None and len(distribution.codes) < 8
    assert drawn_codes(distribution, 3, 1.0, 0).isfinite().all()


def test_diversity_zero_is_the_anchor_alone(distribution: Concept):
    (code,) = drawn_codes(distribution, 1, 0.0, 7)
    anchor = individual(distribution, code)
    assert not anchor.varied and anchor.codes is None
    assert anchor.deltas == distribution.deltas and summed(anchor) == distribution.deltas


def test_folded_individual_is_the_live_forward_pass(distribution: Concept):
    method, denoiser = made()
    with torch.no_grad():
        for module, kept in ((method.deltas, "deltas"), (method.varied, "varied")):
            for (layer, _), up, down in zip(
                module.of_layers(), module.ups, module.downs, strict=True
            ):
                stored: Any = getattr(distribution, kept)[layer.path]
                up.copy_(stored.up), down.copy_(stored.down)
    (code,) = drawn_codes(distribution, 1, 1.0, 2)
    context, noisy = torch.randn(1, 24, 12, generator=rng(0)), torch.randn(1, 4, 8, 8)
    condition = Condition(context, context[:, 0, :0], codes=code[None])
    with method.insert(denoiser), torch.no_grad():
        live = denoiser.predict(noisy, torch.zeros(1), condition)
    whole = summed(individual(distribution, code))
    for layer in denoiser.layers:
        weight = denoiser.unet.get_submodule(layer.path).weight
        weight += as_matrix(whole[layer.path])
    folded = denoiser.predict(noisy, torch.zeros(1), replace(condition, codes=None))
    torch.testing.assert_close(folded, live, atol=1e-6, rtol=1e-6)


def test_individual_is_a_lora_of_both_ranks_together(distribution: Concept):
    one = individual(distribution, drawn_codes(distribution, 1, 1.0, 2)[0])
    for name, delta in summed(one).items():
        assert isinstance(delta, LowRank) and len(delta.down) == 16
        both = as_matrix(one.deltas[name]) + as_matrix(one.varied[name])
        torch.testing.assert_close(as_matrix(delta), both, atol=1e-6, rtol=1e-6)


def test_mix_goes_from_one_picture_to_the_other(distribution: Concept):
    codes: Any = distribution.codes
    first, middle, last = mixed_codes(distribution, 2, 4, 3)
    torch.testing.assert_close(first, codes[1])
    torch.testing.assert_close(last, codes[3])
    torch.testing.assert_close(middle, (codes[1] + codes[3]) / 2)
    torch.testing.assert_close(mixed_codes(distribution, 2, 4, 1)[0], middle)
    torch.testing.assert_close(mixed_codes(distribution, 3, 0, 2), codes[[2, 2]])


def test_bad_requests_are_told(distribution: Concept):
    with pytest.raises(ValueError, match="The diversity is -0.5; it lies between 0"):
        drawn_codes(distribution, 1, -0.5, 0)
    with pytest.raises(ValueError, match="There is no picture 9: .* learned from 5"):
        mixed_codes(distribution, 9, 1, 1)
    with pytest.raises(ValueError, match="There is no picture -1"):
        mixed_codes(distribution, 1, -1, 1)
    with pytest.raises(ValueError, match="one individual and no distribution"):
        drawn_codes(individual(distribution, torch.ones(8)), 1, 1.0, 0)
    with pytest.raises(ValueError, match="has not learned how its individuals vary"):
        drawn_codes(concept_of(made()[0]), 1, 1.0, 0)
    with pytest.raises(ValueError, match="a distribution of many individuals, not one concept"):
        check_individual(distribution)
    check_individual(individual(distribution, torch.ones(8)))


def test_distribution_and_individual_come_back_from_their_files(distribution: Concept, tmp_path):
    for number, concept in enumerate([distribution, individual(distribution, torch.ones(8))]):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(concept_bytes(concept))
        loaded = load_concept(path)
        assert loaded.varied.keys() == concept.varied.keys() == concept.deltas.keys()
        for name, delta in concept.varied.items():
            assert torch.equal(as_matrix(loaded.varied[name]), as_matrix(delta))
        assert (loaded.codes is None) == (concept.codes is None)
        if concept.codes is not None:
            assert torch.equal(loaded.codes, concept.codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": torch.ones(5, 3)}, "codes do not fit"),
        ({"varied": {}}, "codes have nothing to scale"),
        ({"deltas": {}}, "varies without an anchor"),
    ],
)
def test_file_whose_codes_do_not_belong_is_damaged(distribution, changes, message, tmp_path):
    path = tmp_path / "toy.safetensors"
    path.write_bytes(concept_bytes(replace(distribution, **changes)))
    with pytest.raises(ValueError, match=f"damaged or incomplete .*{message}"):
        load_concept(path)


def test_plain_concept_has_no_codes():
    plain = make_concept()
    assert plain.codes is None and summed(plain) is plain.deltas
    check_individual(plain)


# ---- pictures ------------------------------------------------------------------------------------


def pictures(count: int = 5, side: int = 64) -> tuple[list[Tensor], list[Tensor]]:
    photos = [torch.rand(side, side, 3, generator=rng(i)) for i in range(count)]
    mask = torch.zeros(side, side)
    mask[20:44, 16:40] = 1
    return photos, [mask] * count


def encoded(photos: list[Tensor], masks: list[Tensor] | None, **changes: Any) -> Photos:
    def encode(images: Tensor) -> Tensor:
        pooled = F.avg_pool2d(images.movedim(-1, 1), 4)
        return torch.cat([pooled, pooled[:, :1]], dim=1)

    def see(images: Tensor) -> Tensor:
        return images.flatten(1)

    settings = {"resolution": 64} | changes
    return make_varied(photos, masks, see, encode, "corgi", **settings)


def test_image_encoder_sees_the_individual_without_its_ground():
    photos, masks = pictures()
    other = [torch.where(m[..., None] > 0, p, 1 - p) for p, m in zip(photos, masks, strict=True)]
    ours, theirs = (encoded(one, masks).features for one in (photos, other))
    assert torch.equal(ours, theirs)
    whole: Any = encoded(photos, None).features
    assert not torch.equal(whole, encoded(other, None).features)


def test_composites_show_the_individual_on_the_grounds_of_others():
    photos, masks = pictures()
    for i, photo in enumerate(photos):  # one grey a picture, and its individual black
        photo[:] = 0.2 + 0.15 * i
        photo[masks[i] > 0] = 0.0
    made = encoded(photos, masks, backgrounds="a\nb\nc\nd\ne")
    greys = {name: 0.2 + 0.15 * i for i, name in enumerate("abcde")}
    composites: Any = made.composites
    for number, row in enumerate(composites.said):
        for k, said in enumerate(row):
            assert said.place != "abcde"[number]
            latents, valid = composites.latents[number, k, 0], composites.valid[number, k]
            ground = latents[(valid > 0) & (composites.masks[number, k] == 0)]
            torch.testing.assert_close(ground, torch.full_like(ground, greys[said.place]))
            size: Any = made.masks[number, 0].sum() if made.masks is not None else 0
            found = composites.masks[number, k].sum().item()
            assert found == pytest.approx(size.item(), rel=0.5)  # it has not grown or shrunk


def test_pictures_without_masks_have_no_composites():
    photos, _ = pictures()
    made = encoded(photos, None)
    assert made.composites is None and made.masks is None and made.places == ()


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, "There are 0 pictures, and 4 are the least"), (3, "There are 3 pictures, and 4")],
)
def test_too_few_pictures_are_refused(count: int, message: str):
    with pytest.raises(ValueError, match=message):
        encoded(pictures(count)[0], None)


def test_pictures_that_are_all_the_same_are_refused_and_so_are_twins():
    photos, _ = pictures()
    with pytest.raises(ValueError, match="All 5 pictures are the same"):
        encoded([photos[0]] * 5, None)
    with pytest.raises(ValueError, match="Picture 1 and Picture 5 are the same picture"):
        encoded([*photos[:4], photos[0]], None)


def test_background_names_are_a_line_a_picture():
    assert background_names("grass\n\n  sandy   beach \nsnow\n", 4) == (
        "grass",
        "",
        "sandy beach",
        "snow",
    )
    assert background_names(" \n ", 3) == ("", "", "")
    with pytest.raises(ValueError, match="There are 4 pictures but 2 lines of backgrounds"):
        background_names("grass\nsnow", 4)
    with pytest.raises(ValueError, match='place "\\[B\\]" must be plain words'):
        background_names("grass\n[B]\nsnow\nsky", 4)


def test_demo_set_follows_its_law_and_shares_the_rest():
    toys = demo_set(16, seed=3)
    colours = Counter(COLOURS[i] for i in toys.scenes.main.tolist())
    assert colours == {"red": 6, "yellow": 4, "green": 4, "purple": 2}
    assert Counter(toys.scenes.size.tolist()) == {0: 12, 1: 4}
    for common in ("shape", "second", "pattern"):
        assert len(set(getattr(toys.scenes, common).tolist())) == 1
    assert Counter(toys.scenes.background.tolist()) == dict.fromkeys(range(8), 2)
    assert torch.equal(toys.images, demo_set(16, seed=3).images)
    assert toys.masks.flatten(1).any(dim=1).all()
