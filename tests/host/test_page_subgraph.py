"""The blueprint "Train a subject" in the real page: found, wired to the demo model, run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page
from workflow_files import box, overlaps

from devtools import page as browser
from devtools.pack_host import ROOT
from devtools.server import ComfyServer

pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(browser.browser_path() is None, reason="no Chromium on the PATH"),
]

NAME = "Train a subject"
SHOTS = ROOT / "runs" / "page"
SMALL = {
    "class_word": "ball",
    "resolution": 64,
    "prior_images": 1,
    "steps": 40,
    "learning_rate": 2.5e-4,
    "seed": 0,
    "name": "from_blueprint",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(tmp_path_factory.mktemp("subgraph") / "base") as running:
        yield running


@pytest.fixture
def page(server: ComfyServer) -> Iterator[Page]:
    """An empty canvas on which the blueprint was put by the node search."""
    with browser.open_page(server.url, width=1600, height=1000) as page:
        browser.load_workflow(page, browser.EMPTY)
        browser.add_by_search(page, NAME)
        yield page


def test_the_node_search_puts_it_on_the_canvas(page: Page):
    (node,) = browser.canvas_nodes(page)
    assert node["title"] == NAME
    assert node["visible"] == list(SMALL)
    assert node["size"][1] >= node["needs"][1]


def test_the_graph_inside_is_tidy(page: Page):
    page.wait_for_function("window.location.hash === `#${window.app.graph.id}`")  # it has settled
    page.evaluate(
        """() => {
            const node = window.app.graph._nodes[0];
            window.app.canvas.openSubgraph(node.subgraph, node);
        }"""
    )
    page.wait_for_timeout(1000)
    browser.screenshot(page, SHOTS / "subgraph_inside.png")
    nodes = page.evaluate(
        """() => window.app.canvas.graph._nodes.map(node => ({
            title: node.title, pos: [...node.pos], size: [...node.size],
            needs: [...node.computeSize()] }))"""
    )
    assert len(nodes) == 8
    assert overlaps({node["title"]: box(node) for node in nodes}) == []
    assert [n["title"] for n in nodes if n["size"][1] < n["needs"][1] - 2] == []


def test_wired_to_the_demo_model_it_learns_for_all_to_see_and_saves(
    page: Page, server: ComfyServer
):
    browser.set_modern(page, modern=True)  # the classic canvas draws no pictures of a subgraph
    browser.wire_demo_model(page, NAME, SMALL)
    browser.press_run(page)
    page.wait_for_selector(f"[data-node-id]:has-text('{NAME}') img", timeout=180_000)
    browser.screenshot(page, SHOTS / "subgraph_learns.png")
    browser.wait_for_end(page, seconds=300)
    page.wait_for_timeout(2000)  # the last picture is still arriving
    browser.screenshot(page, SHOTS / "subgraph_done.png")
    assert (Path(server.base) / "models" / "detex" / "from_blueprint.safetensors").is_file()
    assert [node["title"] for node in browser.canvas_nodes(page) if node["wrong"]] == []
