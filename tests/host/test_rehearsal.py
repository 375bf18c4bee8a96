"""A rehearsal of the card without a card: what a card computes, on tensors that have a shape, a
precision and the device "cuda", but no numbers (torch's FakeTensorMode).

A tensor that was left on the CPU, and a `.item()` or an `if` that makes the card wait for a number,
fail here on any machine. It does not show: numbers, memory and time; the backward pass and the
optimiser; the drawing of a step, which wants real numbers; ComfyUI's loading of models, its VAE and
its samplers, which ask for numbers themselves: of a picture or a prior image one pass is shown;
copies to the CPU that wait without asking for a number; kernels that a real card lacks in a
precision. tests/cuda shows these.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import comfy.sd
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from detex_pack.detex.host.attention import _capturing, _own_attention, _pytorch_attention
from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.families import cross_attentions
from detex_pack.detex.host.passes import Reading, Row
from detex_pack.detex.methods import METHODS
from detex_pack.detex.methods.base import Batch, Method
from detex_pack.detex.photos.photos import Photos
from detex_pack.detex.training.config import TrainConfig
from detex_pack.detex.training.loop import predictor
from detex_pack.detex.unet.attention import AttentionMaps

CARD = torch.device("cuda", 0)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Whatever is made in the test has no numbers; pinned memory is not known to such tensors, and
    autocast wants to see a card.
    """
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextmanager
def on_card(mode: FakeTensorMode, *modules: nn.Module) -> Iterator[None]:
    """Within, all weights of these modules are on the card."""
    stores = [
        store for module in modules for part in module.modules()
        for store in (part._parameters, part._buffers)
    ]  # fmt: skip
    before = [dict(store) for store in stores]
    for store in stores:
        for name, tensor in store.items():
            if tensor is None:
                continue
            there = mode.from_tensor(tensor.detach()).to(CARD)
            is_parameter = isinstance(tensor, nn.Parameter)
            store[name] = nn.Parameter(there, tensor.requires_grad) if is_parameter else there
    try:
        yield
    finally:
        for store, real in zip(stores, before, strict=True):
            store.update(real)


def batch_on_card(batch: Batch) -> Batch:
    """A drawn step as `draw` leaves it on a card: all but the timesteps."""
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    moved = {
        name: tensor.to(CARD)
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and name != "timesteps"
    }
    return dataclasses.replace(batch, **moved)


@pytest.fixture(params=METHODS)
def rehearsed(
    request: pytest.FixtureRequest,
    model: ModelPatcher,
    clip: comfy.sd.CLIP,
    subject: Photos,
    prior_latents: Tensor,
) -> Iterator[tuple]:
    """-> a method of the register, its denoiser, its text encoder and a step that was drawn."""
    kind = METHODS[request.param]
    with training_session(model, clip, (4, 4, 8, 8)) as session:
        settings = kind.Config.recommended(), TrainConfig(batch_size=3)
        method = kind(subject, prior_latents, *settings, *session)
        yield method, *session, method.draw()


def losses_on_card(
    fakes: FakeTensorMode, dtype: torch.dtype, method: Method, denoiser: ComfyDenoiser, text, batch
) -> dict[str, Tensor]:
    denoiser.device, denoiser.dtype = str(CARD), dtype
    there = denoiser.unet, text.clip.cond_stage_model, method.learned
    with on_card(fakes, *there), method.insert(denoiser):
        return method.losses(batch_on_card(batch), predictor(denoiser), method.turn(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_forward_of_a_step_stays_on_the_card(
    rehearsed: tuple, fakes: FakeTensorMode, dtype: torch.dtype
):
    computed_in: set[torch.dtype] = set()
    for layer in rehearsed[1].layers:
        module = rehearsed[1].unet.get_submodule(layer.path)
        module.register_forward_hook(lambda *given: computed_in.add(given[-1].dtype))
    losses = losses_on_card(fakes, dtype, *rehearsed)
    assert computed_in == {dtype}  # autocast is at work
    assert losses
    for term in losses.values():
        assert (term.device, term.dtype, term.shape) == (CARD, torch.float32, ())


FAULTS = {
    "a tensor left on the CPU": (lambda out: out + torch.ones(out.shape), "on the same device"),
    "a hidden .item()": (lambda out: out * out.mean().item(), "_local_scalar_dense"),
    "an if": (lambda out: out if out.isfinite().all() else -out, "_local_scalar_dense"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("rehearsed", ["DETEX"], indirect=True)
def test_a_planted_fault_fails(
    rehearsed: tuple, fakes: FakeTensorMode, fault: str, monkeypatch: pytest.MonkeyPatch
):
    spoil, told = FAULTS[fault]
    predict = ComfyDenoiser.predict
    monkeypatch.setattr(ComfyDenoiser, "predict", lambda *given: spoil(predict(*given)))
    with pytest.raises((RuntimeError, DataDependentOutputException), match=told):
        losses_on_card(fakes, torch.bfloat16, *rehearsed)


def test_capture_in_a_pass_of_the_sampler_stays_on_the_card(
    model: ModelPatcher, fakes: FakeTensorMode
):
    """As for a picture or a prior image: ComfyUI's own pass over two prompts, one in an area."""
    maps, whole = AttentionMaps(("V", "ball")), (8, 12)
    reading = Reading([[4], [5, 6]])
    rows = [
        Row(0, reading, None, whole, None),
        Row(1, reading, (8, 12, 8, 0), (16, 12), None),
    ]
    passes: Any = SimpleNamespace(rows=lambda _: rows)
    layers = cross_attentions(model)
    patches = {
        layer.key: _capturing(_own_attention(model, layer), maps, passes, coarsest=False)
        for layer in layers
    }
    options = {"patches_replace": {"attn2": patches}}
    options |= {"uuids": ["one", "other"], "cond_or_uncond": [0, 0]}
    options |= {"optimized_attention_override": _pytorch_attention}  # which cards use by default
    given = {
        "x": torch.zeros(2, 4, *whole, device=CARD),
        "t": torch.ones(2, device=CARD),
        "c_crossattn": torch.zeros(2, 77, tiny.WIDTH, device=CARD),
    }
    with on_card(fakes, model.model):
        denoised = model.model.apply_model(**given, transformer_options=options)
    assert (denoised.device, denoised.shape) == (CARD, (2, 4, *whole))
    assert maps._sums and {summed.device for summed in maps._sums.values()} == {CARD}
