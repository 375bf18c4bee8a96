"""Stable Diffusion 1.x at its true size, with random weights and photos."""

from collections.abc import Iterator
from pathlib import Path

import comfy.model_management
import comfy.sd
import pytest
import tiny
import torch
from torch import Tensor

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host.families import SD1, attention_layers, cross_attentions, family_of
from detex_pack.detex.host.images import latent_encoder
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import make_photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Losses
from detex_pack.detex.unet.deltas import text_layers
from devtools.checkpoints import write_checkpoint

SIDE = 256  # pixels

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    """Two photos, 256 pixels high; with random weights it does not matter of what."""
    return list(torch.rand(2, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(2)))


def ellipse() -> Tensor:
    axis = torch.linspace(-1, 1, SIDE)
    return ((axis[:, None] / 0.7) ** 2 + (axis[None] / 0.5) ** 2 < 1).float()


def eightfold_vae() -> comfy.sd.VAE:
    """A small AutoencoderKL with Stable Diffusion's eight pixels a latent cell."""
    settings = {**tiny.VAE_CONFIG, "ch_mult": [1, 1, 1, 1]}
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": settings, "embed_dim": 4}})
    tiny.seeded(vae.first_stage_model, 3)
    return vae


class Run:
    """Two training steps, and what they left behind."""

    def __init__(self, pictures: list[Tensor], checkpoint: Path):
        features = torch.randn(2, 768, generator=torch.Generator().manual_seed(1))
        encode = latent_encoder(eightfold_vae())
        masks = [ellipse()] * 2
        subject = make_photos(pictures, masks, lambda _: features, encode, "dog", resolution=SIDE)
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False)
        self.family = family_of(model)
        self.text_layers = text_layers(attention_layers(model))
        self.layers = len(cross_attentions(model))
        before = weight_sums(model.model), weight_sums(clip.cond_stage_model)
        settings = DetexConfig(), TrainConfig(steps=2, batch_size=1)
        self.concept: Concept
        self.losses: Losses
        self.concept, self.losses = train_concept(
            model, clip, subject, subject.latents[:1, 0], *settings
        )
        after = weight_sums(model.model), weight_sums(clip.cond_stage_model)
        self.unchanged = before == after


def weight_sums(module: torch.nn.Module) -> list[int]:
    """The sum of each tensor's bits: a hash that is quick at 3.4 GB."""
    bits = {2: torch.int16, 4: torch.int32}
    return [
        int(p.detach().reshape(-1).view(bits[p.dtype.itemsize]).sum(dtype=torch.int64))
        for p in module.parameters()
    ]


@pytest.fixture(scope="module")
def run(pictures: list[Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    comfy.model_management.unload_all_models()
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "sd1.safetensors"
    write_checkpoint(checkpoint, "sd15")
    try:
        yield Run(pictures, checkpoint)
    finally:
        checkpoint.unlink()
    comfy.model_management.unload_all_models()


def test_family_is_stable_diffusion_1(run: Run):
    assert run.family == SD1


def test_there_are_16_layers_and_19_million_parameters(run: Run):
    assert run.layers == 16
    assert sum(layer.out * layer.inp for layer in run.text_layers) == 19_169_280
    assert sum(delta.numel() for delta in run.concept.deltas.values()) == 19_169_280


def test_every_loss_is_finite(run: Run):
    assert set(run.losses.terms) == {"diffusion", "prior", "attention", "total"}
    for values in run.losses.terms.values():
        assert len(values) == 2
        assert torch.tensor(values).isfinite().all()


def test_every_matrix_moved_by_the_learning_rate(run: Run):
    # Adam's first two steps are of the size of the rate, 1e-5: none is larger than both together
    largest = [delta.abs().max().item() for delta in run.concept.deltas.values()]
    assert min(largest) > 1e-6
    assert max(largest) < 2.2e-5


def test_words_are_of_the_towers_width(run: Run):
    assert run.concept.word_names == ("V", "P1", "P2", "B1", "B2")
    assert {vector["l"].shape for vector in run.concept.words.values()} == {(1, 768)}


def test_users_model_and_clip_are_unchanged(run: Run):
    assert run.unchanged


def test_attention_maps_lay_on_half_the_latent_side(run: Run):
    overlap = run.concept.report["overlap"]["after"]
    assert all(0 <= score <= 1 for score in overlap.values())
