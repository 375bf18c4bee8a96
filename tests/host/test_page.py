"""The real page in a headless browser: it opens every workflow, runs the quickstart, shows help.

Screenshots of what it looked like stay in runs/page.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page
from workflow_files import NAMES, TITLE, box, overlaps, server_with_files

from devtools import page as browser
from devtools.pack_host import ROOT
from devtools.server import ComfyServer
from devtools.workflows import demo_settings, read_workflow, widget_values

pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(browser.browser_path() is None, reason="no Chromium on the PATH"),
]

SHOTS = ROOT / "runs" / "page"
STEPS, PRIORS = 20, 8  # of the quickstart, so that the test takes a minute and not ten
SLACK = 2  # pixels of rounding


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with server_with_files(tmp_path_factory.mktemp("page") / "base") as running:
        yield running


@pytest.fixture(scope="module")
def window(server: ComfyServer) -> Iterator[Page]:
    with browser.open_page(server.url, width=2400, height=1350) as page:
        yield page


@pytest.fixture
def page(window: Page) -> Iterator[Page]:
    yield window
    browser.set_modern(window, False)


@pytest.mark.parametrize("modern", [False, True], ids=["classic", "nodes-2"])
@pytest.mark.parametrize("name", NAMES)
def test_the_page_opens_it_whole(page: Page, name: str, modern: bool):
    browser.set_modern(page, modern)
    workflow = read_workflow(name)
    missing = browser.load_workflow(page, workflow)
    browser.screenshot(page, SHOTS / f"{name}{'_nodes2' if modern else ''}.png")
    nodes = browser.canvas_nodes(page)
    assert missing == []
    assert [node["title"] for node in nodes if node["wrong"]] == []
    boxes = {f"{node['id']} {node['title']}": box(node) for node in nodes}
    assert overlaps(boxes, gap=0) == []
    assert [node["title"] for node in nodes if node["cut"] > SLACK] == []
    assert all(node["size"][0] >= node["needs"][0] - SLACK for node in nodes)
    if not modern:
        assert outgrown(nodes, workflow) == []


def outgrown(nodes: list[dict[str, Any]], workflow: dict[str, Any]) -> list[str]:
    """Nodes that the page has made taller than the file says; photos make Load Image so."""
    heights = {str(node["id"]): node["size"][1] for node in workflow["nodes"]}
    return [
        node["title"]
        for node in nodes
        if node["type"] != "LoadImage" and node["size"][1] > heights[str(node["id"])] + SLACK
    ]


def test_the_first_view_is_readable(page: Page):
    """All of it, at 70 % of its size; below 57 % the page draws boxes without text."""
    browser.load_workflow(page, read_workflow("quickstart"))
    assert page.evaluate("window.app.canvas.ds.scale") >= 0.7
    groups = read_workflow("quickstart")["groups"]
    assert max(left + width for left, _, width, _ in (g["bounding"] for g in groups)) < 1600 / 0.7


def test_advanced_inputs_are_folded_until_asked_for(page: Page):
    browser.load_workflow(page, read_workflow("quickstart"))
    train = next(node for node in browser.canvas_nodes(page) if node["type"] == "DETEXTrain")
    assert train["visible"][-1] == "seed"
    menu = """() => {
        const node = window.app.graph._nodes.find(n => n.type === "DETEXTrain");
        const entries = window.app.canvas.getNodeMenuOptions(node).map(o => o?.content);
        node.toggleAdvanced();
        return entries;
    }"""
    assert "Show Advanced" in page.evaluate(menu)
    train = next(node for node in browser.canvas_nodes(page) if node["type"] == "DETEXTrain")
    assert train["visible"][-1] == "averaged_steps"
    assert train["size"][1] >= train["needs"][1]


def test_the_quickstart_is_small():
    nodes = [node for node in read_workflow("quickstart")["nodes"] if "Note" not in node["type"]]
    assert len(nodes) <= 13


def test_the_run_button_runs_the_quickstart_to_its_end(
    page: Page, record_property: Callable[[str, object], None]
):
    """From the template browser to the pictures in four clicks."""
    start = time.monotonic()
    browser.count_clicks(page)
    browser.open_template(page, "quickstart")
    assert browser.missing_types(page) == []
    shown = page.evaluate(SHORTEN, {"DETEXTrain": STEPS, "DETEXClassPriorImages": PRIORS})
    assert shown["DETEXTrain"] == demo_settings("DETEXTrain")["steps"]
    browser.press_run(page)
    browser.wait_for_end(page, seconds=400)
    assert browser.clicks(page) == 4
    record_property("clicks", 4)
    record_property("seconds", round(time.monotonic() - start))
    page.wait_for_timeout(2000)  # the last pictures are still arriving
    browser.screenshot(page, SHOTS / "quickstart_done.png")
    nodes = browser.canvas_nodes(page)
    assert [node["title"] for node in nodes if node["wrong"]] == []
    assert overlaps({f"{n['id']} {n['title']}": box(n) for n in nodes}) == []
    for title in ("The photos", "Class Prior Images", "DETEX Train", "Labelled Grid"):
        assert shown_pictures(page, title) > 0, title
    assert "steady loss" in shown_text(page, "DETEX Train")


# Fewer steps and pictures; what the template has.
SHORTEN = """amounts => Object.fromEntries(Object.entries(amounts).map(([type, amount]) => {
    const node = window.app.graph._nodes.find(n => n.type === type);
    const widget = node.widgets.find(w => w.name === (type === "DETEXTrain" ? "steps" : "count"));
    const before = widget.value;
    widget.value = amount;
    return [type, before];
}))"""


def test_a_node_beside_its_picture_shows_all_it_has_to_say(page: Page):
    browser.load_workflow(page, browser.EMPTY)
    page.evaluate(
        """() => {
            const [prior, preview] = ["DETEXClassPriorImages", "PreviewImage"]
                .map(type => window.app.graph.add(window.LiteGraph.createNode(type)));
            preview.pos = [400, 0];
            prior.connect(0, preview, 0);
        }"""
    )
    small = {"class_word": "ball", "count": 1, "resolution": 64, "steps": 2}
    browser.wire_demo_model(page, "Class Prior Images", small)
    browser.press_run(page)
    browser.wait_for_end(page, seconds=120)
    page.wait_for_timeout(2000)  # the picture is still arriving
    browser.screenshot(page, SHOTS / "text_beside_picture.png")
    assert_whole(page, "0 pictures found, 1 made")


def test_what_a_node_says_while_it_runs_is_shown_whole_at_every_width(page: Page):
    browser.load_workflow(page, browser.EMPTY)
    text = "Stopped after step 123." + " Run again to go on." * 6
    say = """text => {
        const node = window.app.graph.add(window.LiteGraph.createNode("DETEXTrain"));
        node.setSize([600, node.computeSize()[1]]);
        window.app.api.dispatchCustomEvent("detex.text", { node: String(node.id), text });
    }"""
    page.evaluate(say, text)
    assert_whole(page, text)
    narrow = """() => {
        window.app.graph._nodes[0].setSize([300, 0]);
        window.app.canvas.setDirty(true, true);
    }"""
    page.evaluate(narrow)
    assert_whole(page, text)


def test_what_a_node_has_no_more_to_say_goes(page: Page):
    browser.load_workflow(page, browser.EMPTY)
    add = """() => {
        const node = window.app.graph.add(window.LiteGraph.createNode("DETEXLoadEmbeddings"));
        return String(node.id);
    }"""
    number = page.evaluate(add)
    say = "said => window.app.api.dispatchCustomEvent('executed', said)"

    def says(text: str) -> None:
        page.evaluate(say, {"node": number, "output": {"text": [text]}})
        page.wait_for_timeout(500)

    says("")
    assert node_texts(page).count() == 0
    says("A warning.")
    assert node_texts(page).is_visible()
    says("")
    assert not node_texts(page).is_visible()
    says("Another warning.")
    assert_whole(page, "Another warning.")


def node_texts(page: Page) -> Locator:
    """What nodes of the classic canvas say below their widgets."""
    return page.locator(".detex-text")


def cut_off_texts(page: Page) -> list[str]:
    """Those of node_texts that only scrolling shows whole."""
    return node_texts(page).evaluate_all(
        "all => all.filter(e => e.scrollHeight > e.clientHeight + 1).map(e => e.innerText)"
    )


def assert_whole(page: Page, text: str) -> None:
    page.wait_for_timeout(500)  # until it is drawn anew
    assert node_texts(page).filter(has_text=text).is_visible()
    assert cut_off_texts(page) == []


def shown_pictures(page: Page, title: str) -> int:
    count = "t => (window.app.graph._nodes.find(n => n.title === t).imgs ?? []).length"
    return page.evaluate(count, title)


def shown_text(page: Page, title: str) -> str:
    """What the node says below its widgets after a run."""
    text = """t => window.app.graph._nodes.find(n => n.title === t).widgets
        .filter(w => w.name === "detex_text").map(w => String(w.value)).join("")"""
    return page.evaluate(text, title)


def test_the_info_button_shows_the_help_page(page: Page):
    browser.load_workflow(page, read_workflow("quickstart"))
    browser.look_at(page, "DETEX Train")
    page.get_by_test_id("info-button").first.click()
    page.get_by_text("Learns your subject from a few photos").wait_for(timeout=10_000)
    page.screenshot(path=str(SHOTS / "help.png"))
    page.get_by_test_id("info-button").first.click()


def test_every_node_has_a_help_page_that_names_its_sockets(page: Page, server: ComfyServer):
    ours = {k: v for k, v in server.object_info().items() if k.startswith("DETEX")}
    assert len(ours) == 27
    for node_id, schema in ours.items():
        answer = page.request.get(f"{server.url}/extensions/ComfyUI-DETEX/docs/{node_id}.md")
        text = answer.text()
        assert text.startswith(f"# {schema['display_name']}\n")
        plain = [
            name
            for group in ("required", "optional")
            for name, spec in schema["input"].get(group, {}).items()
            if not (len(spec) > 1 and spec[1].get("advanced"))
        ]
        absent = [name for name in [*plain, *schema["output_name"]] if name not in text]
        assert not absent, f"{node_id}.md does not say what {absent} are"


def test_the_template_browser_offers_every_workflow(page: Page, server: ComfyServer):
    offered = server.get("/api/workflow_templates")["ComfyUI-DETEX"]
    assert set(offered) == set(NAMES)
    for name in NAMES:
        folder = f"{server.url}/api/workflow_templates/ComfyUI-DETEX"
        assert page.request.get(f"{folder}/{name}.json").json() == read_workflow(name)
        assert page.request.get(f"{folder}/{name}.jpg").body()[:2] == b"\xff\xd8"


def test_a_title_bar_belongs_to_the_box():
    assert box({"pos": [10, 100], "size": [50, 20]}) == (10, 100 - TITLE, 60, 120)


def test_screenshots_lie_outside_the_repository():
    ignored = Path(ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/runs/" in ignored


EARLIER = ROOT / "tests" / "data" / "workflows_0.1"


def stored_inputs(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each node of the file asks for, by input: its widgets' values, or [node, output]."""
    wires = {number: [str(node), output] for number, node, output, *_ in workflow["links"]}
    return {
        str(node["id"]): widget_values(node)
        | {slot["name"]: wires[slot["link"]] for slot in node["inputs"] if slot["link"] in wires}
        for node in workflow["nodes"]
        if node.get("inputs") and node["mode"] == 0
    }


