"""Encoders for scores from the host's own classes."""

from pathlib import Path

import comfy.clip_vision
import comfy.sd
import pytest
import tiny
import torch
from safetensors.torch import save_file

from detex_pack.detex.evaluate.encoder import Reader
from detex_pack.detex.host.demo_model import load_demo_model
from detex_pack.detex.host.encoders import judge_of, looks_of, text_reader, vision_encoder
from detex_pack.detex.photos.photos import Looks, Subject

DINO = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
    "patch_size": 8,
    "image_size": 32,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
PICTURES = [
    torch.rand(*size, 3, generator=torch.Generator().manual_seed(number))
    for number, size in enumerate([(32, 32), (32, 32), (48, 32), (32, 32)])
]


def tiny_dino() -> comfy.clip_vision.ClipVisionModel:
    vision = comfy.clip_vision.ClipVisionModel(DINO)
    tiny.seeded(vision.model, 5)
    return vision


def test_pictures_of_any_size_keep_their_order(clip_vision):
    encoder = vision_encoder(clip_vision)
    features = encoder.see(PICTURES)
    assert features.shape == (4, 24)
    for feature, picture in zip(features, PICTURES, strict=True):
        wanted = clip_vision.encode_image(picture[None])["image_embeds"][0]
        torch.testing.assert_close(feature, wanted.float(), atol=1e-5, rtol=1e-4)


def test_clip_vision_is_named_by_size_and_hash(clip_vision):
    encoder = vision_encoder(clip_vision)
    assert encoder.kind == "CLIP"
    assert encoder.label.startswith("CLIP 32/8 32 px ")
    assert encoder.label == vision_encoder(tiny.tiny_clip_vision()).label


def test_published_sizes_have_their_published_names():
    config = {"hidden_size": 1024, "patch_size": 14, "image_size": 224}
    kind = "clip_vision_model"
    model = type("Vision", (), {"config": config, "image_size": 224, "model_type": kind})()
    model.model = torch.nn.Linear(1, 1)
    assert vision_encoder(model).label.startswith("CLIP ViT-L/14 ")


def test_a_dino_that_is_wired_as_clip_vision_gives_its_class_token():
    dino = tiny_dino()
    encoder = vision_encoder(dino)
    assert encoder.kind == "DINO" and encoder.label.startswith("DINOv2 32/8 32 px ")
    assert encoder.see(PICTURES[:2]).shape == (2, 32)


def test_an_encoder_of_another_kind_is_refused(clip_vision, monkeypatch):
    monkeypatch.setattr(clip_vision, "model_type", "siglip_vision_model")
    with pytest.raises(ValueError, match="of the kind siglip_vision_model.* Wire CLIP ViT-L/14"):
        vision_encoder(clip_vision)


def test_text_side_is_the_towers_projected_end_token(clip):
    reader = text_reader(clip, tiny.WIDTH)
    assert isinstance(reader, Reader)
    _, pooled = clip.encode_from_tokens(clip.tokenize("a red dog"), return_pooled=True)
    torch.testing.assert_close(reader.read(["a red dog"]), pooled.float().cpu())


def test_emphasis_of_a_caption_is_plain_text_and_clip_skip_does_not_count(clip):
    reader = text_reader(clip, tiny.WIDTH)
    skipping = clip.clone()
    skipping.clip_layer(-2)
    there = text_reader(skipping, tiny.WIDTH)
    torch.testing.assert_close(reader.read(["a (red) dog"]), there.read(["a (red) dog"]))
    assert not torch.allclose(reader.read(["a (red) dog"]), reader.read(["a red dog"]))


def test_of_sdxl_the_tower_of_the_encoders_width_is_taken():
    clip = tiny.tiny_sdxl_clip()
    reader = text_reader(clip, tiny.WIDTHS["g"])
    assert isinstance(reader, Reader)
    _, pooled = clip.encode_from_tokens(clip.tokenize("a red dog"), return_pooled=True)
    torch.testing.assert_close(reader.read(["a red dog"]), pooled.float().cpu())


def test_text_side_of_another_width_is_refused_with_both_widths(clip):
    with pytest.raises(ValueError, match=r"features of 24 numbers, the CLIP of 32 \(tower l\)"):
        text_reader(clip, 24)


@pytest.mark.parametrize(
    "weight", [torch.zeros(32, 32), torch.eye(32), torch.full((32, 32), torch.inf)]
)
def test_what_cannot_be_a_projection_is_told(weight: torch.Tensor):
    clip = tiny.tiny_clip()
    with torch.no_grad():
        clip.cond_stage_model.clip_l.transformer.text_projection.weight.copy_(weight)
    assert "CLIP-T is missing: the CLIP wired here has no text projection" in text_reader(clip, 32)


@pytest.mark.parametrize(
    ("key", "there"),
    [
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", False),
        ("conditioner.embedders.1.model.text_projection", False),  # that of the other tower
        ("text_projection.weight", True),
    ],
)
def test_the_file_is_asked_whether_it_had_a_projection(tmp_path: Path, key: str, there: bool):
    """Without one ComfyUI leaves what lies in memory, which may look like any weights."""
    clip, file = tiny.tiny_clip(), tmp_path / "model.safetensors"
    save_file({key: torch.zeros(1)}, file)
    clip.patcher.cached_patcher_init = (None, ([str(file)], None))
    assert isinstance(text_reader(clip, 32), Reader) is there
    clip.patcher.cached_patcher_init = (None, (str(file), None))
    assert isinstance(text_reader(clip, 32), Reader) is there


def test_samples_are_compared_with_the_subjects_of_the_photos_on_white(clip_vision):
    photos, masks = PICTURES[:2], [torch.zeros(32, 32) for _ in range(2)]
    for mask in masks:
        mask[8:24, 8:24] = 1
    looks = looks_of(clip_vision, photos, masks)
    alone = [p * m[..., None] + 1 - m[..., None] for p, m in zip(photos, masks, strict=True)]
    assert torch.equal(looks.photos, vision_encoder(clip_vision).see(alone))
    assert torch.equal(looks_of(clip_vision, photos, None).photos, looks.see(torch.stack(photos)))


def test_encoder_is_not_loaded_beside_a_training_where_memory_is_short(clip_vision, monkeypatch):
    looks = looks_of(clip_vision, PICTURES[:1], None)
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda device: 2**20)
    assert looks.see(torch.stack(PICTURES[:1])) is None


@pytest.mark.parametrize(("width", "there"), [(32, True), (24, False)])
def test_checkpoints_clip_judges_the_prompt_where_it_is_the_encoders_pair(
    clip, subject, width: int, there: bool
):
    looks = Looks(torch.ones(1, width), lambda pictures: None)
    judge = judge_of(Subject(subject, torch.zeros_like, torch.zeros_like, looks), clip)
    assert judge is not None and (judge.caption is not None) is there
    if there:
        reader = text_reader(clip, width)
        asked = reader.read(["photo of a ball in water background"])
        torch.testing.assert_close(judge.caption, asked)


def test_demo_model_says_that_it_has_no_text_side():
    demo = load_demo_model()
    assert vision_encoder(demo.clip_vision).see([torch.rand(64, 64, 3)]).shape == (1, 128)
    assert "CLIP-T is missing" in text_reader(demo.clip, 128)
