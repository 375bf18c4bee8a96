"""The whole of DETEX on one toy, through a real ComfyUI server: `python dev.py demo`.

Queues workflows/quickstart.json, the file a user drags in, once for DETEX and once for Custom
Diffusion; renders the same prompts and seeds with both; leaves pictures, files and a report.
"""

import argparse
import json
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch

from .figures import save_sheet, to_tensor
from .graphs import Branch, attention_graph, render_graph
from .host_process import exit_on_terminate
from .pack_host import ROOT, enter_host
from .server import ComfyServer

enter_host()

from detex_pack.detex.batch.api_prompt import to_api_prompt
from detex_pack.detex.canvas.pictures import as_picture
from detex_pack.detex.concept.file import Concept, load_concept
from detex_pack.detex.toys.scene import BACKGROUNDS
from detex_pack.detex.toys.subjects import DemoSubject, demo_subject
from detex_pack.pretraining.judge import load_judge

SEED = 1000  # of the first picture of every prompt
NEUTRAL, EDITS = 32, 8  # pictures of the neutral prompt, and of each new background
METHODS = ("DETEX", "Custom Diffusion")


@dataclass
class Run:
    """One demo: the server, what it is measured by, and what it has found."""

    server: ComfyServer
    out: Path
    stages: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - start, 1)
        print(f"\r{name}: {self.stages[name]:.0f} s{' ' * 30}", flush=True)

    def execute(self, graph: dict[str, Any]) -> dict[str, list[dict]]:
        """Run an API graph -> the pictures that each node saved."""
        history = self.server.run(graph, on_progress=show_progress)
        return {node: out.get("images", []) for node, out in history["outputs"].items()}

    def pictures(self, entries: Sequence[dict]) -> torch.Tensor:
        return torch.stack([to_tensor(self.server.image(**entry)) for entry in entries])


def show_progress(_node: str, done: int, total: int) -> None:
    if total > 1:
        bar = "#" * (30 * done // total)
        print(f"\r  [{bar:<30}] {done}/{total}", end="", flush=True)


def watch_memory(run: Run, stop: threading.Event) -> None:
    """Keep the largest resident size of the server's processes, looked at twice a second."""
    while not stop.wait(0.5):
        try:
            server = psutil.Process(run.server.pid)
            family = [server, *server.children(recursive=True)]
            run.peak_bytes = max(run.peak_bytes, sum(p.memory_info().rss for p in family))
        except psutil.NoSuchProcess:
            continue


def quickstart(method: str, name: str, steps: int | None, info: dict) -> dict[str, Any]:
    """workflows/quickstart.json as an API prompt, for one method and one file name."""
    workflow = json.loads((ROOT / "workflows" / "quickstart.json").read_text(encoding="utf-8"))
    graph = to_api_prompt(workflow, info)
    for node in graph.values():
        if node["class_type"] == "DETEXTrain":
            node["inputs"]["method"] = method
            node["inputs"]["steps"] = steps or node["inputs"]["steps"]
        if node["class_type"] == "DETEXSaveEmbeddings":
            node["inputs"]["name"] = name
        if method == "Custom Diffusion":  # has no [P], [B]: its own sampling comes later
            plain_prompt(node)
    return graph


def plain_prompt(node: dict[str, Any]) -> None:
    inputs = node["inputs"]
    if node["class_type"] == "DETEXComposePrompt":
        inputs |= {"pose": 0, "background": 0}
    if node["class_type"] == "DETEXCaptureAttention":
        inputs["words"] = "[V]"


def train(run: Run, method: str, steps: int | None, info: dict) -> Concept:
    """Queue the quickstart; -> the concept it saved, whose files are copied to the output."""
    name = method.lower().replace(" ", "_")
    with run.stage(f"train {method}"):
        run.execute(quickstart(method, name, steps, info))
    models = run.server.base / "models"
    for folder in ("detex", "loras", "embeddings"):
        for path in (models / folder).glob(f"{name}*.safetensors"):
            target = run.out / "files" / folder
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    return load_concept(models / "detex" / f"{name}.safetensors")


def branches(
    concept: Concept, subject: DemoSubject, new_backgrounds: Sequence[str]
) -> list[Branch]:
    """Every prompt of the demo: neutral, new backgrounds, and where there are any, [P] and [B]."""
    word = subject.class_word
    listed = [
        Branch("neutral", f"a [V] {word}", SEED, NEUTRAL),
        Branch("base", f"a {word}", SEED, NEUTRAL, model="demo"),
    ]
    listed += [
        Branch(f"in {b}", f"photo of a [V] {word} in {b} background", SEED, EDITS)
        for b in new_backgrounds
    ]
    numbers = range(1, concept.photo_count + 1)
    listed += [Branch(f"P{i}", f"photo of a [V] {word}", SEED, EDITS, pose=i) for i in numbers]
    listed += [
        Branch(f"B{i}", f"photo of a [V] {word}", SEED, EDITS, background=i) for i in numbers
    ]
    return listed


def render(run: Run, method: str, listed: Sequence[Branch]) -> dict[str, torch.Tensor]:
    """name -> pictures [n, 64, 64, 3] in [0, 1]."""
    with run.stage(f"render {method}"):
        file = f"{method.lower().replace(' ', '_')}.safetensors"
        saved = run.execute(render_graph(file, listed))
    return {branch.name: run.pictures(saved[branch.name]) for branch in listed}


def shares(
    pictures: dict[str, torch.Tensor], subject: DemoSubject, new_backgrounds: Sequence[str]
) -> dict[str, float]:
    """How often the photos' backgrounds come back unasked, how often a new one is obeyed."""
    judge = load_judge()
    seen = subject.scenes.background.unique()
    neutral = judge(pictures["neutral"])
    obeyed = [
        judge(pictures[f"in {b}"])["background"] == BACKGROUNDS.index(b) for b in new_backgrounds
    ]
    base = judge(pictures["base"])
    found = torch.stack((neutral["main"], neutral["second"]), 1)
    colours = torch.stack((subject.scenes.main[0], subject.scenes.second[0]))
    either = found.sort(1).values == colours.sort().values  # which is which, stripes hardly tell
    return {
        "neutral_background_is_a_reference": share(torch.isin(neutral["background"], seen)),
        "base_model_background_is_a_reference": share(torch.isin(base["background"], seen)),
        "background_edits_obeyed": share(torch.cat(obeyed)),
        "neutral_shape_right": share(neutral["shape"] == subject.scenes.shape[0]),
        "neutral_both_colours_right": share((found == colours).all(1)),
        "neutral_both_colours_in_either_order": share(either.all(1)),
    }


def word_shares(pictures: dict[str, torch.Tensor], subject: DemoSubject) -> dict[str, float]:
    """How often [P_i] brings photo i's position, and [B_j] photo j's background."""
    judge = load_judge()
    scenes, numbers = subject.scenes, range(len(subject.scenes))
    poses = [judge(pictures[f"P{i + 1}"])["position"] == scenes.position[i] for i in numbers]
    grounds = [judge(pictures[f"B{i + 1}"])["background"] == scenes.background[i] for i in numbers]
    return {
        "pose_word_brings_the_position": share(torch.cat(poses)),
        "background_word_brings_the_background": share(torch.cat(grounds)),
    }


def share(hits: torch.Tensor) -> float:
    return round(hits.float().mean().item(), 3)


def draw_grid(
    run: Run, subject: DemoSubject, found: dict[str, dict], new_backgrounds: Sequence[str]
) -> None:
    """grid.png: photos, [V] in new backgrounds, [P_i], [B_j], and Custom Diffusion's."""
    detex, custom = found["DETEX"], found["Custom Diffusion"]
    numbers = [i + 1 for i in range(len(subject.images))]
    rows = [
        [
            (f"photo {i}: P{i}, B{i}", photo)
            for i, photo in zip(numbers, subject.images, strict=True)
        ],
        [(f"[V] in {b} background", detex[f"in {b}"][0]) for b in new_backgrounds],
        [(f"[V] with [P{i}]", detex[f"P{i}"][0]) for i in numbers],
        [(f"[V] in [B{i}]", detex[f"B{i}"][0]) for i in numbers],
        [(f"Custom Diffusion, {b}", custom[f"in {b}"][0]) for b in new_backgrounds],
    ]
    save_sheet(rows, run.out / "grid.png")


def report(run: Run, concepts: dict[str, Concept], measured: dict[str, dict]) -> dict[str, Any]:
    """report.json: everything that was measured, and on what."""
    methods = {}
    for method, concept in concepts.items():
        seconds = run.stages[f"train {method}"]
        methods[method] = {
            "config": dict(concept.config),
            "losses_first_and_last": concept.report["losses"],
            "map_overlap_iou": concept.report["overlap"],
            "quickstart_seconds": seconds,
            "steps_per_second_with_everything": round(concept.config["steps"] / seconds, 2),
            "shares": measured[method],
        }
    return {
        "date": date.today().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(logical=False),
            "memory_gb": round(psutil.virtual_memory().total / 2**30),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
        },
        "seed": SEED,
        "stages_seconds": run.stages,
        "peak_server_memory_gb": round(run.peak_bytes / 2**30, 2),
        "methods": methods,
    }


