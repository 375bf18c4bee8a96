"""What only a graphics card can show; `benchmarks/gpu.sh` runs it on ComfyUI's `comfy` alone."""

import gc

import comfy.model_management as model_management
import comfy.sample
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from detex_pack.benchmarks.speed.runs import open_run
from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host import denoiser as host_denoiser
from detex_pack.detex.host.attention import capture_attention
from detex_pack.detex.host.demo_model import DemoModel, load_demo_model
from detex_pack.detex.host.images import feature_encoder, latent_decoder, latent_encoder
from detex_pack.detex.host.text import word_positions
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.toys.subjects import demo_subject
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Losses, Run, Watcher, gradients, parameters_of
from detex_pack.detex.unet.attention import AttentionMaps

pytestmark = pytest.mark.gpu

CONFIG = DetexConfig(subject_attention=True)
TRAIN = TrainConfig(batch_size=4, learning_rate=2.5e-4, steps=40)
HALVES = [torch.bfloat16, torch.float16]
TEXT, WORDS = "photo of a red ball in water background", ("ball", "water")


@pytest.fixture(scope="module")
def demo() -> DemoModel:
    with torch.inference_mode():  # as in a node
        return load_demo_model()


@pytest.fixture(scope="module")
def subject(demo: DemoModel) -> Photos:
    toy = demo_subject(1, count=4, seed=0)
    see, encode = feature_encoder(demo.clip_vision), latent_encoder(demo.vae)
    with torch.inference_mode():  # as in a node
        return make_photos(list(toy.images), list(toy.masks), see, encode, "ball", resolution=64)


def compute_in(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Train in this precision, whatever the card computes best."""
    monkeypatch.setattr(host_denoiser, "training_dtype", lambda device: dtype)


def step_gradient(
    model: ModelPatcher, clip: comfy.sd.CLIP, subject: Photos, *, checkpointing: bool = False
) -> Tensor:
    """Of everything learned, in one row, after the first step's backward pass; unscaled."""
    prior = subject.latents[:, 0]
    with open_run(model, clip, subject, prior, CONFIG, TRAIN) as (run, denoiser):
        denoiser.gradient_checkpointing = checkpointing
        gradients(run, run.method.turn(0))
        for optimiser in run.optimisers.values():
            run.scaler.unscale_(optimiser)
        return torch.cat([p.grad.flatten().float().cpu() for p in learned_by(run)])


def learned_by(run: Run) -> list[Tensor]:
    return [p for optimiser in run.optimisers.values() for p in parameters_of(optimiser)]


def on_the_cpu(demo: DemoModel) -> tuple[ModelPatcher, comfy.sd.CLIP]:
    model, clip = demo.model.clone(), demo.clip.clone()
    model.load_device = clip.patcher.load_device = torch.device("cpu")
    return model, clip


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03), (torch.float16, 0.005)]
)
def test_gradient_is_the_cpu_s(
    demo: DemoModel,
    subject: Photos,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    error: float,
):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", value=False)
    compute_in(monkeypatch, torch.float32)
    wanted = step_gradient(*on_the_cpu(demo), subject)
    compute_in(monkeypatch, dtype)
    found = step_gradient(demo.model, demo.clip, subject)
    assert (found - wanted).norm() < error * wanted.norm()


@pytest.mark.parametrize("dtype", HALVES)
def test_gradient_checkpointing_finds_the_same_gradient(
    demo: DemoModel, subject: Photos, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
):
    compute_in(monkeypatch, dtype)
    plain = step_gradient(demo.model, demo.clip, subject)
    again = step_gradient(demo.model, demo.clip, subject, checkpointing=True)
    assert (plain - again).norm() < 1e-3 * plain.norm()  # CUDA adds up in any order


def test_room_is_made_by_putting_away_what_the_training_does_not_use(
    demo: DemoModel, subject: Photos
):
    with open_run(demo.model, demo.clip, subject, subject.latents[:, 0], CONFIG, TRAIN) as opened:
        denoiser = opened[1]
        model_management.load_models_gpu([demo.vae.patcher])
        denoiser.room_for(float(model_management.get_total_memory(denoiser.patcher.load_device)))
        left = [loaded.model for loaded in model_management.current_loaded_models]
        assert all(any(kept is model for model in left) for kept in denoiser.in_use)
        assert not any(demo.vae.patcher is model for model in left)


