"""The whole of DETEX on one toy, through a real ComfyUI server: `python dev.py demo`.

Learns as workflows/quickstart.json does, the file a user drags in, once by DETEX and once by each
of two other methods; renders the same prompts and seeds with all; leaves pictures, files, a report.
"""

import argparse
import json
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from .graphs import Branch, Graph, node, render_graph, upstream
from .host_process import exit_on_terminate
from .pack_host import ROOT, enter_host
from .server import ComfyServer
from .workflows import read_workflow

enter_host()

from detex_pack.detex.batch.api_prompt import to_api_prompt
from detex_pack.detex.canvas.pictures import as_image, as_picture
from detex_pack.detex.canvas.sheets import sheet
from detex_pack.detex.concept.file import Concept, load_concept
from detex_pack.detex.toys.scene import BACKGROUNDS
from detex_pack.detex.toys.subjects import demo_subject
from detex_pack.pretraining.judge import load_judge

SEED = 1000  # of the first picture of every prompt
NEUTRAL, EDITS = 32, 8  # pictures of the neutral prompt, and of each new background
METHODS = ("DETEX", "Custom Diffusion", "Textual Inversion")
# Of the word, where it is not the quickstart's: as chosen for Custom Diffusion in docs/science.md;
# Textual Inversion has a rate of its own beside it.
TOKEN_RATES = {"Custom Diffusion": 4.0, "Textual Inversion": 0.256}

Pictures = dict[str, Tensor]  # by branch, [n, H, W, 3] in [0, 1]


class Demo:
    """The toy, the server that learns and draws it, and what this took."""

    def __init__(self, server: ComfyServer, out: Path):
        self.server, self.out = server, out
        self.subject = demo_subject(0, 4, 0)  # as the quickstart's: number 1, 4 photos, seed 0
        self.photos = range(1, len(self.subject.images) + 1)
        seen = {BACKGROUNDS[i] for i in self.subject.scenes.background.tolist()}
        self.new_backgrounds = [b for b in BACKGROUNDS if b not in seen][:4]
        self.stages: dict[str, float] = {}  # seconds
        self.peak_bytes = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        yield
        self.stages[name] = round(time.monotonic() - start, 1)
        print(f"\r{name}: {self.stages[name]:.0f} s{' ' * 30}", flush=True)

    @contextmanager
    def memory_watched(self) -> Iterator[None]:
        """Keep the largest resident size of the server's processes, looked at twice a second."""
        server, stop = psutil.Process(self.server.pid), threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                with suppress(psutil.NoSuchProcess):
                    family = [server, *server.children(recursive=True)]
                    size = sum(process.memory_info().rss for process in family)
                    self.peak_bytes = max(self.peak_bytes, size)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()

    def train(self, method: str, steps: int | None) -> Concept:
        """Learn as the quickstart does -> the concept; its files are copied to the output."""
        name, models = file_name(method), self.server.base / "models"
        with self.stage(f"train {method}"):
            graph = training(method, steps, self.server.object_info())
            self.server.run(graph, on_progress=show_progress)
        for folder in ("detex", "loras", "embeddings"):
            target = self.out / "files" / folder
            target.mkdir(parents=True, exist_ok=True)
            for path in (models / folder).glob(f"{name}*.safetensors"):
                shutil.copy2(path, target)
        return load_concept(models / "detex" / f"{name}.safetensors")

    def render(self, method: str, concept: Concept) -> Pictures:
        """Every prompt: neutral, new backgrounds, and where there are any, [P] and [B]."""
        word, numbers = self.subject.class_word, range(1, concept.photo_count + 1)
        text = f"photo of a [V] {word}"
        places = [(f"in {b}", f"{text} in {b} background") for b in self.new_backgrounds]
        branches = [
            Branch("neutral", f"a [V] {word}", SEED, NEUTRAL),
            Branch("base", f"a {word}", SEED, NEUTRAL, model="demo"),
            *(Branch(name, prompt, SEED, EDITS) for name, prompt in places),
            *(Branch(f"P{i}", text, SEED, EDITS, pose=i) for i in numbers),
            *(Branch(f"B{i}", text, SEED, EDITS, background=i) for i in numbers),
        ]
        with self.stage(f"render {method}"):
            graph = render_graph(f"{file_name(method)}.safetensors", branches)
            shown = self.server.pictures(graph, show_progress)
        return {name: torch.stack([*map(as_image, found)]) for name, found in shown.items()}

    def draw_grid(self, found: dict[str, Pictures]) -> None:
        """grid.png: photos, each method's [V] in new backgrounds, and DETEX's [P_i] and [B_j]."""
        detex = found["DETEX"]
        rows = [[(f"photo {i}: P{i}, B{i}", self.subject.images[i - 1]) for i in self.photos]]
        rows += [
            [(f"{method}, {b}", pictures[f"in {b}"][0]) for b in self.new_backgrounds]
            for method, pictures in found.items()
        ]
        rows += [
            [(f"DETEX, [P{i}]", detex[f"P{i}"][0]) for i in self.photos],
            [(f"DETEX, [B{i}]", detex[f"B{i}"][0]) for i in self.photos],
        ]
        as_picture(sheet(rows, 192)[0]).save(self.out / "grid.png")

    def shares(self, pictures: Pictures) -> dict[str, float]:
        """How often the photos' backgrounds come back unasked, how often a new one is obeyed; how
        often [P_i] brings photo i's position, and [B_j] photo j's background.
        """
        judge, scenes = load_judge(), self.subject.scenes
        judged = {name: judge(shown) for name, shown in pictures.items()}
        seen, neutral, base = scenes.background.unique(), judged["neutral"], judged["base"]
        edits = [
            judged[f"in {b}"]["background"] == BACKGROUNDS.index(b) for b in self.new_backgrounds
        ]
        found = torch.stack((neutral["main"], neutral["second"]), 1)
        colours = torch.stack((scenes.main[0], scenes.second[0]))
        either = found.sort(1).values == colours.sort().values  # stripes hardly tell which is which
        hits = {
            "neutral_background_is_a_reference": torch.isin(neutral["background"], seen),
            "base_model_background_is_a_reference": torch.isin(base["background"], seen),
            "background_edits_obeyed": torch.cat(edits),
            "neutral_shape_right": neutral["shape"] == scenes.shape[0],
            "neutral_both_colours_right": (found == colours).all(1),
            "neutral_both_colours_in_either_order": either.all(1),
        }
        if "P1" in judged:
            poses = zip(self.photos, scenes.position, strict=True)
            grounds = zip(self.photos, scenes.background, strict=True)
            hits |= {
                "pose_word_brings_the_position": torch.cat(
                    [judged[f"P{i}"]["position"] == position for i, position in poses]
                ),
                "background_word_brings_the_background": torch.cat(
                    [judged[f"B{i}"]["background"] == background for i, background in grounds]
                ),
            }
        return {name: round(hit.float().mean().item(), 3) for name, hit in hits.items()}

    def told(self, method: str, concept: Concept, pictures: Pictures) -> dict[str, Any]:
        """What the report has of a method."""
        seconds = self.stages[f"train {method}"]
        return {
            "config": dict(concept.config),
            "losses_first_and_last": concept.report["losses"],
            "map_overlap_iou": concept.report.get("overlap"),  # where it has words for both
            "seconds_to_learn": seconds,
            "steps_per_second_with_everything": round(concept.config["steps"] / seconds, 2),
            "shares": self.shares(pictures),
        }


