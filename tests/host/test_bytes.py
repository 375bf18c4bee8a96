"""Short trainings and exports end with the bytes that they have always ended with.

`bytes.json` holds, of each case, a hash of all that is learned (words, deltas, losses) and of the
exported files. Kernels differ between processors: elsewhere than on the kind of machine that wrote
the file, norms that must agree to 1e-4 stand in for the hashes.
`python -m pytest tests/host/test_bytes.py` compares; with DETEX_PIN=1 it writes the file anew.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import comfy.model_management as model_management
import comfy.supported_models
import folder_paths
import pytest
import tiny
import torch

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.host.export import Export, plan
from detex_pack.detex.host.images import feature_encoder, latent_encoder
from detex_pack.detex.host.runs import ResumeStore
from detex_pack.detex.host.training import train_concept
from detex_pack.detex.methods.custom_diffusion import CustomDiffusionConfig
from detex_pack.detex.methods.detex import DetexConfig
from detex_pack.detex.photos.photos import make_photos
from detex_pack.detex.prompt.words import Attributes
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import Losses, Run, Watcher
from detex_pack.detex.unet.deltas import LowRank

PINS = Path(__file__).with_name("bytes.json")
SD1, SD2, XL = (getattr(comfy.supported_models, name) for name in ("SD15", "SD20", "SDXL"))
CLIPS = {SD1: tiny.tiny_clip, SD2: tiny.tiny_sd2_clip, XL: tiny.tiny_sdxl_clip}
AS_THE_NODES = DetexConfig(subject_attention=True, center_poses=True)
FREE = DetexConfig(attributes=Attributes.VECTORS, attention_norm="l1", attention_map="minmax")
CUSTOM = CustomDiffusionConfig()

# case -> family, v-prediction, method, blank colour, scaled copies, step it is stopped after
CASES = {
    "paper": (SD1, False, DetexConfig(), "white", 4, 0),
    "nodes": (SD1, False, AS_THE_NODES, "random", 0, 0),
    "custom diffusion": (SD1, False, CUSTOM, "white", 4, 0),
    "free vectors": (SD1, False, FREE, "grey", 0, 0),
    "v-prediction": (SD2, True, AS_THE_NODES, "random", 0, 0),
    "xl": (XL, False, AS_THE_NODES, "random", 0, 0),
    "xl custom diffusion": (XL, False, CUSTOM, "white", 4, 0),
    "resumed": (SD1, False, AS_THE_NODES, "random", 0, 2),
    "xl resumed": (XL, False, DetexConfig(), "white", 0, 3),
}


class StopAfter(Watcher):
    def __init__(self, step: int):
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.step == self.step:
            raise model_management.InterruptProcessingException


def trained(case: str, photos, masks, vae, clip_vision, prior_latents):
    """Five steps of three photos and as many prior images -> concept, losses."""
    family, v_prediction, method, blank, copies, stop = CASES[case]
    model, clip = tiny.tiny_model(family, v_prediction), CLIPS[family]()
    subject = make_photos(
        photos,
        masks,
        feature_encoder(clip_vision),
        latent_encoder(vae),
        "ball",
        resolution=32,
        blank=blank,
        scaled_copies=copies,
        seed=3,
    )
    settings = TrainConfig(steps=5, batch_size=3, learning_rate=1e-3, mapper_rate=0.4, seed=11)
    given = (model, clip, subject, prior_latents, method, settings)
    if stop:
        with pytest.raises(model_management.InterruptProcessingException):
            train_concept(*given, [StopAfter(stop)], ResumeStore(0))
    return train_concept(*given, [], ResumeStore(0))


def tensors_of(concept: Concept, losses: Losses) -> dict[str, torch.Tensor]:
    """All that was learned, by name, in the order of the names."""
    found = {f"{w}.{t}": v for w, towers in concept.words.items() for t, v in towers.items()}
    for name, delta in concept.deltas.items():
        pair = delta.factors() if isinstance(delta, LowRank) else (delta,)
        found |= {f"{name}.{i}": tensor for i, tensor in enumerate(pair)}
    for term in ("diffusion", "prior", "attention"):
        if term in losses.terms:
            found[f"loss {term}"] = torch.tensor(losses.terms[term])
    return dict(sorted(found.items()))


def hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def as_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return b"".join(name.encode() + t.contiguous().numpy().tobytes() for name, t in tensors.items())


def described(concept: Concept, losses: Losses) -> dict:
    tensors = tensors_of(concept, losses)
    exported = plan(concept, "toy", [Export.STOCK, Export.DIFFUSERS], 1.0)[1:]
    smaller = plan(concept, "toy", [Export.STOCK], 0.6)[1]
    files = {f"{file.folder}/{file.name}": hashed(file.content) for file in exported}
    if any(isinstance(delta, LowRank) for delta in concept.deltas.values()):
        files["share 0.6"] = hashed(smaller.content)
    return {
        "learned": hashed(as_bytes(tensors)),
        "norms": norms(tensors),
        "files": files,
    }


def norms(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of each word and loss, and of all deltas of K and of V."""
    squares: dict[str, float] = {}
    for name, tensor in tensors.items():
        kind = re.sub(r".*\.(to_[kv])\.(\d)", r"\1 \2", name)
        squares[kind] = squares.get(kind, 0.0) + tensor.double().square().sum().item()
    return {name: round(square**0.5, 9) for name, square in squares.items()}


def machine() -> str:
    """What decides the bytes beside the code."""
    model = (
        [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ][:1]
        if Path("/proc/cpuinfo").exists()
        else []
    )
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{' '.join(model) or platform.processor()}, {kind}, torch {torch.__version__}"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def made(
    photos, masks, vae, clip_vision, prior_latents, model_folders, tmp_path, monkeypatch
) -> Callable[[str], dict]:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    return lambda case: described(*trained(case, photos, masks, vae, clip_vision, prior_latents))


@pytest.mark.pinned_host
@pytest.mark.parametrize("case", CASES)
def test_training_ends_with_the_bytes_of_before(made: Callable[[str], dict], case: str):
    now = made(case)
    if os.environ.get("DETEX_PIN"):
        pins = json.loads(PINS.read_text()) if PINS.exists() else {}
        if pins.get("machine") != machine():
            pins = {"machine": machine(), "cases": {}}
        pins["cases"][case] = now
        PINS.write_text(json.dumps(pins, indent=1, sort_keys=True) + "\n")
    pins = json.loads(PINS.read_text())
    pinned = pins["cases"][case]
    assert now["norms"] == pytest.approx(pinned["norms"], rel=1e-4, abs=1e-7)
    if pins["machine"] == machine():
        assert now["learned"] == pinned["learned"]
        assert now["files"] == pinned["files"]


def test_a_resumed_run_is_pinned_to_other_bytes_than_none_only_where_it_was_stopped():
    """Stopped or not, the same run: the pins say so themselves."""
    pins = json.loads(PINS.read_text())["cases"]
    assert pins["resumed"]["learned"] == pins["nodes"]["learned"]