def test_step_never_waits_for_the_card(demo: DemoModel, subject: Photos):
    with open_run(demo.model, demo.clip, subject, subject.latents[:, 0], CONFIG, TRAIN) as (run, _):
        run.take_step()  # sets up what the later ones use
        torch.cuda.set_sync_debug_mode("error")
        try:
            run.take_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


class Look(Watcher):
    """Has the VAE draw while the training runs."""

    def __init__(self, demo: DemoModel):
        self.decode = latent_decoder(demo.vae)

    def on_step(self, run: Run) -> None:
        self.decode(torch.zeros(1, 4, 16, 16))


def test_live_pictures_leave_the_vae_as_other_nodes_need_it(demo: DemoModel, subject: Photos):
    model_management.unload_all_models()
    learn(demo, subject, Look(demo), train=TrainConfig(steps=2))
    with torch.inference_mode():
        assert demo.vae.decode(torch.zeros(1, 4, 16, 16)).isfinite().all()


def learn(
    demo: DemoModel, subject: Photos, *watchers: Watcher, train: TrainConfig = TRAIN
) -> tuple[Concept, Losses]:
    prior = subject.latents[:, 0]
    with torch.inference_mode():  # as in a node
        return train_concept(demo.model, demo.clip, subject, prior, CONFIG, train, watchers)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_learns_what_float32_learns(
    demo: DemoModel, subject: Photos, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
):
    weights = weights_of(demo)
    compute_in(monkeypatch, torch.float32)
    _, wanted = learn(demo, subject)
    compute_in(monkeypatch, dtype)
    concept, found = learn(demo, subject)
    for name, values in wanted.terms.items():
        whole, half = (sum(v[-20:]) / 20 for v in (values, found.terms[name]))
        assert half == pytest.approx(whole, rel=0.05), name
    assert all(delta.isfinite().all() for delta in concept.deltas.values())
    after = weights_of(demo)
    assert all(torch.equal(weights[name], after[name]) for name in weights)


def weights_of(demo: DemoModel) -> dict[str, Tensor]:
    return {name: w.cpu().clone() for name, w in demo.model.model_state_dict().items()}


def test_capture_keeps_every_bit_of_the_picture(demo: DemoModel):
    positions = word_positions(demo.clip, TEXT, WORDS)
    maps = AttentionMaps(tuple(positions))
    watched = capture_attention(demo.model, maps, list(positions.values()))
    with torch.inference_mode():
        assert torch.equal(draw(watched, demo.clip), draw(demo.model, demo.clip))
        heat = maps.heat_maps()
    assert heat.shape[:2] == (len(WORDS), 2) and heat.isfinite().all()


def draw(model: ModelPatcher, clip: comfy.sd.CLIP) -> Tensor:
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (TEXT, "")]
    latent = torch.zeros(2, 4, 16, 16)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    return comfy.sample.sample(
        model, noise, 4, 4.0, "euler", "normal", *conds, latent, disable_pbar=True, seed=0
    )


class FullCard(Watcher):
    """Leaves the card 0.6 of what a step takes, from step 2 on."""

    def __init__(self) -> None:
        self.passes = 1

    def on_step(self, run: Run) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        if run.step == 1:
            torch.cuda.reset_peak_memory_stats()
        if run.step == 2:
            rest = torch.cuda.memory_reserved()  # what the fraction is compared with
            allowed = rest + 0.6 * (torch.cuda.max_memory_reserved() - rest)
            whole = torch.cuda.get_device_properties(run.denoiser.device).total_memory
            torch.cuda.set_per_process_memory_fraction(allowed / whole)
        self.passes = run.passes


def test_card_that_is_full_in_the_middle_goes_on_in_more_passes(demo: DemoModel, subject: Photos):
    watcher = FullCard()
    train = TrainConfig(batch_size=64, steps=4)  # hundreds of MB: the allocator takes 20 at a time
    try:
        _, losses = learn(demo, subject, watcher, train=train)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        model_management.soft_empty_cache()
    assert len(losses.terms["diffusion"]) == train.steps
    assert watcher.passes > 1
