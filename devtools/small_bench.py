"""DreamBench in small: two toys, two prompts each; its command, and that killed.

Folders of CLIP and DINO with random weights, as Hugging Face lays them out.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.toys.subjects import demo_subject

from .batch_jobs import HANGS, wait_for
from .host_process import own_group
from .pack_host import ROOT

LIST = """subject_name,class
ball_one,{0}
ball_two,{1}
lost,vase

Object Prompts
'a {{0}} {{1}} in water background'.format(unique_token, class_token),
'a small {{0}} {{1}}'.format(unique_token, class_token),

Live Subject Prompts
'a {{0}} {{1}} wearing a hat'.format(unique_token, class_token),
"""
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WORDS = ("<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "dog</w>", "blue</w>")


def write_bench(folder: Path) -> None:
    """Photos, masks and encoders."""
    toys = {name: demo_subject(number, 3, seed=0) for number, name in
            enumerate(("ball_one", "ball_two"))}  # fmt: skip
    for name, toy in toys.items():
        for kind, planes in (("photos", toy.images), ("masks", toy.masks)):
            (folder / kind / name).mkdir(parents=True)
            for i, plane in enumerate(planes):
                shown = plane if plane.ndim == 3 else plane[..., None].repeat(1, 1, 3)
                as_picture(shown).save(folder / kind / name / f"{i:02d}.png")
    text = LIST.format(*(toy.class_word for toy in toys.values()))
    (folder / "photos" / "prompts_and_classes.txt").write_text(text)
    write_clip(folder / "clip")
    write_dino(folder / "dino")


def bench_words(home: Path, out: Path, server: str, checkpoint: str, less: str) -> list[str]:
    """The command's words for what `write_bench` wrote; less: amounts."""
    line = ["--photos", str(home / "photos"), "--masks", str(home / "masks"), "--server", server]
    line += ["--encoders", str(home / "clip"), str(home / "dino"), "--out", str(out)]
    return ["dreambench", *line, "--methods", "detex,textual_inversion", "--checkpoint", checkpoint,
            *less.split()]  # fmt: skip


def records(folder: Path) -> int:
    """How many rows of a table are home."""
    return len(list((folder / ".jobs").glob("??/*/record.json")))


def kill_when(words: Sequence[str], done: Callable[[], bool]) -> None:
    """Start the command and kill it as soon as this is done."""
    command = [sys.executable, "-m", "detex.evaluate", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **pipes, **own_group())
    wait_for(lambda: done() or process.poll() is not None)
    assert process.poll() is None, process.communicate(timeout=HANGS)[0]
    process.kill()
    process.wait()


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
