"""On what a figure was measured, and the files that hold figures."""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from .cells import ROOT, commit

FOLDER = ROOT / "docs" / "performance"


def facts() -> dict[str, str]:
    """Machine, date and commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
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


def keep(report: dict[str, Any], path: Path) -> None:
    """Write and show."""
    text = json.dumps(facts() | report, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
