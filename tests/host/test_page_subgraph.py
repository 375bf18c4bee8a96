"""The blueprints in the real page: found, wired to the demo model, run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page
from workflow_files import box, overlaps

from devtools import page as browser
from devtools.pack_host import ROOT
from devtools.server import ComfyServer
from devtools.workflows import write_photos

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
def empty(server: ComfyServer) -> Iterator[Page]:
    """An empty canvas."""
    with browser.open_page(server.url, width=1600, height=1000) as page:
        browser.load_workflow(page, browser.EMPTY)
        yield page


@pytest.fixture
def page(empty: Page) -> Page:
    """A canvas on which the blueprint was put by the node search."""
    browser.add_by_search(empty, NAME)
    return empty


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


SETTINGS = {
    "folder": "my_subject",
    "class_word": "star",
    "preset": "fast",
    "prompt": "photo of a [V] star in sand background",
    "name": "my_star",
}


@pytest.mark.slow
def test_my_subject_goes_from_a_folder_to_a_picture(empty: Page, server: ComfyServer):
    """Checkpoint, My Subject, what a sampler needs, and no more: the demo model stands for the
    checkpoint.
    """
    page = empty
    write_photos(server.base / "input")
    browser.add_by_search(page, "My Subject")
    (node,) = browser.canvas_nodes(page)
    assert node["visible"] == list(SETTINGS)
    browser.wire_demo_model(page, "My Subject", SETTINGS, subject=False)
    page.evaluate(SAMPLE)
    browser.press_run(page)
    browser.wait_for_end(page, seconds=400)
    page.wait_for_timeout(2000)
    browser.fit_view(page)
    browser.screenshot(page, SHOTS / "my_subject_done.png")
    assert [node["title"] for node in browser.canvas_nodes(page) if node["wrong"]] == []
    assert (Path(server.base) / "models" / "detex" / "my_star.safetensors").is_file()
    shown = "(window.app.graph._nodes.find(n => n.type === 'PreviewImage').imgs ?? []).length"
    assert page.evaluate(shown) == 1


SAMPLE = """() => {
    const graph = window.app.graph, place = [520, 0];
    const put = type => {
        const node = graph.add(window.LiteGraph.createNode(type));
        node.pos = [...place];
        place[1] += node.size[1] + 80;
        return node;
    };
    const find = name => graph._nodes.find(n => n.title === name || n.type === name);
    const subject = find("My Subject"), model = find("DETEXDemoModel");
    const [sampler, empty, latent, decode, preview] = [
        "KSampler", "CLIPTextEncode", "EmptyLatentImage", "VAEDecode", "PreviewImage"].map(put);
    const join = (from, output, to, input) => from.connect(
        from.outputs.findIndex(o => o.name === output), to,
        to.inputs.findIndex(i => i.name === input));
    join(subject, "model", sampler, "model");
    join(subject, "conditioning", sampler, "positive");
    join(model, "clip", empty, "clip");
    join(empty, "CONDITIONING", sampler, "negative");
    join(latent, "LATENT", sampler, "latent_image");
    join(sampler, "LATENT", decode, "samples");
    join(model, "vae", decode, "vae");
    join(decode, "IMAGE", preview, "images");
    for (const widget of latent.widgets) if (widget.name !== "batch_size") widget.value = 64;
    sampler.widgets.find(w => w.name === "steps").value = 10;
}"""
