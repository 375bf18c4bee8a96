"""The forward diffusion, against closed forms. ComfyUI's own is in tests/host/test_denoiser.py."""

import pytest
import torch

from detex_pack.detex.unet.schedules import EpsSchedule, FlowSchedule, VSchedule

SIGMAS = torch.tensor([0.03, 0.75, 14.0])
EPS, V = EpsSchedule(SIGMAS), VSchedule(SIGMAS)
ALL = torch.arange(3)
LONG = EpsSchedule(torch.linspace(0.03, 14, 1000))


def random_triple() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(3, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)))


def test_sigma_of_three_quarters_keeps_four_fifths_of_the_signal():
    signal, spread = EPS.scales(torch.tensor([1]), SIGMAS)  # 1 / sqrt(1 + 9/16) = 4/5
    assert signal.item() == pytest.approx(0.8)
    assert spread.item() == pytest.approx(0.6)


def test_signal_and_noise_keep_unit_variance():
    signal, spread = EPS.scales(ALL, SIGMAS)
    torch.testing.assert_close(signal**2 + spread**2, torch.ones(3, 1, 1, 1))


def test_noisy_latents_are_the_weighted_sum_by_hand():
    latents, noise = torch.full((1, 4, 1, 1), 2.0), torch.full((1, 4, 1, 1), -1.0)
    noisy = EPS.add_noise(latents, noise, torch.tensor([1]))
    torch.testing.assert_close(noisy, torch.full((1, 4, 1, 1), 1.0))  # 0.8 * 2 - 0.6


def test_epsilon_target_is_the_noise_itself():
    latents, noise, _ = random_triple()
    assert EPS.target(latents, noise, ALL) is noise


def test_v_target_gives_back_the_noise():
    latents, noise, _ = random_triple()
    signal, spread = V.scales(ALL, SIGMAS)
    v = V.target(latents, noise, ALL)
    noisy = V.add_noise(latents, noise, ALL)
    torch.testing.assert_close(signal * v + spread * noisy, noise, atol=2e-6, rtol=0)


def test_v_target_gives_back_the_latents():
    latents, noise, _ = random_triple()
    signal, spread = V.scales(ALL, SIGMAS)
    v = V.target(latents, noise, ALL)
    noisy = V.add_noise(latents, noise, ALL)
    torch.testing.assert_close(signal * noisy - spread * v, latents, atol=2e-6, rtol=0)


def test_v_error_is_the_epsilon_error_over_alpha_bar():
    latents, noise, wrong = (t.double() for t in random_triple())
    sigmas, times = SIGMAS[:2], ALL[:2]
    latents, noise, wrong = latents[:2], noise[:2], wrong[:2]
    signal, spread = (t.double() for t in V.scales(times, sigmas))
    noisy = signal * latents + spread * noise
    v = signal * noise - spread * latents
    guess = v + 0.1 * wrong  # some network output
    epsilon = signal * guess + spread * noisy
    v_error = (guess - v).square().sum(dim=(1, 2, 3))
    epsilon_error = (epsilon - noise).square().sum(dim=(1, 2, 3))
    alpha_bar = 1 / (1 + sigmas.double() ** 2)
    # float32 inside `scales` leaves 1e-7 in s^2 + a^2; the identity itself is exact
    torch.testing.assert_close(v_error, epsilon_error / alpha_bar, rtol=1e-5, atol=0)


def test_timesteps_reach_both_ends_of_the_schedule():
    drawn = LONG.sample(20000, torch.Generator().manual_seed(0))
    assert (drawn.min().item(), drawn.max().item()) == (0, 999)


def test_three_in_four_of_the_noisier_timesteps_lie_in_the_noisier_half():
    high = LONG.noisier(torch.arange(1000))  # density 2 t / T^2
    assert (high[1:] >= high[:-1]).all() and high.min() >= 0 and high.max() == 999
    assert (high >= 900).sum().item() == pytest.approx(190, abs=1)  # 1 - 0.9^2
    assert (high < 500).sum().item() == pytest.approx(250, abs=1)  # 0.5^2


def test_of_the_fourth_root_fifteen_in_sixteen_lie_in_the_noisier_half():
    high = LONG.noisier(torch.arange(1000), root=4)
    assert high.max() == 999
    assert (high < 500).sum().item() == pytest.approx(1000 / 16, abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_stratified_timesteps_fall_one_into_each_quarter(seed: int):
    drawn = LONG.sample(4, torch.Generator().manual_seed(seed), stratified=True)
    assert sorted((drawn // 250).tolist()) == [0, 1, 2, 3]


def test_stratified_quarters_change_places_between_draws():
    generator = torch.Generator().manual_seed(0)
    first = {int(LONG.sample(4, generator, stratified=True)[0]) // 250 for _ in range(40)}
    assert first == {0, 1, 2, 3}


@pytest.mark.parametrize("stratified", [False, True])
def test_timesteps_come_from_the_given_generator_alone(stratified: bool):
    drawn = [
        LONG.sample(8, torch.Generator().manual_seed(7), stratified=stratified) for _ in range(2)
    ]
    assert torch.equal(*drawn)


def test_flow_goes_straight_from_the_latents_to_the_noise_by_hand():
    flow = FlowSchedule(torch.tensor([0.25]))
    latents, noise = torch.full((1, 4, 1, 1), 2.0), torch.full((1, 4, 1, 1), -2.0)
    noisy = flow.add_noise(latents, noise, torch.tensor([0]))
    torch.testing.assert_close(noisy, torch.full((1, 4, 1, 1), 1.0))  # 0.75 * 2 - 0.25 * 2
    velocity = flow.target(latents, noise, torch.tensor([0]))
    torch.testing.assert_close(noisy - 0.25 * velocity, latents)