@pytest.mark.parametrize("name", sorted(set(NAMES) & {p.stem for p in EARLIER.glob("*.json")}))
def test_workflow_of_version_0_1_asks_for_what_it_asked_for(page: Page, name: str):
    """Its inputs lay in another order: the page finds each by its name, its value by its place."""
    workflow = json.loads((EARLIER / f"{name}.json").read_text(encoding="utf-8"))
    stored = stored_inputs(workflow)
    assert stored
    assert browser.load_workflow(page, workflow) == []
    prompt = browser.page_prompt(page)
    assert stored.keys() <= prompt.keys()
    for number, inputs in stored.items():
        assert inputs.items() <= prompt[number]["inputs"].items(), number


def shown_inputs(page: Page, method: str, *, advanced: bool) -> set[str]:
    """What DETEX Train shows with this method in the classic canvas."""
    return set(
        page.evaluate(
            """([method, advanced]) => {
                const node = window.app.graph._nodes.find(n => n.comfyClass === "DETEXTrain");
                node.showAdvanced = advanced;
                const chosen = node.widgets.find(w => w.name === "method");
                chosen.value = method;
                chosen.callback?.(method);
                return node.widgets.filter(w => node.isWidgetVisible(w)).map(w => w.name);
            }""",
            [method, advanced],
        )
    )


