"""The steady loss on the demo model's toys: it tells that a training learns its photos."""

from dataclasses import replace

import pytest

from detex_pack.detex.host.demo_model import DemoModel, load_demo_model
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import make_photos
from detex_pack.detex.toys.scene import SUBJECTS
from detex_pack.detex.toys.subjects import demo_subject
from detex_pack.detex.training.config import TrainConfig

RATES = {"learning_rate": 2.5e-4, "token_rate": 4.0, "mapper_rate": 0.4}  # as the quickstart's
STEPS = 100


@pytest.fixture(scope="module")
def demo() -> DemoModel:
    return load_demo_model()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SUBJECTS)))
def test_it_falls_on_every_demo_toy(demo: DemoModel, number: int):
    toy = demo_subject(number, 4, 0)
    encode = latent_encoder(demo.vae)
    photos = make_photos(
        list(toy.images),
        list(toy.masks),
        feature_encoder(demo.clip_vision),
        encode,
        toy.class_word,
        resolution=64,
        blank="random",
    )
    # without prior images, which are of other toys: what is measured is the photos'
    method = replace(DetexConfig.recommended(), prior_weight=0.0)
    settings = method, TrainConfig(steps=STEPS, batch_size=4, **RATES)
    concept, losses = train_concept(demo.model, demo.clip, photos, None, *settings)
    first, last = concept.report["steady"]
    assert (first, last) == (losses.steady["0"], losses.steady[str(STEPS)])
    assert last < first
