"""The client: a real server, a stock graph, and the page's workflow format."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import psutil
import pytest

from devtools.pack_host import ROOT
from devtools.page import browser_path, load_workflow, open_page, page_prompt, page_workflow
from devtools.server import ComfyServer, PromptError, to_api_prompt

SIZE = {"width": 8, "height": 8}


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    return server.object_info()


def node(id: int, type: str, values: list[Any], **more: Any) -> dict[str, Any]:
    return {"id": id, "type": type, "mode": 0, "widgets_values": values, **more}


def link_in(name: str, link: int, type: str) -> dict[str, Any]:
    return {"name": name, "type": type, "link": link}


@pytest.fixture
def workflow() -> dict[str, Any]:
    """EmptyImage -> (Reroute) -> ImageInvert, bypassed -> SaveImage, and a note."""
    return {
        "nodes": [
            node(1, "EmptyImage", [32, 24, 2, 0xFF0000]),
            node(2, "Reroute", [], inputs=[link_in("", 1, "*")]),
            node(3, "ImageInvert", [], mode=4, inputs=[link_in("image", 2, "IMAGE")]),
            node(4, "SaveImage", ["tiny"], inputs=[link_in("images", 3, "IMAGE")]),
            node(5, "MarkdownNote", ["read me"]),
            node(6, "PreviewImage", [], mode=2, inputs=[link_in("images", 4, "IMAGE")]),
        ],
        "links": [
            [1, 1, 0, 2, 0, "IMAGE"],
            [2, 2, 0, 3, 0, "IMAGE"],
            [3, 3, 0, 4, 0, "IMAGE"],
            [4, 1, 0, 6, 0, "IMAGE"],
        ],
    }


def test_the_pack_is_linked_and_seen_by_the_server(server: ComfyServer) -> None:
    link = server.base / "custom_nodes" / "ComfyUI-DETEX"
    assert (link / "devtools" / "server.py").is_file()
    log = server.log_text().replace("\\", "/")
    told = [line for line in log.splitlines() if "custom_nodes/ComfyUI-DETEX" in line]
    assert told and not any("IMPORT FAILED" in line for line in told)


@pytest.mark.pinned_host
def test_the_server_starts_without_a_complaint(server: ComfyServer) -> None:
    log = server.log_text()
    assert "[WARNING]" not in log and "[ERROR]" not in log and "IMPORT FAILED" not in log


def test_a_stock_graph_runs(
    server: ComfyServer, object_info: dict[str, Any], workflow: dict[str, Any]
) -> None:
    seen = []
    entry = server.run(to_api_prompt(workflow, object_info), lambda *step: seen.append(step))
    pictures = entry["outputs"]["4"]["images"]
    assert len(pictures) == 2
    picture = PIL.Image.open(io.BytesIO(server.image(**pictures[0])))
    assert picture.size == (32, 24)
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_refused_prompt_names_the_node(server: ComfyServer) -> None:
    prompt = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    with pytest.raises(PromptError, match=r"node 1 \(SaveImage\): Required input is missing"):
        server.queue(prompt)


def test_a_failing_node_is_told(server: ComfyServer) -> None:
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {**SIZE, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../x"}},
    }
    with pytest.raises(PromptError, match=r"node 2 \(SaveImage\).*outside the output") as caught:
        server.run(prompt, timeout=60)
    assert "traceback" in caught.value.details


def test_the_value_that_controls_a_seed_is_not_an_input(object_info: dict[str, Any]) -> None:
    values = [7, "randomize", 20, 8.0, "euler", "normal", 1.0]
    prompt = to_api_prompt({"nodes": [node(1, "KSampler", values)], "links": []}, object_info)
    assert prompt["1"]["inputs"] == {
        "seed": 7,
        "steps": 20,
        "cfg": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }


def test_the_upload_button_is_not_an_input(object_info: dict[str, Any]) -> None:
    nodes = [node(1, "LoadImage", ["a.png", "image"])]
    prompt = to_api_prompt({"nodes": nodes, "links": []}, object_info)
    assert prompt["1"]["inputs"] == {"image": "a.png"}


def test_a_linked_widget_takes_the_link_and_a_primitive_its_value(
    object_info: dict[str, Any],
) -> None:
    seed = {"name": "value", "type": "INT", "link": 2, "widget": {"name": "value"}}
    width = {"name": "width", "type": "INT", "link": 1, "widget": {"name": "width"}}
    nodes = [
        node(1, "PrimitiveInt", [1, "fixed"], inputs=[seed]),
        node(2, "EmptyImage", [8, 8, 1, 0], inputs=[width]),
        node(3, "PrimitiveNode", [64, "fixed"]),
    ]
    links = [[1, 1, 0, 2, 0, "INT"], [2, 3, 0, 1, 0, "INT"]]
    prompt = to_api_prompt({"nodes": nodes, "links": links}, object_info)
    assert prompt["2"]["inputs"]["width"] == ["1", 0]
    assert prompt["1"]["inputs"] == {"value": 64}
    assert "3" not in prompt


def test_the_inputs_behind_a_dynamic_combo_carry_its_name(object_info: dict[str, Any]) -> None:
    values = ["scale dimensions", 16, 24, "disabled", "area"]
    nodes = [node(1, "ResizeImageMaskNode", values)]
    prompt = to_api_prompt({"nodes": nodes, "links": []}, object_info)
    assert prompt["1"]["inputs"] == {
        "resize_type": "scale dimensions",
        "resize_type.width": 16,
        "resize_type.height": 24,
        "resize_type.crop": "disabled",
        "scale_method": "area",
    }


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node(1, "NoSuchNode", [])], "The server has no node named NoSuchNode"),
        ([node(1, "EmptyImage", [8, 8])], r'\(EmptyImage\): no saved value .* "batch_size"'),
        ([node(1, "EmptyImage", [8, 8, 1, 0, 5])], "1 saved widget values too many"),
        ([node(1, "SaveImage", ["x"], inputs=[link_in("images", 9, "IMAGE")])], "link 9"),
        ([node(1, "ResizeImageMaskNode", ["odd"])], "\"resize_type\" is 'odd'; it must be one of"),
    ],
)
def test_a_workflow_that_does_not_fit_is_refused(
    nodes: list[dict[str, Any]], message: str, object_info: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        to_api_prompt({"nodes": nodes, "links": []}, object_info)


def test_an_api_prompt_is_not_a_workflow(object_info: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a workflow in the page's format"):
        to_api_prompt({"1": {"class_type": "SaveImage"}}, object_info)


def test_a_server_that_cannot_start_shows_its_log() -> None:
    broken = ComfyServer(cpu=True, arguments=["--no-such-option"])
    with pytest.raises(RuntimeError, match="unrecognized arguments"):
        broken.__enter__()
    assert not broken.base.exists()


SERVES_UNTIL_TERM = """
import time
from devtools.host_process import exit_on_terminate
from devtools.server import ComfyServer
exit_on_terminate()
with ComfyServer(cpu=True) as server:
    print(server.pid, server.base, flush=True)
    time.sleep(300)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_program_that_is_told_to_end_takes_its_server_with_it() -> None:
    command = [sys.executable, "-c", SERVES_UNTIL_TERM]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        pid, base = program.stdout.readline().split(maxsplit=1)
        assert psutil.pid_exists(int(pid)) and Path(base.strip()).is_dir()
        program.terminate()
        assert program.wait(timeout=60) == 128 + signal.SIGTERM
    assert not psutil.pid_exists(int(pid))
    assert not Path(base.strip()).exists()


@pytest.mark.page
@pytest.mark.pinned_host  # whose page it is; on others it gives nodes their own newer titles
@pytest.mark.skipif(browser_path() is None, reason="no Chromium on the PATH")
def test_the_translation_is_the_page_s_own(
    server: ComfyServer, object_info: dict[str, Any], workflow: dict[str, Any]
) -> None:
    workflow["nodes"] += [
        node(7, "KSampler", [7, "randomize", 20, 8.0, "euler", "normal", 1.0]),
        node(8, "ResizeImageMaskNode", ["scale dimensions", 16, 24, "disabled", "area"]),
    ]
    for item in workflow["nodes"]:
        item |= {"pos": [300 * item["id"], 0], "size": [270, 100], "flags": {}, "properties": {}}
    for item in workflow["nodes"][:3]:
        item["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [item["id"]]}]
    with open_page(server.url) as page:
        assert load_workflow(page, {**workflow, "version": 0.4}) == []
        expected = page_prompt(page)
        saved = page_workflow(page)
    assert to_api_prompt(workflow, object_info) == expected
    assert to_api_prompt(saved, object_info) == expected
