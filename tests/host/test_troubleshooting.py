"""docs/troubleshooting.md quotes ComfyUI as it speaks."""

import re
from pathlib import Path

import pytest

from devtools.pack_host import ROOT, host_folder

PAGE = ROOT / "docs" / "troubleshooting.md"
CHAPTER = "## ComfyUI's own messages"
SPEAKERS = ("execution.py", "comfy/sd1_clip.py")


def quotations() -> list[str]:
    chapter = PAGE.read_text(encoding="utf-8").partition(CHAPTER)[2]
    return re.findall(r"^- \*\*(.+?)\*\*", chapter, re.MULTILINE)


@pytest.mark.parametrize("quotation", quotations())
def test_the_host_says_so(quotation: str):
    sources = [Path(host_folder() / name).read_text(encoding="utf-8") for name in SPEAKERS]
    assert any(quotation in source for source in sources)
