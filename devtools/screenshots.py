"""Take docs/screenshots/*.jpg: `python -m devtools.screenshots [NAME ...]`.

A real server and its page in a headless browser; the workflows of the demo model are run as they
are. About five minutes on two free cores.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page

from . import page as browser
from .host_process import exit_on_terminate
from .pack_host import ROOT
from .server import ComfyServer
from .workflows import read_workflow

SHOTS = ROOT / "docs" / "screenshots"
TRAIN, BLUEPRINT = "DETEX Train", "Train a subject"
WINDOW = {"width": 1700, "height": 1050}


def save(page: Page, name: str) -> None:
    path = SHOTS / f"{name}.jpg"
    page.screenshot(path=str(path), type="jpeg", quality=80)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e3:.0f} kB", flush=True)


def select_nothing(page: Page) -> None:
    page.evaluate("() => window.app.canvas.deselectAll()")
    page.mouse.move(1000, 1040)
    page.wait_for_timeout(500)


def save_whole(page: Page, name: str) -> None:
    """The whole workflow in view, nothing selected."""
    select_nothing(page)
    browser.fit_view(page)
    save(page, name)


def open_workflow(page: Page, name: str) -> None:
    missing = browser.load_workflow(page, read_workflow(name))
    if missing:
        raise RuntimeError(f"The page has no {', '.join(missing)}, which {name} asks for.")


def finished(page: Page, name: str) -> None:
    """The workflow after a run, with all its pictures."""
    open_workflow(page, name)
    browser.press_run(page)
    browser.wait_for_end(page, seconds=900)
    save_whole(page, name)


def learning(page: Page) -> None:
    """DETEX Train at work, with samples; then the finished quickstart."""
    open_workflow(page, "quickstart")
    browser.press_run(page)
    node = f"window.app.graph._nodes.find(n => n.title === '{TRAIN}')"
    live = f"((({node}).imgs ?? [])[0]?.naturalHeight ?? 0) > 300"
    page.wait_for_function(live, timeout=600_000)  # the chart, and samples under it
    browser.look_at(page, TRAIN)
    select_nothing(page)
    save(page, "learning")
    browser.wait_for_end(page, seconds=900)
    save_whole(page, "quickstart")


def help_page(page: Page) -> None:
    """A node and its help beside it."""
    open_workflow(page, "quickstart")
    browser.look_at(page, TRAIN)
    page.get_by_test_id("info-button").first.click()
    page.locator(".node-help-content").wait_for()
    page.wait_for_timeout(1500)
    save(page, "help")


def blueprint(page: Page) -> None:
    """The blueprint in Nodes 2.0, wired to the demo model, while it learns."""
    browser.load_workflow(page, browser.EMPTY)
    browser.add_by_search(page, BLUEPRINT)
    browser.set_modern(page, modern=True)
    toy = {"class_word": "ball", "resolution": 64, "prior_images": 8}
    toy |= {"steps": 300, "learning_rate": 2.5e-4}
    browser.wire_demo_model(page, BLUEPRINT, toy)
    browser.press_run(page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-node-id] img')]"
        ".some(i => i.naturalWidth === 512 && i.naturalHeight > 300)",
        timeout=600_000,
    )
    save_whole(page, "blueprint")
    browser.wait_for_end(page, seconds=900)
    browser.set_modern(page, modern=False)


PICTURES: dict[str, Callable[[Page], None]] = {
    "learning": learning,
    "pose_and_background": lambda page: finished(page, "pose_and_background"),
    "prompt_grid": lambda page: finished(page, "prompt_grid"),
    "help": help_page,
    "blueprint": blueprint,
}


def main() -> None:
    exit_on_terminate()
    parser = argparse.ArgumentParser(description=__doc__)
    told = ", ".join(PICTURES) + "; learning takes quickstart, too"
    parser.add_argument("names", nargs="*", metavar="NAME", help=told)
    names = parser.parse_args().names or list(PICTURES)
    if not PICTURES.keys() >= set(names):
        parser.error(f"choose from {told}")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as base:
        for name in names:  # a server that has run a node shows nothing more of it: one for each
            with ComfyServer(Path(base)) as server, browser.open_page(server.url, **WINDOW) as page:
                browser.show_all_text(page)
                PICTURES[name](page)


if __name__ == "__main__":
    main()
