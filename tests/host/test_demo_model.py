"""The demo model is a real host model: the stock nodes, clones and reloads work on it."""

import json

import nodes
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from detex_pack.detex.host.copies import loaded_again
from detex_pack.detex.host.demo_model import (
    DEMO_MODEL_PATH,
    FORMAT,
    DemoModel,
    grow_token_table,
    load_demo_model,
)
from detex_pack.detex.toys.render import render
from detex_pack.detex.toys.scene import sample_scenes


@pytest.fixture(scope="module")
def demo() -> DemoModel:
    with torch.inference_mode():
        return load_demo_model()


@torch.inference_mode()
def draw(demo: DemoModel, text: str, seed: int = 3, steps: int = 12) -> torch.Tensor:
    encode = nodes.CLIPTextEncode()
    positive, negative = encode.encode(demo.clip, text)[0], encode.encode(demo.clip, "")[0]
    latent = nodes.EmptyLatentImage().generate(64, 64, 2)[0]
    sampler = nodes.KSampler()
    done = sampler.sample(
        demo.model, seed, steps, 4.0, "ddim", "normal", positive, negative, latent
    )[0]
    return nodes.VAEDecode().decode(demo.vae, done)[0]


def weights(patcher) -> dict[str, torch.Tensor]:
    return patcher.model.state_dict()


def test_the_file_is_small_and_says_what_it_is():
    assert DEMO_MODEL_PATH.stat().st_size <= 24e6
    with safe_open(str(DEMO_MODEL_PATH), framework="pt") as file:
        assert file.metadata()["format"] == FORMAT
        assert {"unet", "text", "vae", "vision"} <= set(json.loads(file.metadata()["configs"]))


def test_the_stock_nodes_draw_with_it_and_repeat_themselves(demo):
    first, second = (draw(demo, "a red ball in grass background") for _ in range(2))
    assert first.shape == (2, 64, 64, 3)
    assert torch.equal(first, second)
    assert first.std() > 0.05
    assert not torch.equal(first, draw(demo, "a blue box in night background"))


def test_the_prompt_decides_the_background(demo):
    grass = draw(demo, "a white ball in grass background").mean((0, 1, 2))
    night = draw(demo, "a white ball in night background").mean((0, 1, 2))
    assert grass[1] > grass[2] + 0.1  # green over blue
    assert night.mean() < grass.mean()


def test_latents_have_unit_size_and_come_back_as_the_picture(demo):
    images, _ = render(sample_scenes(16, torch.Generator().manual_seed(9)))
    with torch.inference_mode():
        latent = nodes.VAEEncode().encode(demo.vae, images)[0]["samples"]
        back = nodes.VAEDecode().decode(demo.vae, {"samples": latent})[0]
    scaled = demo.model.model.process_latent_in(latent)
    assert latent.shape == (16, 4, 16, 16)
    assert torch.all((scaled.std((0, 2, 3)) - 1).abs() < 0.2)
    assert -10 * (back - images).square().mean().log10() > 22  # dB


def test_image_embeddings_tell_pictures_apart(demo):
    images, _ = render(sample_scenes(8, torch.Generator().manual_seed(9)))
    with torch.inference_mode():
        out = demo.clip_vision.encode_image(images)
    embeds = torch.nn.functional.normalize(out["image_embeds"].float(), dim=1)
    assert embeds.shape == (8, 128)
    likeness = embeds @ embeds.T - torch.eye(8)
    assert likeness.max() < 0.98


def test_reloaded_copies_are_equal_and_share_nothing(demo):
    for patcher in (demo.model, demo.clip.patcher):
        copy = loaded_again(patcher)
        assert copy.model is not patcher.model
        assert not copy.is_dynamic()
        old, new = weights(patcher), weights(copy)
        assert old.keys() == new.keys()
        for name in old:
            assert torch.equal(old[name], new[name]), name
            assert old[name].data_ptr() != new[name].data_ptr()


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    load_demo_model()
    assert torch.equal(torch.get_rng_state(), state)


def test_regrown_token_rows_have_the_size_of_the_stored_ones():
    rows = torch.randn(50, 16) * 0.03
    ids = torch.arange(100, 150)
    table = grow_token_table(rows, ids, seed=1)
    assert torch.equal(table[100:150], rows)
    assert table.square().mean().sqrt() == pytest.approx(0.03, rel=0.1)
    assert torch.equal(table, grow_token_table(rows, ids, seed=1))


def test_bad_files_are_refused_with_a_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="The demo model is missing: .*Reinstall the pack"):
        load_demo_model(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(DEMO_MODEL_PATH.read_bytes()[:5000])
    with pytest.raises(ValueError, match="is damaged .*reinstall the pack"):
        load_demo_model(broken)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="is no DETEX demo model"):
        load_demo_model(foreign)
