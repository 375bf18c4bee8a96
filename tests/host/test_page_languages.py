"""The real server and page in three languages: names, tooltips and help pages.

Screenshots of what it looked like stay in runs/page. They show Chinese and Japanese where the
machine has a font for them.
"""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from devtools import page as browser
from devtools import translations
from devtools.host_process import PACK_FOLDER
from devtools.pack_host import ROOT
from devtools.server import ComfyServer
from devtools.translations import LANGUAGES, Texts
from devtools.workflows import read_workflow

SHOTS = ROOT / "runs" / "page"
on_page = pytest.mark.skipif(browser.browser_path() is None, reason="no Chromium on the PATH")


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture(scope="module")
def english() -> Texts:
    return translations.english()


@pytest.fixture(scope="module")
def window(server: ComfyServer, english: Texts) -> Iterator[Page]:
    with browser.open_page(server.url, width=1440) as page:  # a small laptop's screen
        yield page


@pytest.fixture(scope="module", params=("en", *LANGUAGES))
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def texts(language: str, english: Texts) -> Texts:
    return english if language == "en" else translations.translated(language)


@pytest.fixture(scope="module")
def page(window: Page, language: str) -> Page:
    browser.set_language(window, language)
    browser.load_workflow(window, read_workflow("quickstart"))
    return window


def test_the_server_hands_out_our_locales(server: ComfyServer):
    answer = server.get("/i18n")
    for code in LANGUAGES:
        path = ROOT / "locales" / code / "nodeDefs.json"
        ours = json.loads(path.read_text(encoding="utf-8"))
        assert answer[code]["nodeDefs"].items() >= ours.items()


def open_help(page: Page, node_type: str, title: str) -> None:
    """This node alone on the canvas, and its help, of this title, beside it."""
    page.evaluate(
        """type => {
            const node = window.LiteGraph.createNode(type);
            node.pos = [300, 250];
            window.app.graph.clear();
            window.app.graph.add(node);
            window.app.canvas.ds.reset();
            window.app.canvas.selectNode(node);
        }""",
        node_type,
    )
    page.get_by_test_id("info-button").first.click()
    help_page = page.locator(".node-help-content")
    help_page.get_by_role("heading", name=title, exact=True).wait_for()


def help_cut_off(page: Page) -> list[str]:
    """The beginnings of what lies beyond the right edge of the open help."""
    return page.locator(".node-help-content").evaluate(
        """help => {
            const edge = help.getBoundingClientRect().right + 1;
            return [...help.querySelectorAll("td, p, li, pre, code")]
                .filter(part => part.getBoundingClientRect().right > edge)
                .map(part => part.innerText.slice(0, 40));
        }"""
    )


def point_at_widget(page: Page, node_type: str, name: str) -> None:
    """Hold the mouse over a widget of the classic canvas, as to read its tooltip."""
    left, top = page.evaluate(
        """([type, name]) => {
            const canvas = window.app.canvas;
            const node = window.app.graph._nodes.find(n => n.type === type);
            const widget = node.widgets.find(w => w.name === name);
            const place = [node.pos[0] + 60, node.pos[1] + widget.y + 10];
            const corner = canvas.canvas.getBoundingClientRect();
            const { offset, scale } = canvas.ds;
            return [corner.x + (place[0] + offset[0]) * scale,
                    corner.y + (place[1] + offset[1]) * scale];
        }""",
        [node_type, name],
    )
    page.mouse.move(left - 5, top)
    page.mouse.move(left, top, steps=3)


@pytest.mark.page
@on_page
def test_a_node_shows_its_names_in_the_language_of_the_page(page: Page, texts: Texts):
    shown = page.evaluate(
        """() => {
            const node = window.app.graph._nodes.find(n => n.type === "DETEXTrain");
            return {
                title: node.title,
                inputs: Object.fromEntries(
                    node.inputs.map(s => [s.name, s.label ?? s.localized_name])),
                widgets: Object.fromEntries(node.widgets.map(w => [w.name, w.label ?? w.name])),
                outputs: node.outputs.map(s => s.localized_name),
            };
        }"""
    )
    assert shown["title"] == texts["DETEXTrain.display_name"]
    for name, label in (shown["inputs"] | shown["widgets"]).items():
        assert label == texts[f"DETEXTrain.inputs.{name}.name"]
    for number, label in enumerate(shown["outputs"]):
        assert label == texts[f"DETEXTrain.outputs.{number}.name"]


@pytest.mark.page
@on_page
def test_pointing_at_a_widget_shows_its_tooltip(page: Page, texts: Texts, language: str):
    browser.look_at(page, texts["DETEXTrain.display_name"])
    point_at_widget(page, "DETEXTrain", "lambda_ca")
    tooltip = page.locator(".node-tooltip").filter(visible=True)
    tooltip.wait_for(timeout=10_000)
    assert tooltip.inner_text() == texts["DETEXTrain.inputs.lambda_ca.tooltip"]
    page.screenshot(path=str(SHOTS / f"tooltip_{language}.png"))


@pytest.mark.page
@on_page
def test_the_info_button_shows_the_help_in_the_language_of_the_page(
    page: Page, texts: Texts, language: str
):
    browser.look_at(page, texts["DETEXTrain.display_name"])
    page.get_by_test_id("info-button").first.click()
    headings = [line[3:] for line in texts["DETEXTrain.help"].splitlines() if line[:3] == "## "]
    help_page = page.locator(".node-help-content")
    help_page.get_by_role("heading", name=headings[-1], exact=True).wait_for(timeout=10_000)
    assert help_page.locator("h2").all_inner_texts() == headings
    assert help_page.locator("h1").inner_text() == texts["DETEXTrain.display_name"]
    page.screenshot(path=str(SHOTS / f"help_{language}.png"))
    page.get_by_test_id("info-button").first.click()


@pytest.mark.page
@on_page
def test_no_help_page_is_wider_than_its_panel(page: Page, texts: Texts):
    nodes = [key.removesuffix(".help") for key in texts if key.endswith(".help")]
    for node in nodes:
        open_help(page, node, texts[f"{node}.display_name"])
        assert help_cut_off(page) == [], node


@pytest.mark.page
@on_page
def test_every_help_page_is_found_where_the_page_asks_for_it(
    window: Page, server: ComfyServer, texts: Texts, language: str
):
    """The page asks for <node>/<language>.md, then for <node>.md."""
    folder = f"{server.url}/extensions/{PACK_FOLDER}/docs"
    for key, text in texts.items():
        if key.endswith(".help"):
            node = key.removesuffix(".help")
            name = f"{node}.md" if language == "en" else f"{node}/{language}.md"
            assert window.request.get(f"{folder}/{name}").text() == text
