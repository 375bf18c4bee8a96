"""Draw workflows/*.jpg, each from what its workflow shows: `python -m devtools.thumbnails`.

The page shows these pictures in its template browser. The workflows for Stable Diffusion run on
the demo model, with its words and rates.
"""

import argparse
import io
from collections.abc import Callable, Collection
from pathlib import Path

from PIL import Image

from .collage import before_and_after, first_of_each, folded, grid, pairs
from .host_process import exit_on_terminate
from .pack_host import register_pack
from .server import ComfyServer
from .workflows import (
    FOLDER,
    Prompt,
    demo_settings,
    read_workflow,
    with_demo_model,
    write_photos,
)

register_pack()

from detex_pack.detex.batch.api_prompt import MUTED, to_api_prompt

COUNT = 4  # pictures of a prompt
SAVE = "Save Decoupled Embeddings"  # shows no picture, but use_concept needs its file

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


def run_workflow(server: ComfyServer, name: str, titles: Collection[str]) -> Pictures:
    """Run a bundled workflow as far as these nodes need it; where it has muted nodes, a second
    time with them awake.
    """
    workflow = read_workflow(name)
    info = server.object_info()
    found = shown(server, upstream(suited(to_api_prompt(workflow, info)), titles))
    asleep = [node for node in workflow["nodes"] if node.get("mode") == MUTED]
    for node in asleep:
        node["mode"] = 0
    awake = upstream(suited(to_api_prompt(workflow, info)), titles)
    return shown(server, awake) if asleep else found


def upstream(prompt: Prompt, titles: Collection[str]) -> Prompt:
    """The nodes of these titles, and all that they need."""
    wanted = [number for number, entry in prompt.items() if entry["_meta"]["title"] in titles]
    kept: Prompt = {}
    while wanted:
        number = wanted.pop()
        kept[number] = prompt[number]
        wanted += [v[0] for v in prompt[number]["inputs"].values() if isinstance(v, list)]
    return kept


def suited(prompt: Prompt) -> Prompt:
    """The prompt as it is where it is made for the demo model, else fitted to it."""
    if any(entry["class_type"] == "DETEXDemoModel" for entry in prompt.values()):
        return prompt
    for entry in with_demo_model(prompt).values():
        entry["inputs"] |= demo_settings(entry["class_type"])
        if entry["class_type"] == "EmptyLatentImage":
            entry["inputs"]["batch_size"] = COUNT
        texts = {k: v for k, v in entry["inputs"].items() if isinstance(v, str)}
        entry["inputs"] |= {name: text.replace("dog", "ball") for name, text in texts.items()}
    return prompt


Draw = Callable[..., Image.Image]  # of the pictures of each title

DRAW: dict[str, tuple[Draw, tuple[str, ...]]] = {  # how, from what which nodes show
    "quickstart": (before_and_after, ("The photos", "In the water")),
    "train_detex": (folded, ("Bright is the subject", SAVE)),
    "train_folder": (folded, ("Bright is the subject",)),
    "train_many": (folded, ("Bright is the subject",)),
    "use_concept": (grid, ("Save Image",)),
    "pose_and_background": (pairs, ("P1 in B1", "P1 in B3")),
    "several_concepts": (pairs, ("The ball", "The star")),
    "prompt_grid": (first_of_each, ("Labelled Grid",)),
    "attention_preview": (first_of_each, ("Where the learned words look",)),
    "export_concept": (pairs, ("With [V]", "With its LoRA and its embedding", "Exact LoRA")),
}


def main() -> None:
    exit_on_terminate()
    parser = argparse.ArgumentParser(prog="devtools.thumbnails", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(DRAW), help="workflows; all of them")
    parser.add_argument("--base", type=Path, help="server folder that keeps what is learned")
    options = parser.parse_args()
    with ComfyServer(options.base) as server:
        write_photos(server.base / "input")
        for name in options.names:
            draw, titles = DRAW[name]
            found = run_workflow(server, name, titles)
            picture = draw(*[found[title] for title in titles if title in found])
            picture.save(FOLDER / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
