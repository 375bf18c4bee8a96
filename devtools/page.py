"""ComfyUI's own page in a headless browser: open workflows, read them back, take pictures."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EMPTY: dict[str, Any] = {"nodes": [], "links": [], "version": 0.4}
FLAGS = ["--disable-gpu", "--disable-quic"]  # Playwright adds what keeps it off the network


def browser_path() -> str | None:
    """The Chromium or Chrome of this machine, if it has one on its PATH."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def open_page(url: str, *, width: int = 1600, height: int = 900) -> Iterator[Page]:
    """The page of the server at `url`, ready for workflows."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(url, wait_until="domcontentloaded")
        _wait_until_ready(page)
        yield page
        browser.close()


def _wait_until_ready(page: Page) -> None:
    page.wait_for_function("window.app && window.app.graph", timeout=120_000)
    page.wait_for_function("document.querySelector('#splash-loader') === null")


def load_workflow(page: Page, workflow: dict[str, Any]) -> list[str]:
    """Open this workflow -> the node types that the page does not know."""
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_timeout(1000)
    return missing_types(page)


def missing_types(page: Page) -> list[str]:
    """The node types of the open workflow that the page does not know."""
    return page.evaluate(
        "() => window.app.graph._nodes.map(n => n.type)"
        ".filter(t => !(t in window.LiteGraph.registered_node_types))"
    )


def open_template(page: Page, name: str) -> None:
    """Open a template of this pack as a person does: the button, the pack, the card."""
    page.locator(".templates-tab-button").click()
    page.get_by_role("dialog").get_by_text("ComfyUI-DETEX", exact=True).click()
    card = page.get_by_test_id(f"template-workflow-{name}")
    card.click()
    card.wait_for(state="detached")
    page.wait_for_timeout(1000)


def count_clicks(page: Page) -> None:
    """Count the presses of the mouse from now on; what a script does is none."""
    page.evaluate(
        """() => {
            if (window.clicks === undefined)
                window.addEventListener("pointerdown", e => (window.clicks += e.isTrusted), true);
            window.clicks = 0;
        }"""
    )


def clicks(page: Page) -> int:
    return page.evaluate("window.clicks")


def page_prompt(page: Page) -> dict[str, Any]:
    """The API prompt that the page would send for the open workflow."""
    return page.evaluate("async () => (await window.app.graphToPrompt()).output")


def page_workflow(page: Page) -> dict[str, Any]:
    """The open workflow as the page would save it."""
    return page.evaluate("() => window.app.graph.serialize()")


def press_run(page: Page) -> None:
    """Press the page's own Run button."""
    page.evaluate(
        """() => {
            window.runEvents = [];
            for (const name of ["execution_error", "execution_interrupted", "execution_success"])
                window.app.api.addEventListener(name, e => window.runEvents.push([name, e.detail]));
        }"""
    )
    page.get_by_test_id("queue-button").click()


def wait_for_end(page: Page, seconds: float) -> None:
    """Wait until the run has ended; raises RuntimeError with the node's message if it failed."""
    page.wait_for_function("window.runEvents.length > 0", timeout=seconds * 1000)
    name, detail = page.evaluate("window.runEvents[0]")
    if name != "execution_success":
        where = f"node {detail.get('node_id')} ({detail.get('node_type')})"
        raise RuntimeError(f"{name}: {where}: {detail.get('exception_message', '')}")


def canvas_nodes(page: Page) -> list[dict[str, Any]]:
    """The open workflow's nodes as the page has laid them out.

    needs: the least size that shows everything. wrong: whether the page outlines it in red.
    cut: how many pixels of its text do not fit. visible: names of the widgets shown.
    """
    return page.evaluate(
        """() => window.app.graph._nodes.map(node => ({
            id: node.id, type: node.type, title: node.title,
            pos: [...node.pos], size: [...node.size], needs: [...node.computeSize()],
            wrong: Boolean(node.has_errors),
            cut: Math.max(0, ...(node.widgets ?? [])
                .map(w => w.element ?? w.inputEl).filter(Boolean)
                .map(e => e.querySelector(".comfy-markdown-content, .tiptap") ?? e)
                .map(e => e.scrollHeight - e.clientHeight)),
            visible: (node.widgets ?? []).filter(w => node.isWidgetVisible(w)).map(w => w.name),
        }))"""
    )


