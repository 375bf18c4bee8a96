"""What a LoRA file tells its readers: Stability's standard, kohya's keys, ComfyUI's own reader."""

import base64
import dataclasses
import hashlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from detex_pack.detex.concept.file import Concept
from detex_pack.detex.concept.lora_metadata import base_of
from detex_pack.detex.host.export import Export, plan, write

LORAS = {
    Export.STOCK: "loras/toy_lora.safetensors",
    Export.DIFFUSERS: "diffusers/toy/pytorch_lora_weights.safetensors",
}


def saved_lora(concept: Concept, models: Path, export: Export = Export.STOCK) -> Path:
    write(plan(concept, "toy", [export]))
    return models / LORAS[export]


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_file_has_what_the_model_standard_demands(model_folders: Path, concept: Concept):
    found = metadata_of(saved_lora(concept, model_folders))
    assert found["modelspec.sai_model_spec"] == "1.0.0"
    assert found["modelspec.architecture"] == "detex-demo/lora"
    assert found["modelspec.implementation"] == "diffusers"
    assert found["modelspec.title"] == "toy"
    assert found["modelspec.resolution"] == "64x64"
    assert found["modelspec.prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("family", "prediction", "expected"),
    [
        ("Stable Diffusion 1.x", "eps", ("stable-diffusion-v1", "sd_v1", 512)),
        ("Stable Diffusion 2.x", "eps", ("stable-diffusion-v2-512", "sd_v2", 512)),
        ("Stable Diffusion 2.x", "v", ("stable-diffusion-v2-768-v", "sd_v2_v", 768)),
        ("Stable Diffusion XL", "eps", ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", 1024)),
    ],
)
def test_base_models_have_the_names_of_the_standard_and_of_kohya(
    concept: Concept, family: str, prediction: str, expected: tuple
):
    base = dataclasses.replace(concept.base, family=family, prediction=prediction)
    assert base_of(base) == expected


def test_a1111_is_told_of_stable_diffusion_2(model_folders: Path, concept: Concept):
    base = dataclasses.replace(concept.base, family="Stable Diffusion 2.x")
    found = metadata_of(saved_lora(dataclasses.replace(concept, base=base), model_folders))
    assert found["ss_v2"] == "True"
    assert found["ss_base_model_version"] == "sd_v2"


def test_trigger_words_are_those_of_the_prompt(model_folders: Path, concept: Concept):
    found = metadata_of(saved_lora(concept, model_folders))
    assert found["modelspec.trigger_phrase"] == "embedding:toy_v ball"
    assert json.loads(found["ss_tag_frequency"]) == {
        "toy": {"embedding:toy_v ball": 3}
        | {f"embedding:toy_p{i} view": 1 for i in (1, 2, 3)}
        | {f"embedding:toy_b{i} background": 1 for i in (1, 2, 3)}
    }
    prompt = "photo of a embedding:toy_v ball with embedding:toy_p1 view in embedding:toy_b1"
    assert prompt in found["modelspec.usage_hint"]


def test_trigger_words_of_the_diffusers_folder_are_its_tokens(
    model_folders: Path, concept: Concept
):
    found = metadata_of(saved_lora(concept, model_folders, Export.DIFFUSERS))
    assert found["modelspec.trigger_phrase"] == "<toy_v> ball"


def test_comfyui_itself_lists_base_model_words_and_picture(model_folders: Path, concept: Concept):
    reader = pytest.importorskip("app.assets.services.metadata_extract")  # not in 0.16.3
    found = reader.extract_file_metadata(str(saved_lora(concept, model_folders)))
    assert found.base_model == "detex_demo"
    assert "embedding:toy_v ball" in found.trained_words
    assert found.has_preview_images


def test_thumbnail_is_the_first_photo(model_folders: Path, concept: Concept):
    found = metadata_of(saved_lora(concept, model_folders))
    kind, _, data = found["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert json.loads(found["ssmd_cover_images"]) == [data]
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    height, width, _ = concept.thumbnails[0].shape
    assert picture.size == (width, height)


def test_concept_without_photos_has_no_thumbnail(model_folders: Path, concept: Concept):
    bare = dataclasses.replace(concept, thumbnails=concept.thumbnails[:0])
    found = metadata_of(saved_lora(bare, model_folders))
    assert not {"modelspec.thumbnail", "ssmd_cover_images"} & found.keys()


def test_hash_is_that_of_the_tensors_in_the_file(model_folders: Path, concept: Concept):
    path = saved_lora(concept, model_folders)
    content = path.read_bytes()
    digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    found = metadata_of(path)
    assert found["modelspec.hash_sha256"] == f"0x{digest}"
    assert found["sshs_model_hash"] == digest


def test_training_is_named(model_folders: Path, concept: Concept):
    found = metadata_of(saved_lora(concept, model_folders))
    assert json.loads(found["ss_network_args"]) == {"method": "DETEX"}
    assert found["ss_steps"] == "3"
    assert found["ss_learning_rate"] == "0.01"
    assert found["ss_num_train_images"] == "3"


def test_header_is_small_enough_for_comfyuis_page(model_folders: Path, concept: Concept):
    content = saved_lora(concept, model_folders).read_bytes()
    assert int.from_bytes(content[:8], "little") < 2**20  # server.py, view_metadata
