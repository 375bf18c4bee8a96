"""Custom Diffusion, compared with a step written anew; DETEX draws the same numbers."""

from collections.abc import Iterator

import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from detex_pack.detex.host.denoiser import training_session
from detex_pack.detex.methods.custom_diffusion import CustomDiffusion, CustomDiffusionConfig
from detex_pack.detex.methods.detex import Detex, DetexConfig
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import predictor
from detex_pack.detex.training.loop import train as run_steps
from detex_pack.detex.unet.deltas import text_layers


@pytest.fixture(scope="module")
def session(model: ModelPatcher, clip: comfy.sd.CLIP) -> Iterator[tuple]:
    with training_session(model, clip, (4, 4, 8, 8)) as opened:
        yield opened


def plain_text_features(text, ids: tuple[int, ...], vector: Tensor | None) -> Tensor:
    """SD 1.x's text tower in a few lines: the learned row replaces token 4."""
    (tower,) = text.towers
    model = tower.text_model
    hidden = tower.table.weight[torch.tensor(ids)][None]
    if vector is not None:
        hidden = torch.cat([hidden[:, :4], vector[None, None], hidden[:, 5:]], dim=1)
    hidden = hidden + model.embeddings.position_embedding.weight
    future = torch.full((77, 77), -torch.finfo(torch.float32).max).triu(1)
    for layer in model.encoder.layers:
        hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), future, attention_pytorch)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return model.final_layer_norm(hidden)


def plain_custom_diffusion_step(
    session: tuple, subject: Photos, prior: Tensor, train: TrainConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """One step of Custom Diffusion, written anew: -> K, V deltas by name, and [V]."""
    denoiser, text = session
    unet = denoiser.unet
    size = train.batch_size
    photo_rng = torch.Generator().manual_seed(train.seed + 1)
    photos = torch.randperm(subject.count, generator=photo_rng)[:size]
    torch.randint(1, (size,), generator=photo_rng)  # which copy: there is one
    chosen = torch.randint(len(prior), (size,), generator=photo_rng)
    latents = torch.cat([subject.latents[photos, 0], prior[chosen]])

    rng = torch.Generator().manual_seed(train.seed + 3)
    timesteps = torch.randint(1000, (2 * size,), generator=rng)
    noise = torch.randn(latents.shape, generator=rng)
    sigmas = denoiser.schedule.sigmas[timesteps]
    alpha_bar = 1 / (1 + sigmas**2)
    signal = (1 + sigmas**2).rsqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(signal.flatten() ** 2, alpha_bar)
    spread = sigmas.view(-1, 1, 1, 1) * signal
    noisy = signal * latents + spread * noise

    word = nn.Parameter(text.towers[0].table.weight[42170].clone())
    deltas = {
        layer.path: nn.Parameter(torch.zeros(layer.out, layer.inp))
        for layer in text_layers(denoiser.layers)
    }
    texts = "photo of a [V] ball", "photo of a ball"
    marked, plain = (text.tokenize(caption).ids[0] for caption in texts)
    photo_cond = plain_text_features(text, marked, word).expand(size, -1, -1)
    prior_cond = plain_text_features(text, plain, None).detach().expand(size, -1, -1)

    def hook(delta: Tensor):
        def add(_module, inputs: tuple, output: Tensor) -> Tensor:
            output = output + inputs[0] @ delta.T
            return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

        return add

    handles = [unet.get_submodule(n).register_forward_hook(hook(d)) for n, d in deltas.items()]
    options = {"optimized_attention_override": lambda _f, *a, **k: attention_pytorch(*a, **k)}
    cond = torch.cat([photo_cond, prior_cond])
    output = unet(noisy, timesteps.float(), context=cond, transformer_options=options)
    for handle in handles:
        handle.remove()
    error = (output - noise).square().mean(dim=1).sum(dim=(1, 2)) / 64
    (error[:size].mean() + error[size:].mean()).backward()

    parameters = [*deltas.values(), word]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=train.effective_rate, weight_decay=1e-2).step()
    return {n: d.detach() for n, d in deltas.items()}, word.detach()


def test_step_is_that_written_anew_bit_for_bit(
    session: tuple, subject: Photos, prior_latents: Tensor
):
    train = TrainConfig(steps=1, batch_size=1, learning_rate=1e-3, seed=4)
    scaled = subject.for_training(lambda latents: 0.18215 * latents)
    method = CustomDiffusion(scaled, prior_latents, CustomDiffusionConfig(), train, *session)
    run_steps(method, session[0], train)
    deltas, word = plain_custom_diffusion_step(session, scaled, prior_latents, train)
    assert torch.equal(method.words.export()["V"][0], word)
    for name, delta in method.deltas.export().items():
        assert torch.equal(delta, deltas[name]), name


def test_gamma_zero_and_lambda_zero_take_the_same_noise_as_custom_diffusion(
    session: tuple, subject: Photos, prior_latents: Tensor
):
    train = TrainConfig(steps=1, batch_size=2)
    noisy = []
    detex = Detex, DetexConfig(gamma=0, attention_weight=0)
    for kind, config in ((CustomDiffusion, CustomDiffusionConfig()), detex):
        spy = Spy(session[0])
        method = kind(subject, prior_latents, config, train, *session)
        method.losses(method.draw(), predictor(spy), method.turn(0))
        noisy.append(spy.noisy)
    assert torch.equal(*noisy)


class Spy:
    """The denoiser, remembering what it was asked."""

    def __init__(self, denoiser):
        self.inner = denoiser
        self.noisy = torch.empty(0)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def predict(self, noisy: Tensor, *rest) -> Tensor:
        self.noisy = noisy
        return self.inner.predict(noisy, *rest)