def show_progress(done: int, total: int) -> None:
    if total > 1:
        bar = "#" * (30 * done // total)
        print(f"\r  [{bar:<30}] {done}/{total}", end="", flush=True)


def file_name(method: str) -> str:
    return method.lower().replace(" ", "_")


def training(method: str, steps: int | None, info: dict[str, Any]) -> Graph:
    """What workflows/quickstart.json learns, as an API prompt, by one method, and saved."""
    graph = upstream(to_api_prompt(read_workflow("quickstart"), info), ["DETEX Train"])
    (train,) = (n for n, entry in graph.items() if entry["class_type"] == "DETEXTrain")
    changes = {"method": method, "steps": steps, "token_rate": TOKEN_RATES.get(method)}
    graph[train]["inputs"] |= {name: value for name, value in changes.items() if value}
    saved = {"concept": [train, 0], "name": file_name(method), "stock_files": True}
    return graph | {"save": node("DETEXSaveEmbeddings", **saved)}


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def run(out: Path, steps: int | None) -> dict[str, Any]:
    """Everything, with its pictures and files; -> the report."""
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with ComfyServer() as server:
        demo = Demo(server, out)
        with demo.memory_watched():
            concepts = {method: demo.train(method, steps) for method in METHODS}
            found = {method: demo.render(method, concepts[method]) for method in METHODS}
    demo.draw_grid(found)
    methods = {method: demo.told(method, concepts[method], found[method]) for method in METHODS}
    demo.stages["everything"] = round(time.monotonic() - begin, 1)
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "seed": SEED,
        "stages_seconds": demo.stages,
        "peak_server_memory_gb": round(demo.peak_bytes / 2**30, 2),
        "methods": methods,
    }


def main() -> None:
    exit_on_terminate()
    parser = argparse.ArgumentParser(prog="python dev.py demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "demo_out", help="for the results")
    parser.add_argument("--steps", type=int, help="training steps, instead of the workflow's")
    options = parser.parse_args()
    out = options.out.resolve()
    report = run(out, options.steps)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for method, values in report["methods"].items():
        print(f"\n{method}")
        for name, value in values["shares"].items():
            print(f"  {name.replace('_', ' ')}: {value:.0%}")
    print(f"\nPictures, files and report.json are in {out}")


if __name__ == "__main__":
    main()
