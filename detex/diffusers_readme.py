"""The page that lies in an exported diffusers folder and says how to load it."""

from .concept import Concept
from .lora_metadata import Spelling, example_prompt, phrases

PAGE = """# {title}

{what}, learned on {family} with {method} by ComfyUI-DETEX.

```python
from pathlib import Path

from diffusers import StableDiffusionPipeline

folder = Path("{title}")  # this folder
pipe = StableDiffusionPipeline.from_pretrained(...)  # the model that it was trained on
pipe.load_lora_weights(str(folder))
pipe.load_textual_inversion([str(path) for path in sorted(folder.glob("words/*.safetensors"))])
picture = pipe("{prompt}").images[0]
```

`load_lora_weights` needs the package peft.

| words | photos |
|---|---|
{words}
"""


def readme(concept: Concept, title: str, spell: Spelling) -> str:
    """The page, in Markdown; `spell` gives the tokens, "<my_dog_v>"."""
    rows = [f"| `{phrase}` | {count} |" for phrase, count in phrases(concept, spell).items()]
    return PAGE.format(
        title=title,
        what=concept.class_word,
        family=concept.base.family,
        method=concept.method,
        prompt=example_prompt(concept, spell),
        words="\n".join(rows),
    )
