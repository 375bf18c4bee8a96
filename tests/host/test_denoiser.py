"""The private copy of the UNet: what it answers, where gradients go, what is refused."""

import gc
import weakref
from collections.abc import Callable

import comfy.hooks
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.ldm.modules import attention as host_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import Tensor

from detex_pack.detex.host.copies import (
    check_copyable,
    check_loaded,
    loaded_again,
    private_copy,
    shares_weights,
)
from detex_pack.detex.host.denoiser import ComfyDenoiser, training_session
from detex_pack.detex.host.families import schedule_of
from detex_pack.detex.unet.attention import AttentionTap
from detex_pack.detex.unet.deltas import Deltas, text_layers
from detex_pack.detex.unet.losses import map_loss

KEY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
GRID = (4, 6)  # half of latents of 8 x 12


@pytest.fixture(scope="module")
def denoiser(model: ModelPatcher, clip: comfy.sd.CLIP):
    with training_session(model, clip, (2, 4, 8, 12)) as (made, _):
        yield made


def inputs(batch: int = 2, tokens: int = 77) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """latents, noise [B, 4, 8, 12], timesteps [B], cond [B, T, C]."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, batch, 4, 8, 12, generator=generator)
    cond = torch.randn(batch, tokens, tiny.WIDTH, generator=generator)
    return latents, noise, torch.tensor([700, 40, 3, 999])[:batch], cond


def host_model(prediction: str) -> ModelPatcher:
    return tiny.tiny_model(v_prediction=prediction == "v")


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_noisy_latents_are_those_of_comfyuis_model_sampling(prediction: str):
    model = host_model(prediction)
    sampling = model.model.model_sampling
    latents, noise, timesteps, _ = inputs()
    sigmas = sampling.sigmas[timesteps]
    host = sampling.noise_scaling(sigmas.view(-1, 1, 1, 1), noise, latents)
    host = sampling.calculate_input(sigmas, host)
    ours = schedule_of(model).add_noise(latents, noise, timesteps)
    torch.testing.assert_close(ours, host, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_perfect_answer_is_denoised_by_comfyui_to_the_latents(prediction: str):
    model = host_model(prediction)
    sampling = model.model.model_sampling
    latents, noise, timesteps, _ = inputs()
    sigmas = sampling.sigmas[timesteps]
    target = schedule_of(model).target(latents, noise, timesteps)
    noisy = latents + sigmas.view(-1, 1, 1, 1) * noise  # as the sampler holds it
    denoised = sampling.calculate_denoised(sigmas, target, noisy)
    torch.testing.assert_close(denoised, latents, atol=1e-4, rtol=0)


def test_schedule_has_stable_diffusions_thousand_steps(denoiser: ComfyDenoiser):
    # beta from 0.00085 to 0.012, linear in the root: sigma from 0.0292 to 14.6
    assert len(denoiser.schedule) == 1000
    assert denoiser.schedule.sigmas[0].item() == pytest.approx(0.0292, abs=1e-4)
    assert denoiser.schedule.sigmas[-1].item() == pytest.approx(14.6146, abs=1e-3)


def test_direct_call_is_the_answer_behind_comfyuis_apply_model(
    denoiser: ComfyDenoiser, model: ModelPatcher
):
    latents, noise, timesteps, cond = inputs()
    sigmas = denoiser.schedule.sigmas[timesteps]
    spread = sigmas.view(-1, 1, 1, 1)
    with torch.no_grad():
        noisy = denoiser.schedule.add_noise(latents, noise, timesteps)
        ours = denoiser.predict(noisy, timesteps.float(), tiny.condition(cond))
        noisy = latents + spread * noise
        denoised = model.model.apply_model(noisy, sigmas, c_crossattn=cond)
    torch.testing.assert_close(noisy - spread * ours, denoised, atol=1e-4, rtol=1e-4)


def predict(denoiser: ComfyDenoiser, cond: Tensor, *taps: AttentionTap) -> Tensor:
    latents, _, timesteps, _ = inputs(len(cond))
    return denoiser.predict(latents, timesteps.float(), tiny.condition(cond), taps)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_tapped_forward_equals_the_stock_one(denoiser: ComfyDenoiser, rows: int):
    cond = inputs(3)[3]
    tapped = predict(denoiser, cond, AttentionTap(GRID, rows))
    torch.testing.assert_close(tapped, predict(denoiser, cond), atol=1e-5, rtol=0)


def test_tapped_context_gradient_equals_the_stock_one(denoiser: ComfyDenoiser):
    slopes = []
    for taps in ((), (AttentionTap(GRID, 2),)):
        cond = inputs()[3].requires_grad_()
        predict(denoiser, cond, *taps).square().mean().backward()
        slopes.append(cond.grad)
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-8, rtol=1e-4)


@torch.no_grad()
def test_tapped_maps_sum_to_one_over_the_tokens(denoiser: ComfyDenoiser):
    tap = AttentionTap(GRID, 2)
    predict(denoiser, inputs()[3], tap)
    total = sum(tap.token_map(torch.tensor([t, t])) for t in range(77))
    torch.testing.assert_close(total, torch.ones(2, *GRID))


@torch.no_grad()
def test_tap_takes_every_layer_on_its_grid_and_no_other(denoiser: ComfyDenoiser):
    coarse, fine = AttentionTap((4, 6), 1), AttentionTap((8, 12), 1)
    predict(denoiser, inputs(1)[3], coarse, fine)  # both in one pass
    # level 0: input 1, output 2 and 3; level 1: input 3, middle, output 0 and 1
    assert (fine.layers, coarse.layers) == (3, 4)


@torch.no_grad()
def test_taps_rows_are_the_first_samples_only(denoiser: ComfyDenoiser):
    cond = inputs(2)[3]
    few, all_rows = AttentionTap(GRID, 1), AttentionTap(GRID, 2)
    for tap in (few, all_rows):
        predict(denoiser, cond, tap)
    first = all_rows.token_map(torch.tensor([5, 5]))[:1]
    torch.testing.assert_close(few.token_map(torch.tensor([5])), first, atol=1e-6, rtol=0)


@torch.no_grad()
def test_tap_that_finds_no_layer_says_so(denoiser: ComfyDenoiser):
    tap = AttentionTap((5, 5), 1)
    predict(denoiser, inputs(1)[3], tap)
    with pytest.raises(RuntimeError, match="No cross-attention layer works on a 5x5 grid"):
        tap.token_map(torch.tensor([1]))


@torch.no_grad()
@pytest.mark.parametrize("tapped", [False, True])
def test_attention_runs_on_torchs_kernel_whatever_the_user_chose(
    denoiser: ComfyDenoiser, monkeypatch: pytest.MonkeyPatch, tapped: bool
):
    def no_backward(*_args, **_kwargs):
        raise AssertionError("a kernel without a backward was used")

    chosen = host_attention.wrap_attn(no_backward)  # as sage and flash attention are registered
    monkeypatch.setattr(host_attention, "optimized_attention", chosen)
    monkeypatch.setattr(host_attention, "optimized_attention_masked", chosen)
    taps = (AttentionTap(GRID, 1),) if tapped else ()
    assert predict(denoiser, inputs(2)[3], *taps).isfinite().all()


def kv_deltas(denoiser: ComfyDenoiser) -> Deltas:
    """Full matrices of K and V, zero."""
    return Deltas(text_layers(denoiser.layers), None, torch.Generator())


def attention_slopes(denoiser: ComfyDenoiser) -> dict[str, float]:
    """Largest gradient of the attention loss alone, for each K and V matrix."""
    deltas = kv_deltas(denoiser)
    tap = AttentionTap(GRID, 2)
    target = torch.zeros(2, *GRID)
    target[:, 1:3, 2:4] = 1
    with denoiser.with_deltas(deltas, detach_start_token=True):
        predict(denoiser, inputs()[3], tap)
        maps = tap.token_map(torch.tensor([7, 7]))
        map_loss(maps, target, torch.ones_like(target)).sum().backward()
    grads = {layer.path: p.grad for layer, p in deltas.of_layers()}
    return {name: 0.0 if g is None else g.abs().max().item() for name, g in grads.items()}


def test_attention_loss_reaches_exactly_what_lies_before_the_last_tapped_softmax(
    denoiser: ComfyDenoiser,
):
    reached = {name for name, slope in attention_slopes(denoiser).items() if slope > 0}
    before = ["input_blocks.1.1", "input_blocks.3.1", "middle_block.1", "output_blocks.0.1"]
    kv = {f"{b}.transformer_blocks.0.attn2.{m}" for b in before for m in ("to_k", "to_v")}
    # of the last tapped layer K alone; of output_blocks 2 and 3, which come later, nothing
    assert reached == kv | {"output_blocks.1.1.transformer_blocks.0.attn2.to_k"}


def delta_slopes(denoiser: ComfyDenoiser, *, tokens: int, detach: bool) -> float:
    deltas = kv_deltas(denoiser)
    cond = inputs(tokens=tokens)[3].requires_grad_()
    with denoiser.with_deltas(deltas, detach_start_token=detach):
        predict(denoiser, cond).square().mean().backward()
    grads = [p.grad for p in deltas.parameters() if p.grad is not None]
    return max((g.abs().max().item() for g in grads), default=0.0)


def test_start_token_alone_trains_nothing(denoiser: ComfyDenoiser):
    assert delta_slopes(denoiser, tokens=1, detach=True) == 0


def test_start_token_alone_trains_when_it_is_not_detached(denoiser: ComfyDenoiser):
    assert delta_slopes(denoiser, tokens=1, detach=False) > 0


def test_whole_prompt_trains_with_the_start_token_detached(denoiser: ComfyDenoiser):
    assert delta_slopes(denoiser, tokens=77, detach=True) > 0


@torch.no_grad()
def test_zero_deltas_and_the_detach_change_no_bit(denoiser: ComfyDenoiser):
    cond = inputs()[3]
    plain = predict(denoiser, cond)
    for detach in (False, True):
        with denoiser.with_deltas(kv_deltas(denoiser), detach_start_token=detach):
            assert torch.equal(predict(denoiser, cond), plain)


def test_deltas_leave_with_their_context_even_after_an_error(denoiser: ComfyDenoiser):
    deltas = kv_deltas(denoiser)
    with torch.no_grad():
        for matrix in deltas.parameters():
            matrix.fill_(0.1)
        plain = predict(denoiser, inputs()[3])
        with (
            pytest.raises(ZeroDivisionError),
            denoiser.with_deltas(deltas, detach_start_token=True),
        ):
            assert not torch.allclose(predict(denoiser, inputs()[3]), plain, atol=1e-3)
            raise ZeroDivisionError
        assert torch.equal(predict(denoiser, inputs()[3]), plain)


def test_copy_on_a_cpu_has_modules_of_its_own_on_the_users_weights(model: ModelPatcher):
    copy = private_copy(model)
    assert set(model.model.modules()).isdisjoint(copy.model.modules())
    theirs = [(p.data_ptr(), p.dtype, p.requires_grad) for p in model.model.parameters()]
    assert [p.data_ptr() for p in copy.model.parameters()] == [place for place, *_ in theirs]
    for p in copy.model.parameters():
        p.requires_grad_(not p.requires_grad)
    copy.model.half()
    now = [(p.data_ptr(), p.dtype, p.requires_grad) for p in model.model.parameters()]
    assert now == theirs


def test_copy_on_a_cpu_can_be_trained_through_though_made_of_inference_tensors():
    with torch.inference_mode():
        model = tiny.tiny_model()
    with torch.inference_mode(mode=False), torch.enable_grad():
        unet = private_copy(model).model.diffusion_model
        noisy, _, times, cond = inputs()
        noisy.requires_grad_()
        unet(noisy, times.float(), context=cond).square().sum().backward()
    assert noisy.grad is not None and noisy.grad.abs().sum() > 0


def with_lora(model: ModelPatcher) -> ModelPatcher:
    """A clone that adds 1 to one weight."""
    patched = model.clone()
    patched.add_patches({KEY: ("diff", (torch.ones(32, tiny.WIDTH),))})
    return patched


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_users_models_keep_every_bit_with_loras_that_a_clone_has_put_on_them(stored: torch.dtype):
    """All of it in inference mode, as ComfyUI runs graphs."""
    with torch.inference_mode():
        model, clip = tiny.tiny_model(), tiny.tiny_clip(stored=stored)
        kept = {key: value.clone() for key, value in model.model.state_dict().items()}
        told = {key: value.clone() for key, value in clip.patcher.model.state_dict().items()}
        patched, spoken = with_lora(model), clip.clone()
        text = next(key for key in told if key.endswith("mlp.fc1.weight"))
        spoken.patcher.add_patches({text: ("diff", (torch.ones_like(told[text]),))})
        comfy.model_management.load_models_gpu([patched, spoken.patcher], force_full_load=True)
        assert not torch.equal(model.model.state_dict()[KEY], kept[KEY])
        with training_session(model, clip, (2, 4, 8, 8)) as (plain, _):
            assert torch.equal(plain.patcher.model.state_dict()[KEY], kept[KEY])
        with training_session(patched, spoken, (2, 4, 8, 8)) as (learned, _):
            assert torch.equal(learned.patcher.model.state_dict()[KEY], kept[KEY] + 1)
        for patcher, before in ((model, kept), (clip.patcher, told)):
            now = patcher.model.state_dict()
            assert all(torch.equal(now[key], value) for key, value in before.items())
        assert (list(patched.patches), list(spoken.patcher.patches)) == ([KEY], [text])


@pytest.mark.parametrize("why", ["hooks", "dynamic", "card"])
def test_copy_has_weights_of_its_own_where_the_users_may_be_written_to(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, why: str
):
    other = model.clone()
    assert shares_weights(other)
    if why == "hooks":
        other.forced_hooks = comfy.hooks.HookGroup()
    elif why == "dynamic":
        monkeypatch.setattr(other, "is_dynamic", lambda: True)
    else:  # only this model is on the CPU
        device = torch.device("cuda")
        monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: device)
    assert not shares_weights(other)


@pytest.mark.parametrize("make", [private_copy, loaded_again])
def test_copy_has_no_hooked_weights_of_the_users_model(
    make: Callable[[ModelPatcher], ModelPatcher],
):
    model = tiny.tiny_model()
    model.hook_backup[KEY] = (torch.zeros(1), torch.device("cpu"))
    make(model).unpatch_hooks()
    assert list(model.hook_backup) == [KEY]


def test_loras_of_a_copy_on_a_cpu_are_not_written_into_the_users_weights():
    model = tiny.tiny_model()
    before = model.model.state_dict()[KEY].clone()
    patched = with_lora(model)
    patched.weight_inplace_update = True
    copy = private_copy(patched)
    comfy.model_management.load_models_gpu([copy], force_full_load=True)
    assert torch.equal(copy.model.state_dict()[KEY], before + 1)
    assert torch.equal(model.model.state_dict()[KEY], before)


def test_copy_that_is_loaded_again_shares_no_weight_with_the_users_model(model: ModelPatcher):
    copy = loaded_again(model)
    theirs = {p.data_ptr() for p in model.model.parameters()}
    assert theirs.isdisjoint(p.data_ptr() for p in copy.model.parameters())


def test_session_lets_its_copies_go(
    model: ModelPatcher, clip: comfy.sd.CLIP, caplog: pytest.LogCaptureFixture
):
    with training_session(model, clip, (2, 4, 8, 12)) as (denoiser, text):
        copies = weakref.ref(denoiser.unet), weakref.ref(text.clip.cond_stage_model)
    del denoiser, text
    gc.collect()
    comfy.model_management.cleanup_models_gc()
    assert [copy() for copy in copies] == [None, None]
    assert [r.message for r in caplog.records if "leak" in r.message] == []


def test_copy_of_a_dynamic_model_is_not_dynamic(clip: comfy.sd.CLIP):
    class Dynamic(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self) -> bool:
            return True

    model = tiny.tiny_model()
    dynamic = Dynamic(model.model, model.load_device, model.offload_device)
    dynamic.cached_patcher_init = model.cached_patcher_init
    assert not private_copy(dynamic).is_dynamic()


def test_copy_keeps_the_users_loras(model: ModelPatcher):
    assert list(private_copy(with_lora(model)).patches) == [KEY]


def test_checkpoint_loader_that_gives_several_models_is_loaded_again_too():
    model = tiny.tiny_model()
    both = (tiny.tiny_clip().patcher, tiny.tiny_model())
    model.cached_patcher_init = (lambda disable_dynamic=False: both, (), 1)
    assert loaded_again(model).model is both[1].model


@pytest.mark.parametrize("socket", ["MODEL", "CLIP"])
def test_model_that_a_card_needs_twice_and_that_cannot_be_loaded_again_is_refused(
    model: ModelPatcher, clip: comfy.sd.CLIP, socket: str
):
    patcher = (model if socket == "MODEL" else clip.patcher).clone()
    patcher.cached_patcher_init = None
    check_copyable(patcher, socket)  # on a CPU the copy reads the user's own weights
    patcher.load_device = torch.device("cuda")
    with pytest.raises(ValueError, match=f"loaded this {socket} does not let .* Load Checkpoint"):
        check_copyable(patcher, socket)


def test_model_that_stays_partly_in_ram_is_refused():
    model = tiny.tiny_model()
    check_loaded([model])
    model.model.model_lowvram = True  # as ComfyUI sets it under --novram
    with pytest.raises(ValueError, match="Start ComfyUI without --novram"):
        check_loaded([model])


@pytest.mark.parametrize("socket", ["MODEL", "CLIP"])
def test_injections_into_the_users_modules_are_refused_before_they_run(
    model: ModelPatcher, clip: comfy.sd.CLIP, socket: str
):
    ran = []
    one, other = model.clone(), clip.clone()
    injected = one if socket == "MODEL" else other.patcher
    injected.set_injections("bypass_lora", [PatcherInjection(ran.append, ran.append)])
    with (
        pytest.raises(ValueError, match=f"The {socket} carries bypass_lora.*Load LoRA"),
        training_session(one, other, (2, 4, 8, 12)),
    ):
        pass
    assert not ran


def test_compiled_unet_is_refused_as_the_copy_would_be_the_users_own(
    model: ModelPatcher, clip: comfy.sd.CLIP
):
    compiled = model.clone()
    compiled.add_object_patch("diffusion_model", torch.compile(model.model.diffusion_model))
    with (
        pytest.raises(ValueError, match="carries diffusion_model.*from before the node that adds"),
        training_session(compiled, clip, (2, 4, 8, 12)),
    ):
        pass


def test_quantised_model_is_refused():
    model = tiny.tiny_model()
    layer = model.model.diffusion_model.out[2]
    layer.weight = torch.nn.Parameter(
        layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False
    )
    with pytest.raises(ValueError, match=r"MODEL is quantised.*fp16, bf16 or fp32"):
        check_copyable(model, "MODEL")


def test_quantised_clip_is_refused_before_anything_is_loaded(model: ModelPatcher):
    clip, loads = tiny.tiny_clip(), []
    layer = clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0].mlp.fc1
    layer.weight = torch.nn.Parameter(
        layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False
    )
    watched = model.clone()
    watched.cached_patcher_init = (lambda **_: loads.append("MODEL"), ())
    with (
        pytest.raises(ValueError, match="CLIP is quantised"),
        training_session(watched, clip, (2, 4, 8, 8)),
    ):
        pass
    assert loads == []


def test_failure_while_loading_lets_the_copies_go(
    model: ModelPatcher, clip: comfy.sd.CLIP, monkeypatch: pytest.MonkeyPatch
):
    def full(*_args, **_kwargs):
        raise torch.cuda.OutOfMemoryError("no room")

    comfy.model_management.unload_all_models()  # as a session does where it shares weights
    before = list(comfy.model_management.current_loaded_models)
    flag = comfy.model_management.in_training
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", full)
    with (
        pytest.raises(torch.cuda.OutOfMemoryError, match="weights of MODEL and CLIP alone"),
        training_session(model, clip, (2, 4, 8, 8)),
    ):
        pass
    assert comfy.model_management.current_loaded_models == before
    assert comfy.model_management.in_training is flag
