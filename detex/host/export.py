"""A concept as files that stock ComfyUI and other tools read: one LoRA, one embedding a word."""

import json
from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from safetensors.torch import save
from torch import Tensor

from ..compress import low_rank
from ..concept import Concept, concept_bytes, sorted_header
from . import paths

CONCEPT_FILE = (paths.FOLDER, ".safetensors")
LORA_FILE = ("loras", "_lora.safetensors")
ARCHITECTURES = {
    "Stable Diffusion 1.x": ("stable-diffusion-v1", "sd_v1"),
    "Stable Diffusion 2.x": ("stable-diffusion-v2", "sd_v2"),
}


def save_concept(concept: Concept, name: str) -> str:
    """Write the concept file alone; -> its name in models/detex."""
    stem = paths.free_stem(name, [CONCEPT_FILE])
    return _write_concept(concept, stem)


def save_with_stock_files(concept: Concept, name: str, lora_share: float = 1.0) -> list[str]:
    """Write the concept, its LoRA and its embeddings under one free stem; -> the file names.

    lora_share: see `lora_bytes`.
    """
    words = [("embeddings", f"_{word.lower()}.safetensors") for word in concept.word_names]
    stem = paths.free_stem(name, [CONCEPT_FILE, LORA_FILE, *words])
    lora = lora_bytes(concept, stem, lora_share)
    names = [_write_concept(concept, stem)]
    paths.write_new(paths.target_path(LORA_FILE[0], stem + LORA_FILE[1]), lora)
    names.append(stem + LORA_FILE[1])
    for word, (folder, suffix) in zip(concept.word_names, words, strict=True):
        vector = concept.words[word][concept.base.tower]
        content = save({f"clip_{concept.base.tower}": vector.contiguous()})
        paths.write_new(paths.target_path(folder, stem + suffix), content)
        names.append(stem + suffix)
    return names


def _write_concept(concept: Concept, stem: str) -> str:
    file_name = stem + CONCEPT_FILE[1]
    paths.write_new(paths.target_path(CONCEPT_FILE[0], file_name), concept_bytes(concept))
    return file_name


def lora_bytes(concept: Concept, title: str, share: float = 1.0) -> bytes:
    """The deltas as a LoRA, float32: at share 1 full-rank differences, which ComfyUI's LoraLoader
    adds exactly; below, the singular values that make up this share (see `low_rank`).

    Keys are kohya's (`lora_unet_down_blocks_…_to_k.diff`), read by A1111 and Forge too.
    Raises ValueError for a share outside (0, 1].
    """
    names = kohya_names(concept.base.unet)
    tensors: dict[str, Tensor] = {}
    for name, delta in concept.deltas.items():
        if share == 1:
            tensors[f"{names[name]}.diff"] = delta.contiguous()
            continue
        up, down = low_rank(delta, share)
        tensors[f"{names[name]}.lora_up.weight"] = up
        tensors[f"{names[name]}.lora_down.weight"] = down
        tensors[f"{names[name]}.alpha"] = torch.tensor(float(len(down)))  # the loader divides by it
    architecture, base = ARCHITECTURES.get(concept.base.family, ("detex-demo", "detex_demo"))
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.title": title,
        "modelspec.usage_hint": f'With its embedding: "a embedding:{title}_v {concept.class_word}"',
        "ss_output_name": title,
        "ss_base_model_version": base,
        "ss_network_args": json.dumps({"method": concept.method}),
        "ss_steps": str(concept.config.get("steps", "")),
    }
    return sorted_header(save(tensors, metadata))


def kohya_names(unet_layout: Mapping[str, Any]) -> dict[str, str]:
    """ "input_blocks.1.1.….attn2.to_k" -> "lora_unet_down_blocks_0_attentions_0_…_attn2_to_k"."""
    mapping = comfy.utils.unet_to_diffusers({**unet_layout})
    names = {}
    for theirs, ours in mapping.items():
        if theirs.endswith(".weight"):
            stem = theirs.removesuffix(".weight").replace(".", "_")
            names[ours.removesuffix(".weight")] = f"lora_unet_{stem}"
    return names