def test_a_method_shows_its_own_inputs_alone(page: Page):
    browser.load_workflow(page, read_workflow("train_detex"))
    detex = shown_inputs(page, "DETEX", advanced=True)
    custom = shown_inputs(page, "Custom Diffusion", advanced=True)
    inversion = shown_inputs(page, "Textual Inversion", advanced=True)
    lora = shown_inputs(page, "DreamBooth LoRA", advanced=True)
    assert {"gamma", "lambda_ca", "lambda_pr", "center_poses"} <= detex
    assert {"vectors", "learn_word"} & detex == set()
    assert {"gamma", "lambda_ca", "center_poses"} & (custom | inversion | lora) == set()
    assert "lambda_pr" in custom & lora and "lambda_pr" not in inversion
    assert "vectors" in inversion and "learn_word" in lora
    settled = {"attention_norm", "attention_map", "masked_loss", "reduction"}
    assert settled & (detex | custom | inversion | lora) == set()


def test_rarely_needed_inputs_are_folded_whatever_the_method(page: Page):
    browser.load_workflow(page, read_workflow("train_detex"))
    assert "gamma" in shown_inputs(page, "DETEX", advanced=False)
    assert {"vectors", "rank", "token_rate"} & shown_inputs(
        page, "Textual Inversion", advanced=False
    ) == set()
