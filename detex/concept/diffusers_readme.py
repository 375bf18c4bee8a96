"""The page that lies in an exported diffusers folder and says how to load it."""

from .file import Concept
from .lora_metadata import Spelling, example_prompt, phrases

PAGE = """# {title}

{what}, learned on {family} with {method} by ComfyUI-DETEX.

```python
from pathlib import Path

from diffusers import {pipeline}
{imports}
folder = Path("{title}")  # this folder
pipe = {pipeline}.from_pretrained(...)  # the model that it was trained on
{deltas_loaded}{words_loaded}
picture = pipe("{prompt}").images[0]
```
{needs}
| words | photos |
|---|---|
{words}
"""


DELTAS = "pipe.load_lora_weights(str(folder))\n"
NEEDS = "\n`load_lora_weights` needs the package peft.\n"
ONE_TOWER = """\
pipe.load_textual_inversion([str(path) for path in sorted(folder.glob("words/*.safetensors"))])"""
TWO_TOWERS = """\
for path in sorted(folder.glob("words/*.safetensors")):
    word, token = load_file(path), f"<{title}_{{path.stem}}>"
    first, second = (pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2)
    for tensor, (encoder, tokenizer) in ((word["clip_l"], first), (word["clip_g"], second)):
        pipe.load_textual_inversion(tensor, token, text_encoder=encoder, tokenizer=tokenizer)"""


def readme(concept: Concept, title: str, spell: Spelling) -> str:
    """The page, in Markdown; `spell` gives the tokens, "<my_dog_v>"."""
    rows = [f"| `{phrase}` | {count} |" for phrase, count in phrases(concept, spell).items()]
    if "+" in concept.base.tower:
        pipeline, imports = "StableDiffusionXLPipeline", "from safetensors.torch import load_file\n"
        words_loaded = TWO_TOWERS.format(title=title)
    else:
        pipeline, imports, words_loaded = "StableDiffusionPipeline", "", ONE_TOWER
    return PAGE.format(
        title=title,
        pipeline=pipeline,
        imports=imports,
        words_loaded=words_loaded,
        deltas_loaded=DELTAS if concept.deltas else "",
        needs=NEEDS if concept.deltas else "",
        what=concept.class_word,
        family=concept.base.family,
        method=concept.method,
        prompt=example_prompt(concept, spell),
        words="\n".join(rows),
    )
