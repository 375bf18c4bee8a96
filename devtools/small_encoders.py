"""Folders of CLIP and DINO with random weights, as Hugging Face lays them out, for tests."""

import json
from pathlib import Path
from typing import Any

import torch

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WORDS = ("<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "dog</w>", "blue</w>")


def write_clip(folder: Path) -> Path:
    """A CLIP of 24 features that knows six words."""
    import transformers

    text = {**TOWER, "vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.CLIPConfig(
        text_config={**text, "pad_token_id": 1},
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    return folder


def write_dino(folder: Path) -> Path:
    """A DINO of 32 features."""
    import transformers

    config = transformers.ViTConfig(**TOWER, image_size=224, patch_size=32)
    torch.manual_seed(1)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
