"""Fixtures: the small host models of tiny.py, photos, a subject and a trained concept."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent))  # for `import tiny`

import tiny
from graphs import executor, registered  # noqa: F401  (fixtures of the graph tests)

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import Photos, make_photos
from detex_pack.detex.training.config import TrainConfig

SIDE = 32  # pixels of a training picture: 8x8 latents, attention maps of 4x4
FOLDERS = ("detex", "loras", "embeddings", "diffusers")


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.tiny_model()


@pytest.fixture(scope="module")
def clip() -> comfy.sd.CLIP:
    return tiny.tiny_clip()


@pytest.fixture(scope="module")
def vae() -> comfy.sd.VAE:
    return tiny.tiny_vae()


@pytest.fixture(scope="module")
def clip_vision() -> ClipVisionModel:
    return tiny.tiny_clip_vision()


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    """Three pictures of different shapes."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((40, 32), (32, 32), (36, 48))
    return [torch.rand(*size, 3, generator=generator) for size in sizes]


@pytest.fixture(scope="module")
def masks(photos: list[Tensor]) -> list[Tensor]:
    planes = [torch.zeros(photo.shape[:2]) for photo in photos]
    for plane in planes:
        plane[10:26, 8:24] = 1
    return planes


@pytest.fixture(scope="module")
def subject(
    photos: list[Tensor], masks: list[Tensor], vae: comfy.sd.VAE, clip_vision: ClipVisionModel
) -> Photos:
    see, encode = feature_encoder(clip_vision), latent_encoder(vae)
    return make_photos(photos, masks, see, encode, "ball", resolution=SIDE)


@pytest.fixture(scope="module")
def prior_latents(vae: comfy.sd.VAE) -> Tensor:
    pictures = torch.rand(4, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(5))
    return latent_encoder(vae)(pictures)


Train = Callable[..., tuple[Concept, dict[str, list[float]]]]


@pytest.fixture(scope="module")
def train(
    model: ModelPatcher, clip: comfy.sd.CLIP, subject: Photos, prior_latents: Tensor
) -> Train:
    """A short run: train(config=DetexConfig(), watcher, steps=...) -> concept, history."""

    def run(
        config=None,
        *watchers,
        photos=subject,
        prior=prior_latents,
        store=None,
        on=(model, clip),
        **settings,
    ):
        settings = {"steps": 2, "batch_size": 2, "learning_rate": 1e-2} | settings
        train_config = TrainConfig(**settings)
        config = config or DetexConfig()
        return train_concept(*on, photos, prior, config, train_config, watchers, store)

    return run


@pytest.fixture(scope="module")
def concept(train: Train) -> Concept:
    return train(steps=3)[0]


@pytest.fixture
def model_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty model folders, so that nothing is written into the host's own."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        entry = ([str(tmp_path / name)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture(autouse=True)
def interrupt_flag_down() -> Iterator[None]:
    yield
    comfy.model_management.interrupt_current_processing(value=False)


@pytest.fixture(scope="session")
def weight_hash() -> Callable[[nn.Module], str]:
    def digest(module: nn.Module) -> str:
        total = hashlib.sha256()
        for name, tensor in module.state_dict().items():
            total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    return digest
