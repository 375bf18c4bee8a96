"""On which machine and commit something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def facts() -> dict[str, str]:
    """Machine, date and commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no graphics card"
    return {
        "device": device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": date.today().isoformat(),
        "commit": commit(),
    }


@cache
def commit() -> str:
    """The commit of this checkout, with a + where its code was changed since; empty without git."""
    changes = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return f"{head}+" if head and _git(*changes) else head
    except FileNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
