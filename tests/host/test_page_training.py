"""A training in the real page: the live picture, the cancel button, and the way on."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from devtools import page as browser
from devtools.pack_host import ROOT
from devtools.server import ComfyServer
from devtools.workflows import read_workflow, widget_values

pytestmark = [
    pytest.mark.page,
    pytest.mark.slow,
    pytest.mark.skipif(browser.browser_path() is None, reason="no Chromium on the PATH"),
]

SHOTS = ROOT / "runs" / "page"
STEPS, PRIORS = 240, 8  # of the quickstart
CHART_ALONE = 300  # pixels: a live picture with samples is higher


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(tmp_path_factory.mktemp("training") / "base") as running:
        yield running


@pytest.fixture(scope="module")
def page(server: ComfyServer) -> Iterator[Page]:
    with browser.open_page(server.url, width=2000, height=1300) as opened:
        yield opened


def short_quickstart() -> dict[str, Any]:
    workflow = read_workflow("quickstart")
    for node in workflow["nodes"]:
        if node["type"] == "DETEXTrain":
            names = [*widget_values(node)]
            for name, value in {"steps": STEPS, "preview_every": 5}.items():
                node["widgets_values"][names.index(name)] = value
        if node["type"] == "DETEXClassPriorImages":
            node["widgets_values"][1] = PRIORS
    return workflow


TRAIN = 'window.app.graph._nodes.find(n => n.type === "DETEXTrain")'


def said(page: Page) -> str:
    text = f'{TRAIN}.widgets.filter(w => w.name === "detex_text").map(w => w.value)'
    return "\n".join(map(str, page.evaluate(text)))


def test_training_is_watched_cancelled_and_gone_on_with(page: Page):
    assert browser.load_workflow(page, short_quickstart()) == []
    browser.press_run(page)
    height = f"(({TRAIN}.imgs ?? [])[0]?.naturalHeight ?? 0)"
    page.wait_for_function(f"{height} > {CHART_ALONE}", timeout=300_000)  # with samples
    browser.look_at(page, "DETEX Train")
    page.screenshot(path=str(SHOTS / "training.png"))

    page.get_by_role("button", name="Cancel").first.click()
    page.wait_for_function("window.runEvents.length > 0", timeout=60_000)
    assert page.evaluate("window.runEvents[0][0]") == "execution_interrupted"
    page.wait_for_timeout(1000)
    page.screenshot(path=str(SHOTS / "cancelled.png"))
    assert f"of {STEPS}. Run again to go on." in said(page)

    browser.press_run(page)
    browser.wait_for_end(page, seconds=400)
    page.wait_for_timeout(1000)
    page.screenshot(path=str(SHOTS / "resumed.png"))
    assert "Continued after step" in said(page)
