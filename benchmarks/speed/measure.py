"""Seconds, bytes and operations of a call, on the device that ComfyUI uses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management as model_management
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from devtools.machine import ROOT, facts

Keep = Callable[[dict[str, Any]], None]  # writes what was found so far: a stop loses little
FOLDER = ROOT / "docs" / "performance"
GIGABYTE = 2**30


def default_file(name: str) -> Path:
    """docs/performance/<name>_cpu.json, or _cuda.json; what needs no card has one file."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return FOLDER / ("memory.json" if name == "memory" else f"{name}_{kind}.json")


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


def gigabytes(count: float, digits: int = 2) -> float:
    return round(count / GIGABYTE, digits)


T = TypeVar("T")


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of a call, and what it returns."""
    start = now()
    answer = run()
    return now() - start, answer


def now() -> float:
    """Seconds, once the device has done all it was asked. Of this process' own computing where that
    is one thread of a CPU: where other programs share caches and memory, an idle core takes less.
    """
    if device().type == "cuda":
        torch.cuda.synchronize()
    alone = device().type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def operations(run: Callable[[], Any]) -> int:
    """The floating-point operations that torch counts in a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matrix_rate() -> float:
    """Floating-point operations a second of a large matrix product, in the training precision."""
    kind = torch.bfloat16 if device().type == "cuda" else torch.float32
    side = 8192 if device().type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device(), dtype=kind) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: torch.mm(a, b))[0] for _ in range(5))