def change_setting(page: Page, name: str, value: Any) -> None:
    page.evaluate("([k, v]) => window.app.extensionManager.setting.set(k, v)", [name, value])


def press(page: Page, command: str) -> None:
    """Do what the page's menus or keys do by this command."""
    page.evaluate("name => window.app.extensionManager.command.execute(name)", command)


def set_modern(page: Page, modern: bool) -> None:  # noqa: FBT001
    """Switch between the page's two looks: the classic canvas and Nodes 2.0."""
    name = "Comfy.VueNodes.Enabled"
    if page.evaluate("k => window.app.extensionManager.setting.get(k)", name) != modern:
        change_setting(page, name, modern)
        page.wait_for_timeout(1000)


def set_language(page: Page, language: str) -> None:
    """Open the page anew in this language, such as "zh"."""
    change_setting(page, "Comfy.Locale", language)
    page.reload(wait_until="domcontentloaded")
    _wait_until_ready(page)


def add_by_search(page: Page, name: str) -> None:
    """Put the node or blueprint of this name on the canvas by the page's node search."""
    # Opened by its command, not by a double click: on a slow machine the clicks come too far apart.
    before = page.evaluate("window.app.graph._nodes.length")
    press(page, "Workspace.SearchBox.Toggle")
    box = page.get_by_role("dialog").get_by_role("combobox").first
    box.press_sequentially(name, delay=20)
    chosen = page.locator("[role=option][aria-selected=true]").filter(has_text=name)
    chosen.wait_for()  # the list comes some time after the last letter
    page.wait_for_timeout(500)
    box.press("Enter")
    page.wait_for_function(f"window.app.graph._nodes.length > {before}")
    page.mouse.move(500, 200, steps=5)  # it hangs on the mouse until the next click
    page.wait_for_timeout(500)
    page.mouse.click(500, 200, delay=100)
    page.wait_for_timeout(1000)


def wire_demo_model(
    page: Page, title: str, values: dict[str, Any], *, subject: bool = True
) -> None:
    """Put the demo model, and a demo toy if asked, before the node of this title, and set its
    widgets.
    """
    sources = ["DETEXDemoModel", *(["DETEXDemoSubject"] if subject else [])]
    page.evaluate(
        """([title, values, sources]) => {
            const graph = window.app.graph;
            const learner = graph._nodes.find(n => n.title === title);
            learner.pos = [0, 0];
            for (const [place, type] of sources.entries()) {
                const node = graph.add(window.LiteGraph.createNode(type));
                node.pos = [-420, 190 * place];
                for (const [slot, output] of node.outputs.entries()) {
                    const named = i => i.name === output.name && !i.widget;
                    const input = learner.inputs.findIndex(named);
                    if (input >= 0) node.connect(slot, learner, input);
                }
            }
            for (const widget of learner.widgets)
                if (widget.name in values) widget.value = values[widget.name];
        }""",
        [title, values, sources],
    )


def look_at(page: Page, title: str) -> None:
    """Select the node of this title and bring it into view."""
    page.evaluate(
        """title => {
            const canvas = window.app.canvas;
            const node = window.app.graph._nodes.find(n => n.title === title);
            canvas.selectNode(node);
            canvas.ds.scale = 1;
            canvas.ds.offset = [300 - node.pos[0], 250 - node.pos[1]];
            canvas.setDirty(true, true);
        }""",
        title,
    )
    page.wait_for_timeout(1000)


def show_all_text(page: Page) -> None:
    """Text at every zoom, and no minimap over it."""
    settings = {"Comfy.Minimap.Visible": False, "LiteGraph.Canvas.MinFontSizeForLOD": 0}
    for name, value in settings.items():
        change_setting(page, name, value)


def fit_view(page: Page) -> None:
    """Bring the selected nodes into view, or the whole workflow where none is."""
    press(page, "Comfy.Canvas.FitView")
    page.wait_for_timeout(1500)  # the view moves there


def screenshot(page: Page, path: Path) -> None:
    """The page as it looks: the whole workflow with all its text, and no minimap over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    show_all_text(page)
    fit_view(page)
    page.screenshot(path=str(path))
