"""Make ComfyUI and the pack importable before any test is collected."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(Path(__file__).parent))  # for `from fakes import ...`
sys.path.insert(0, str(ROOT))  # plain `pytest` does not put it there; enter_host takes it out again

from devtools.pack_host import HOST_VERSION, enter_host

enter_host()

import comfyui_version


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device, or the one ComfyUI that files were made with, elsewhere."""
    unmet = []
    if not torch.cuda.is_available():
        unmet.append(("gpu", "needs a CUDA device"))
    if comfyui_version.__version__ != HOST_VERSION:
        unmet.append(("pinned_host", f"compares with what ComfyUI {HOST_VERSION} makes"))
    for item in items:
        for name, reason in unmet:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root() -> Path:
    """The pack's own folder."""
    return ROOT
