"""Seconds and memory of what a benchmark runs, on which machine, and the files that hold them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management as model_management
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from .cells import ROOT, commit

FOLDER = ROOT / "docs" / "performance"


def facts() -> dict[str, str]:
    """Machine, date and commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no graphics card"
    return {
        "device": device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": date.today().isoformat(),
        "commit": commit(),
    }


def default_file(name: str) -> Path:
    """docs/performance/<name>_cpu.json, or _cuda.json."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return FOLDER / f"{name}_{kind}.json"


def real_size_parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """Of a benchmark on a checkpoint of real size, whose file is called `name`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--out", type=Path, default=default_file(name))
    return parser


def keep(report: dict[str, Any], path: Path) -> None:
    """Write and show."""
    text = json.dumps(facts() | report, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text, end="")


def device() -> torch.device:
    return model_management.get_torch_device()


def memory_now() -> int:
    """Bytes on the device: of this process on a CPU, allocated on CUDA."""
    if device().type == "cuda":
        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def reset_peak() -> None:
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident size


def peak() -> int:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


T = TypeVar("T")


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of a call, and what it returns."""
    synchronize()
    start = time.perf_counter()
    answer = run()
    synchronize()
    return time.perf_counter() - start, answer


def operations(run: Callable[[], Any]) -> int:
    """The floating-point operations that torch counts in a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def synchronize() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def matrix_rate() -> float:
    """Floating-point operations a second of a large matrix product, in the training precision."""
    kind = torch.bfloat16 if device().type == "cuda" else torch.float32
    side = 8192 if device().type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device(), dtype=kind) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: torch.mm(a, b))[0] for _ in range(5))
