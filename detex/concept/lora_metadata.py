"""What a LoRA file says about itself, in the keys that LoRA managers show.

`modelspec.*` is the Stability AI Model Metadata Standard, version 1.0.0
(github.com/Stability-AI/ModelSpec). `ss_*` are the keys of kohya's scripts: A1111, LoRA managers
and ComfyUI's own list of models read the base model and the trained words there. For a picture they
look into `modelspec.thumbnail` or `ssmd_cover_images`.
"""

import base64
import io
import json
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from .file import BaseModel, Concept

SPECIFICATION = "1.0.0"

Spelling = Callable[[str], str]  # "P1" -> how a prompt calls this word, "embedding:toy_p1"


class Base(NamedTuple):
    """How others name the base model."""

    architecture: str  # modelspec's
    version: str  # kohya's
    side: int  # pixels of the pictures it makes


def base_of(model: BaseModel) -> Base:
    if model.family == "Stable Diffusion 1.x":
        return Base("stable-diffusion-v1", "sd_v1", 512)
    if model.family == "Stable Diffusion 2.x":
        wide = Base("stable-diffusion-v2-768-v", "sd_v2_v", 768)
        return wide if model.prediction == "v" else Base("stable-diffusion-v2-512", "sd_v2", 512)
    if model.family == "Stable Diffusion XL":
        return Base("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", 1024)
    return Base("detex-demo", "detex_demo", 64)


def phrases(concept: Concept, spell: Spelling) -> dict[str, int]:
    """Each word as the captions had it, "embedding:toy_v dog" -> in how many photos it is."""
    found = {}
    for named in concept.named:
        photos = len(named.photos) or len(concept.photo_hashes)
        found[f"{spell(named.word)} {named.class_word}"] = photos
    for photo in range(1, concept.photo_count + 1):
        found[f"{spell(f'P{photo}')} {concept.attribute_of(photo)}"] = 1
        found[f"{spell(f'B{photo}')} background"] = 1
    return found


def example_prompt(concept: Concept, spell: Spelling) -> str:
    """The training prompt of photo 1: "photo of a embedding:toy_v dog with embedding:toy_p1 …"."""
    first = concept.named[0]
    prompt = f"photo of a {spell(first.word)} {first.class_word}"
    if concept.photo_count:
        prompt += f" with {spell('P1')} {concept.attribute_of(1)} in {spell('B1')} background"
    return prompt


def lora_metadata(concept: Concept, title: str, spell: Spelling) -> dict[str, str]:
    """The metadata of a LoRA of this concept. The same concept gives the same text."""
    return (
        _modelspec(concept, title, spell)
        | _kohya(concept, title, spell)
        | _pictures(concept.thumbnails)
    )


def _modelspec(concept: Concept, title: str, spell: Spelling) -> dict[str, str]:
    base = base_of(concept.base)
    subjects = [f"{spell(named.word)} {named.class_word}" for named in concept.named]
    facts = {
        "sai_model_spec": SPECIFICATION,
        "architecture": f"{base.architecture}/lora",
        "implementation": "diffusers",  # whose layer names kohya's keys spell
        "title": title,
        "description": f"{concept.class_word}, learned with {concept.method} from "
        f"{len(concept.photo_hashes)} photos. Load the embeddings of its words too.",
        "usage_hint": f'With its embeddings: "{example_prompt(concept, spell)}"',
        "trigger_phrase": ", ".join(subjects),
        "resolution": f"{base.side}x{base.side}",
        "prediction_type": "v" if concept.base.prediction == "v" else "epsilon",
    }
    return {f"modelspec.{key}": value for key, value in facts.items()}


def _kohya(concept: Concept, title: str, spell: Spelling) -> dict[str, str]:
    base = base_of(concept.base)
    settings = {"ss_steps": "steps", "ss_learning_rate": "learning_rate", "ss_seed": "seed"}
    known = {key: name for key, name in settings.items() if name in concept.config}
    photos = len(concept.photo_hashes)
    return {
        "ss_output_name": title,
        "ss_base_model_version": base.version,
        "ss_v2": str(base.version.startswith("sd_v2")),  # A1111 tells the families apart by it
        "ss_network_args": json.dumps({"method": concept.method}),
        "ss_num_train_images": str(photos),
        "ss_dataset_dirs": json.dumps({title: {"n_repeats": 1, "img_count": photos}}),
        "ss_tag_frequency": json.dumps({title: phrases(concept, spell)}),
    } | {key: str(concept.config[name]) for key, name in known.items()}


def _pictures(thumbnails: Tensor) -> dict[str, str]:
    """The first photo of thumbnails [N, h, w, 3] uint8 as a JPEG, where there is one."""
    if not len(thumbnails):
        return {}
    stream = io.BytesIO()
    Image.fromarray(thumbnails[0].cpu().numpy()).save(stream, "JPEG", quality=85)
    picture = base64.b64encode(stream.getvalue()).decode()
    return {
        "modelspec.thumbnail": f"data:image/jpeg;base64,{picture}",
        "ssmd_cover_images": json.dumps([picture]),
    }
