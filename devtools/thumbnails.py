"""Draw workflows/*.jpg, each from what its workflow shows: `python -m devtools.thumbnails`.

The page shows these pictures in its template browser. The workflows for Stable Diffusion run on
the demo model, with its words and rates.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from .collage import before_and_after, grid, stacked
from .demo_swap import Prompt, with_demo_model, write_photos
from .make_workflows import FOLDER, WORKFLOWS
from .server import ComfyServer, to_api_prompt
from .workflow_nodes import MUTED
from .workflow_toy import DEMO_BLANK, DEMO_PRIORS, DEMO_RATES, DEMO_SAMPLER

COUNT = 4  # pictures of a prompt
FITTING = {  # by node type: what the demo model does best with
    "DETEXSubjectImages": {"blank": DEMO_BLANK},
    "DETEXClassPriorImages": {"count": DEMO_PRIORS, **DEMO_SAMPLER},
    "DETEXTrain": DEMO_RATES,
    "KSampler": DEMO_SAMPLER,
}

MIXED = ("P1 in B1", "P1 in B3", "P2 in the snow")

Pictures = dict[str, list[Image.Image]]  # by the title of the node that shows them


def shown(server: ComfyServer, prompt: Prompt) -> Pictures:
    """Run it -> the pictures of every node that shows some."""
    outputs = server.run(prompt)["outputs"]
    return {
        prompt[number]["_meta"]["title"]: [
            Image.open(io.BytesIO(server.image(**entry))).convert("RGB")
            for entry in output["images"]
        ]
        for number, output in outputs.items()
        if output.get("images")
    }


def run_workflow(server: ComfyServer, name: str) -> Pictures:
    """Run a bundled workflow; where it has muted nodes, a second time with them awake."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    info = server.object_info()
    found = shown(server, suited(to_api_prompt(workflow, info)))
    asleep = [node for node in workflow["nodes"] if node.get("mode") == MUTED]
    for node in asleep:
        node["mode"] = 0
    return shown(server, suited(to_api_prompt(workflow, info))) if asleep else found


def suited(prompt: Prompt) -> Prompt:
    """The prompt as it is where it is made for the demo model, else fitted to it."""
    if any(entry["class_type"] == "DETEXDemoModel" for entry in prompt.values()):
        return prompt
    for entry in with_demo_model(prompt).values():
        entry["inputs"] |= FITTING.get(entry["class_type"], {})
        if entry["class_type"] == "EmptyLatentImage":
            entry["inputs"]["batch_size"] = COUNT
        texts = {k: v for k, v in entry["inputs"].items() if isinstance(v, str)}
        entry["inputs"] |= {name: text.replace("dog", "ball") for name, text in texts.items()}
    return prompt


DRAW: dict[str, Callable[[Pictures], Image.Image]] = {
    "quickstart": lambda p: before_and_after(p["The photos"], p["In the water"]),
    "train_detex": lambda p: stacked(p["Bright is the subject"][0], p["Plot Loss Graph"][0]),
    "train_folder": lambda p: stacked(p["Bright is the subject"][0]),
    "use_concept": lambda p: grid(p["Save Image"]),
    "pose_and_background": lambda p: grid([p[t][0] for t in MIXED]),
    "several_concepts": lambda p: grid([p["The ball"][0], p["The star"][0], *p["Swapped"]]),
    "prompt_grid": lambda p: stacked(p["Labelled Grid"][0]),
    "attention_preview": lambda p: stacked(p["Where the learned words look"][0]),
    "export_concept": lambda p: grid(
        [*p["With [V]"][:2], *p["With its LoRA and its embedding"][:2]]
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="devtools.thumbnails", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(WORKFLOWS), help="workflows; all of them")
    parser.add_argument("--base", type=Path, help="server folder that keeps what is learned")
    options = parser.parse_args()
    with ComfyServer(options.base) as server:
        write_photos(server.base / "input")
        for name in options.names:
            picture = DRAW[name](run_workflow(server, name))
            picture.save(FOLDER / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
