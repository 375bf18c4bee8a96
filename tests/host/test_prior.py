"""Class Prior Images: what is made, what is found on disk, what a cancel leaves."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import nodes
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_freelunch import FreeU
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, RescaleCFG
from graphs import Keep, executor_errors, node, run, training_graph
from torch import Tensor

from detex_pack.detex.host import prior
from detex_pack.detex.host.prior import PriorConfig, chunks_of, prior_folder, prior_pictures
from detex_pack.nodes.prior import class_prompt, progress

SIDE = 64


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


Make = Callable[..., tuple[Tensor, Path, int]]


@pytest.fixture
def make(model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, output: Path) -> Make:
    """make(count, batch_size=2, report=..., **settings) -> pictures, folder, how many were made."""

    def run(count: int, *, batch_size: int = 2, report=lambda *_: None, **settings):
        config = PriorConfig(prompt="photo of a ball", resolution=SIDE, **{"steps": 2} | settings)
        return prior_pictures(model, clip, vae, config, count, batch_size, report)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_are_made_once_and_found_again(make: Make):
    first, folder, made = make(3)
    assert (first.shape, made) == ((3, SIDE, SIDE, 3), 3)
    assert sorted(contents(folder)) == ["00001.png", "00002.png", "00003.png"]
    again, same_folder, made = make(3)
    assert (same_folder, made) == (folder, 0)
    assert torch.equal(first, again)


def test_pictures_differ_from_each_other(make: Make):
    pictures = make(3)[0]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


def test_picture_is_that_of_the_stock_sampler_with_its_seed(
    make: Make, model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE
):
    pictures = make(3, batch_size=1, seed=40)[0]
    texts = ("photo of a ball", "")
    positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in texts)
    latent = {"samples": torch.zeros(1, 4, SIDE // 4, SIDE // 4)}
    settings = (42, 2, 6.0, "ddim", "ddim_uniform", positive, negative, latent)
    samples = nodes.common_ksampler(model, *settings)[0]["samples"]
    torch.testing.assert_close(pictures[2], vae.decode(samples)[0], atol=0.003, rtol=0)


@pytest.mark.parametrize("sampler_name", ["ddim", "euler_ancestral"])
def test_lost_pictures_are_made_again_byte_for_byte(make: Make, sampler_name: str):
    _, folder, _ = make(5, sampler_name=sampler_name)
    before = contents(folder)
    (folder / "00002.png").unlink()
    (folder / "00004.png").write_bytes(before["00004.png"][:50])  # half written by someone else
    (folder / "00005.png").write_bytes(b"")
    assert make(5, sampler_name=sampler_name)[2] == 3
    assert contents(folder) == before


@pytest.mark.slow
def test_killed_process_leaves_whole_pictures_and_the_next_one_goes_on(make: Make, output: Path):
    script = Path(__file__).with_name("killed_prior.py")
    process = subprocess.Popen([sys.executable, script, output], stderr=subprocess.DEVNULL)
    while len(list(output.glob("detex_prior/*/*.png"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.kill()  # SIGKILL: no clean-up of any kind
    process.wait()
    (folder,) = (output / "detex_prior").iterdir()
    left = {name: data for name, data in contents(folder).items() if name.endswith(".png")}
    count = len(left) + 3
    pictures, same_folder, made = make(count)
    assert (same_folder, made) == (folder, 3)
    assert {name: contents(folder)[name] for name in left} == left

    shutil.rmtree(folder)
    assert torch.equal(make(count)[0], pictures)  # as if nobody had been killed


def test_what_a_killed_process_had_half_written_is_no_picture(make: Make):
    _, folder, _ = make(2)
    before = contents(folder)
    (folder / "00002.png").rename(folder / ".00002.png.4711.part")
    assert make(2)[2] == 1
    assert contents(folder)["00002.png"] == before["00002.png"]


def test_larger_count_keeps_what_is_there(make: Make):
    small, folder, _ = make(3)
    before = contents(folder)
    large, _, made = make(6)
    assert made == 3
    assert torch.equal(large[:3], small)
    assert {name: contents(folder)[name] for name in before} == before


def test_picture_of_another_size_is_made_again(make: Make):
    _, folder, _ = make(1)
    prior.write_picture(folder / "00001.png", torch.zeros(8, 8, 3))
    assert make(1)[2] == 1


def test_cancel_keeps_the_finished_batches_and_the_next_run_completes_them(make: Make):
    whole, folder, _ = make(5)
    expected = contents(folder)
    for path in folder.iterdir():
        path.unlink()

    def cancel_in_the_second_batch(done: int, _of_all: int, _picture) -> None:
        if done > 2 * 2:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        make(5, report=cancel_in_the_second_batch)
    assert sorted(contents(folder)) == ["00001.png", "00002.png"]
    pictures, _, made = make(5)
    assert made == 3
    assert torch.equal(pictures, whole) and contents(folder) == expected


def test_progress_runs_over_the_whole_count_and_starts_with_what_is_found(make: Make):
    make(2)
    seen = []
    make(5, report=lambda done, of_all, picture: seen.append((done, of_all, picture is not None)))
    # two found pictures are 4 of 10 steps; batches of 2 and 1 pictures, 2 steps each
    assert [step for step in seen if not step[2]] == [
        (6, 10, False),
        (8, 10, False),
        (9, 10, False),
        (10, 10, False),
    ]
    assert [step[:2] for step in seen if step[2]] == [(8, 10), (10, 10)]


def test_node_bar_shows_the_newest_picture(make: Make, monkeypatch: pytest.MonkeyPatch):
    shown = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: shown.append(preview)
    )
    make(2, report=progress(2))
    pictures = [preview for preview in shown if preview]
    assert len(pictures) == 1 and pictures[0][1].size == (SIDE, SIDE)


def test_time_of_the_pictures_to_come_is_told_after_the_second_batch(
    make: Make, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "detex")
    make(4, batch_size=1, report=progress(2))
    assert re.search(r"2 pictures at [\d.]+ s, about \d+ s", caplog.text)


def test_batches_are_cut_alike_whatever_is_missing():
    assert chunks_of([0, 1, 2, 3, 4], 5, 2) == [range(0, 2), range(2, 4), range(4, 5)]
    assert chunks_of([3], 5, 2) == [range(2, 4)]
    assert chunks_of([], 5, 2) == []


def test_folder_changes_with_what_changes_the_pictures(
    model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, output: Path
):
    plain = PriorConfig(prompt="photo of a dog")
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    shape = model.model_state_dict(name)[name].shape

    def with_lora(strength: float, fill: float) -> ModelPatcher:
        patched = model.clone()
        patched.add_patches({name: ("diff", (torch.full(shape, fill),))}, strength)
        return patched

    skipping = clip.clone()
    skipping.clip_layer(-2)

    def with_sampling(kind: str, *, zsnr: bool = False) -> ModelPatcher:
        return ModelSamplingDiscrete().patch(model, kind, zsnr)[0]

    def rescaled(multiplier: float) -> ModelPatcher:
        return RescaleCFG().patch(model, multiplier)[0]

    def freed(backbone: float) -> ModelPatcher:
        return FreeU.execute(model, backbone, 1.2, 0.9, 0.2).result[0]

    folders = [
        prior_folder(model, clip, vae, plain),
        prior_folder(model, clip, vae, PriorConfig(prompt="photo of a cat")),
        prior_folder(model, clip, vae, PriorConfig(prompt="photo of a dog", steps=20)),
        prior_folder(model, clip, vae, PriorConfig(prompt="photo of a dog", seed=1)),
        prior_folder(with_lora(1.0, 0.1), clip, vae, plain),
        prior_folder(with_lora(0.5, 0.1), clip, vae, plain),
        prior_folder(with_lora(1.0, 0.2), clip, vae, plain),
        prior_folder(model, skipping, vae, plain),
        prior_folder(with_sampling("v_prediction"), clip, vae, plain),
        prior_folder(with_sampling("v_prediction", zsnr=True), clip, vae, plain),
        prior_folder(rescaled(0.7), clip, vae, plain),
        prior_folder(rescaled(0.5), clip, vae, plain),
        prior_folder(freed(1.1), clip, vae, plain),
        prior_folder(freed(1.6), clip, vae, plain),
    ]
    assert len(set(folders)) == len(folders)
    assert prior_folder(freed(1.6), clip, vae, plain) == folders[-1]
    assert prior_folder(with_lora(1.0, 0.1), clip, vae, plain) == folders[4]
    assert folders[0].parent == output / "detex_prior"
    assert folders[0].name.startswith("photo_of_a_dog_")


def test_folder_is_the_same_after_the_model_was_used(
    make: Make, model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, output: Path
):
    config = PriorConfig(prompt="photo of a dog")
    before = prior_folder(model, clip, vae, config)
    make(1)
    assert prior_folder(model, clip, vae, config) == before


def test_guidance_with_a_memory_has_its_folder_again_after_sampling(
    model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, output: Path
):
    guided = APG.execute(model, eta=1.0, norm_threshold=5.0, momentum=0.5).result[0]
    config = PriorConfig(prompt="photo of a dog", resolution=SIDE, steps=2)
    before = prior_folder(guided, clip, vae, config)
    prior_pictures(guided, clip, vae, config, 1, 1, lambda *_: None)
    assert prior_folder(guided, clip, vae, config) == before


def test_picture_that_another_process_wrote_first_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "00001.png"
    write_new = prior.paths.write_new

    def somebody_is_faster(target: Path, content: bytes) -> None:
        write_new(target, b"theirs")
        write_new(target, content)

    monkeypatch.setattr(prior.paths, "write_new", somebody_is_faster)
    prior.write_picture(path, torch.zeros(8, 8, 3))
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_vae_of_another_scale_is_refused(make: Make, vae: comfy.sd.VAE, monkeypatch):
    decoded = vae.decode
    monkeypatch.setattr(vae, "decode", lambda latents: decoded(latents)[:, ::2, ::2])
    with pytest.raises(ValueError, match="The VAE made pictures of 32x32 pixels where 64x64 were"):
        make(1)


def test_nan_pictures_are_refused_and_not_kept(make: Make, vae: comfy.sd.VAE, monkeypatch):
    decoded = vae.decode
    monkeypatch.setattr(vae, "decode", lambda latents: decoded(latents) * torch.nan)
    with pytest.raises(ValueError, match="The pictures are NaN. Start ComfyUI with --fp32-vae"):
        make(1)
    monkeypatch.undo()


def test_bypass_lora_is_refused_before_a_picture_is_made(
    model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, output: Path
):
    ran = []
    styled = model.clone()
    styled.set_injections("bypass_lora", [PatcherInjection(ran.append, ran.append)])
    config = PriorConfig(prompt="photo of a dog", resolution=32)
    with pytest.raises(ValueError, match="MODEL carries bypass_lora.*Load LoRA"):
        prior_pictures(styled, clip, vae, config, 2, 1, lambda *_: None)
    assert not list(output.rglob("*.png"))
    assert ran == []


def test_class_word_takes_its_place_in_the_prompt():
    assert class_prompt("photo of a {class}", " rubber  duck ") == "photo of a rubber duck"
    assert class_prompt("photo of a {class}", "apple") == "photo of an apple"
    assert class_prompt("An {class} at sea, {class}", "dog") == "A dog at sea, dog"
    with pytest.raises(ValueError, match='"photo of a dog" lacks {class}, which stands for'):
        class_prompt("photo of a dog", "dog")
    with pytest.raises(ValueError, match="The class word is empty"):
        class_prompt("photo of a {class}", " ")


def graph_with_prior(**settings) -> dict:
    graph = training_graph("TinyModels", **settings)
    graph["prior"] = node(
        "DETEXClassPriorImages",
        model=["models", 0],
        clip=["models", 1],
        vae=["models", 2],
        class_word=["photos", 2],
        count=2,
        resolution=64,
        prompt="photo of a {class}",
        steps=2,
        cfg=6.0,
        sampler_name="ddim",
        scheduler="ddim_uniform",
        batch_size=2,
        seed=0,
    )
    graph["train"]["inputs"]["prior_images"] = ["prior", 0]
    graph["concept"] = node("Keep", value=["train", 0], name="concept")
    return graph


def prior_folders(base: Path) -> list[Path]:
    return list((base / "output" / "detex_prior").glob("*"))


def test_training_waits_for_its_prior_images(executor, model_folders: Path):
    run(executor, graph_with_prior(lambda_pr=1.0))
    assert executor.success, executor_errors(executor)
    assert len(list(prior_folders(model_folders)[0].iterdir())) == 2
    assert "prior" in Keep.kept["concept"].report["losses"]


def test_prior_images_are_not_made_where_their_weight_is_zero(executor, model_folders: Path):
    run(executor, graph_with_prior(lambda_pr=0.0))
    assert executor.success, executor_errors(executor)
    assert prior_folders(model_folders) == []
    assert "prior" not in Keep.kept["concept"].report["losses"]


def test_training_without_prior_images_wired_runs(executor, model_folders: Path):
    graph = graph_with_prior(lambda_pr=1.0)
    del graph["train"]["inputs"]["prior_images"]
    run(executor, graph)
    assert executor.success, executor_errors(executor)
