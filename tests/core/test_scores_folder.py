"""Encoders from folders of weights: small ones of the real classes, written to disk."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from detex_pack.detex.evaluate import folder_encoder as module
from detex_pack.detex.evaluate.folder_encoder import (
    CLIP,
    DINO,
    Preparation,
    folder_encoder,
    prepared,
)
from detex_pack.detex.evaluate.scores import caption_similarity, photo_similarity
from devtools.small_bench import write_clip, write_dino

EYES = [torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dino(tmp_path_factory.mktemp("dino") / "tiny-dino")


def test_a_clip_sees_and_reads_at_one_width(clip_folder: Path):
    encoder = folder_encoder(f' "{clip_folder}" ')
    assert encoder.kind == "CLIP"
    assert encoder.label.startswith("CLIP ViT 32/8, tiny-clip ")
    seen, read = encoder.see(EYES), encoder.reader.read(["a red dog", "a dog", "a blue dog"])
    assert seen.shape == read.shape == (3, 24)
    assert caption_similarity(seen, read).shape == (3,)


def test_features_are_those_of_transformers_own_clip(clip_folder: Path):
    """A square of the encoder's size needs no preparation but the normalisation."""
    square = (torch.rand(32, 32, 3) * 255).round() / 255
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    mean, std = torch.tensor(CLIP.mean)[:, None, None], torch.tensor(CLIP.std)[:, None, None]
    pixels = (square.movedim(-1, 0)[None] - mean) / std
    with torch.no_grad():
        wanted = model.visual_projection(model.vision_model(pixels).pooler_output)
    torch.testing.assert_close(folder_encoder(clip_folder).see([square]), wanted)


def test_captions_of_different_length_do_not_disturb_each_other(clip_folder: Path):
    read = folder_encoder(clip_folder).reader.read
    alone, beside = read(["a dog"]), read(["a dog", "a red blue red blue dog"])
    torch.testing.assert_close(alone[0], beside[0])


def test_dino_gives_its_class_token(dino_folder: Path):
    encoder = folder_encoder(dino_folder)
    assert encoder.kind == "DINO" and encoder.reader is None
    model = transformers.ViTModel.from_pretrained(dino_folder, add_pooling_layer=False)
    with torch.no_grad():
        wanted = model(prepared(EYES[0], DINO)[None]).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder.see(EYES[:1]), wanted)
    assert photo_similarity(encoder.see(EYES), encoder.see(EYES[:1]))[0].item() == pytest.approx(1)


def test_other_weights_have_another_label(dino_folder: Path, tmp_path: Path):
    other = Path(shutil.copytree(dino_folder, tmp_path / dino_folder.name))
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("cls_token"))
    save_file(weights | {name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"})
    assert folder_encoder(other).label != folder_encoder(dino_folder).label


def test_preparation_cuts_the_middle_square_and_normalises():
    """Of 2 x 4 pixels columns 1 and 2, which are white and black: (1 - .5) / .25 and -.5 / .25."""
    picture = torch.zeros(2, 4, 3)
    picture[:, 1] = 1
    found = prepared(picture, Preparation(2, 2, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    assert found.tolist() == [[[2, -2], [2, -2]]] * 3


def test_preparation_scales_by_the_shorter_side():
    """300 x 400 to 256 x 341, then the middle 224; a flat picture stays flat."""
    found = prepared(torch.full((300, 400, 3), 0.6), DINO)
    assert found.shape == (3, 224, 224)
    assert found[0].unique().tolist() == pytest.approx([(0.6 - DINO.mean[0]) / DINO.std[0]])


def test_nothing_is_downloaded_for_a_name_that_is_no_folder():
    with pytest.raises(ValueError, match="There is no config.json in openai/clip-vit-base-patch32"):
        folder_encoder("openai/clip-vit-base-patch32")


def test_a_folder_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is of the kind bert; what can be read here is clip"):
        folder_encoder(tmp_path)


def test_a_damaged_config_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match="config.json is damaged"):
        folder_encoder(tmp_path)


def test_a_config_without_weights_is_refused(dino_folder: Path, tmp_path: Path):
    shutil.copy(dino_folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match="cannot be loaded .* load them anew"):
        folder_encoder(tmp_path)


@pytest.mark.parametrize(
    "change", [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"patch_size": 16}]
)
def test_weights_that_are_not_what_the_config_says_are_refused(
    dino_folder: Path, tmp_path: Path, change: dict
):
    other = Path(shutil.copytree(dino_folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match="not what its config.json says: .* such as"):
        folder_encoder(other)


def test_a_clip_without_a_tokenizer_is_refused(clip_folder: Path, tmp_path: Path):
    other = Path(shutil.copytree(clip_folder, tmp_path / "other"))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (other / name).unlink()
    with pytest.raises(ValueError, match="has no tokenizer for its CLIP"):
        folder_encoder(other)


def test_without_transformers_the_message_has_the_line_to_install_it(
    dino_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(ImportError, match="-m pip install transformers"):
        folder_encoder(dino_folder)
