"""What the pack costs ComfyUI's start: its own report of import times, and what is imported."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.server import ComfyServer

# As ComfyUI starts: its own nodes first, then the packs, each with its entry point.
START = """
import asyncio, importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
from devtools.pack_host import enter_host
enter_host()
import nodes, execution, server
asyncio.run(nodes.init_builtin_extra_nodes())
before = set(sys.modules)
place = {"submodule_search_locations": [sys.argv[1]]}
spec = importlib.util.spec_from_file_location("the_pack", sys.argv[1] + "/__init__.py", **place)
pack = sys.modules["the_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
extension = asyncio.run(pack.comfy_entrypoint())
asyncio.run(extension.get_node_list())
new = {name.partition(".")[0] for name in set(sys.modules) - before} - {"the_pack"}
print(json.dumps(sorted(new - sys.stdlib_module_names)))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


def test_import_takes_at_most_three_tenths_of_a_second_by_the_servers_own_report(
    server: ComfyServer,
):
    report = re.search(r"([\d.]+) seconds\S*: .*ComfyUI-DETEX", server.log_text())
    assert report, server.log_text()
    assert float(report[1]) <= 0.3


def test_no_package_is_imported_that_comfyui_had_not_imported(root: Path):
    command = [sys.executable, "-c", START, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    assert json.loads(done.stdout.splitlines()[-1]) == []