def demo(out: Path, steps: int | None) -> dict[str, Any]:
    """Run everything; -> the report."""
    out.mkdir(parents=True, exist_ok=True)
    subject = demo_subject(0, 4, 0)  # as the quickstart's Demo Subject: number 1, 4 photos, seed 0
    seen = {BACKGROUNDS[i] for i in subject.scenes.background.tolist()}
    new_backgrounds = [b for b in BACKGROUNDS if b not in seen][:4]
    begin = time.monotonic()
    with ComfyServer() as server:
        run, stop = Run(server, out), threading.Event()
        watcher = threading.Thread(target=watch_memory, args=(run, stop), daemon=True)
        watcher.start()
        info = server.object_info()
        concepts = {method: train(run, method, steps, info) for method in METHODS}
        found = {
            method: render(run, method, branches(concept, subject, new_backgrounds))
            for method, concept in concepts.items()
        }
        with run.stage("attention"):
            saved = run.execute(attention_graph("detex.safetensors", subject.class_word, SEED))
            sheet = run.pictures(saved["heat_maps"])[0]
            as_picture(sheet).save(out / "attention.png")
        stop.set()
        watcher.join()
    measured = {method: shares(found[method], subject, new_backgrounds) for method in METHODS}
    measured["DETEX"] |= word_shares(found["DETEX"], subject)
    draw_grid(run, subject, found, new_backgrounds)
    run.stages["everything"] = round(time.monotonic() - begin, 1)
    result = report(run, concepts, measured)
    (out / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def main() -> None:
    exit_on_terminate()
    parser = argparse.ArgumentParser(prog="python dev.py demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "demo_out", help="folder for the results"
    )
    parser.add_argument("--steps", type=int, help="training steps, instead of the workflow's")
    options = parser.parse_args()
    result = demo(options.out.resolve(), options.steps)
    for method, values in result["methods"].items():
        print(f"\n{method}")
        for name, value in values["shares"].items():
            print(f"  {name.replace('_', ' ')}: {value:.0%}")
    print(f"\nPictures, files and report.json are in {options.out.resolve()}")


if __name__ == "__main__":
    main()
