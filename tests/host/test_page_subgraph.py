"""The blueprints in the real page: found, wired to the demo model, run."""

import time
from collections.abc import Callable, Iterator
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
    "name": "my_subject",
}
WIRES = [  # (from, its output), (to, its input)
    (("DETEX Demo Model", "model"), ("My Subject", "model")),
    (("DETEX Demo Model", "clip"), ("My Subject", "clip")),
    (("DETEX Demo Model", "vae"), ("My Subject", "vae")),
    (("My Subject", "model"), ("KSampler", "model")),
    (("My Subject", "conditioning"), ("KSampler", "positive")),
]
# One that puts the blueprint down, a wire each, two words to type, a choice of a list, and Run; a
# person's double click that opens the search, for which the test has a command, would make it 13.
CLICKS = 1 + len(WIRES) + 2 + 2 + 1


@pytest.mark.slow
def test_my_subject_goes_from_a_folder_to_a_picture(
    empty: Page, server: ComfyServer, record_property: Callable[[str, object], None]
):
    """By real clicks, from the graph that ComfyUI opens with, the demo model in the place of its
    checkpoint: My Subject, five wires, and no more.
    """
    page = empty
    write_photos(server.base / "input")
    page.evaluate(STOCK)
    start = time.monotonic()
    browser.count_clicks(page)
    browser.add_by_search(page, "My Subject")
    (node,) = [node for node in browser.canvas_nodes(page) if node["title"] == "My Subject"]
    assert node["visible"] == list(SETTINGS)
    page.evaluate(SHORTEN)
    for output, to in WIRES:
        browser.drag_wire(page, output, to)
    for name, end in (("class_word", "Enter"), ("prompt", "End")):  # a box, and an area of lines
        browser.click_widget(page, "My Subject", name)
        page.keyboard.press("Control+a")
        page.keyboard.type(SETTINGS[name])
        page.keyboard.press(end)
    browser.click_widget(page, "My Subject", "preset")
    page.locator(".litecontextmenu .litemenu-entry", has_text="fast").click()
    browser.press_run(page)
    assert browser.clicks(page) == CLICKS
    assert page.evaluate(CHOSEN) == SETTINGS
    browser.wait_for_end(page, seconds=400)
    record_property("clicks", CLICKS)
    record_property("seconds", round(time.monotonic() - start))
    page.wait_for_timeout(2000)
    page.evaluate("window.app.canvas.deselectAll()")
    browser.screenshot(page, SHOTS / "my_subject_done.png")
    assert [node["title"] for node in browser.canvas_nodes(page) if node["wrong"]] == []
    assert (Path(server.base) / "models" / "detex" / "my_subject.safetensors").is_file()
    shown = "(window.app.graph._nodes.find(n => n.type === 'PreviewImage').imgs ?? []).length"
    assert page.evaluate(shown) == 1


# The training cut short: the preset's own amounts are no part of the path.
SHORTEN = """() => {
    const inside = window.app.graph._nodes.find(n => n.title === "My Subject").subgraph.nodes;
    const set = (type, name, value) => {
        const node = inside.find(n => n.type === type);
        const slot = node.inputs.findIndex(i => i.name === name);
        if (node.inputs[slot]?.link != null) node.disconnectInput(slot);
        node.widgets.find(w => w.name === name).value = value;
    };
    set("DETEXTrain", "steps", 40);
    set("DETEXClassPriorImages", "count", 8);
    set("DETEXPlacePictures", "names", "sandy beach\\nbrick wall");
}"""
CHOSEN = """() => {
    const { widgets } = window.app.graph._nodes.find(n => n.title === "My Subject");
    return Object.fromEntries(widgets.map(w => [w.name, w.value]));
}"""
# What ComfyUI opens with, around the space where the blueprint goes.
STOCK = """() => {
    const graph = window.app.graph, nodes = {};
    const places = {
        DETEXDemoModel: [60, 150], KSampler: [1260, 100], CLIPTextEncode: [1260, 500],
        EmptyLatentImage: [1260, 800], VAEDecode: [1700, 100], PreviewImage: [1700, 300] };
    for (const [type, place] of Object.entries(places)) {
        nodes[type] = graph.add(window.LiteGraph.createNode(type));
        nodes[type].pos = place;
    }
    const join = (from, output, to, input) => nodes[from].connect(
        nodes[from].outputs.findIndex(o => o.name === output), nodes[to],
        nodes[to].inputs.findIndex(i => i.name === input));
    join("DETEXDemoModel", "model", "KSampler", "model");
    join("DETEXDemoModel", "clip", "CLIPTextEncode", "clip");
    join("DETEXDemoModel", "vae", "VAEDecode", "vae");
    join("CLIPTextEncode", "CONDITIONING", "KSampler", "positive");
    join("CLIPTextEncode", "CONDITIONING", "KSampler", "negative");
    join("EmptyLatentImage", "LATENT", "KSampler", "latent_image");
    join("KSampler", "LATENT", "VAEDecode", "samples");
    join("VAEDecode", "IMAGE", "PreviewImage", "images");
    for (const widget of nodes.EmptyLatentImage.widgets)
        if (widget.name !== "batch_size") widget.value = 64;
    nodes.KSampler.widgets.find(w => w.name === "steps").value = 10;
    Object.assign(window.app.canvas.ds, { scale: 0.75, offset: [40, 120] });
    window.app.canvas.setDirty(true, true);
}"""
