"""The options of the command, and the engine that they ask for."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from . import rays
from .card import CardServer, Comfy
from .client import Client, ServerLost, server_url
from .engine import Engine, Threads
from .server import ANSWER_WITHIN, Server
from .store import STORE

USUAL = "http://127.0.0.1:8188"  # where ComfyUI listens by itself
PACK = Path(__file__).parents[2]
DESCRIPTION = """Render a table of jobs over one or many ComfyUI servers, without the page.

Each row of the table is a job; each column sets one input of the workflow, by the node's number,
title or type and the input's name ("6.seed", "KSampler.seed"), or by the input's name alone where
only one node has it. Without --table, the names that a table can use are listed. Run the same
command again to go on: what is done is not done again. `status DIR` tells how far the run of a
folder is. See docs/batch_rendering.md."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m detex.batch", description=DESCRIPTION)
    add = made.add_argument
    add("--workflow", type=Path, required=True, help="JSON, saved or exported by the page")
    add("--table", type=Path, help="CSV in UTF-8, with a head")
    add("--product", action="store_true", help="the table's columns are lists: render all of each "
        "with all of the others")  # fmt: skip
    add("--out", type=Path, help="folder for the pictures and results.csv")
    add_servers(made)
    return made


def add_servers(made: argparse.ArgumentParser) -> None:
    """Where it runs, and what is done when something goes wrong: what `engine_for` reads."""
    where = made.add_argument_group("where", f"by default {USUAL}, started if it is not there")
    add = where.add_argument
    add("--server", action="append", default=[], metavar="URL", help="one that runs; repeatable")
    add("--header", action="append", default=[], metavar="NAME:VALUE",
        help="sent to --server, such as a token; @FILE reads a line each from a file")  # fmt: skip
    add("--gpus", metavar="N|all", help="start a ComfyUI on so many cards (needs Ray)")
    add("--ray", metavar="ADDRESS", help="on the cards of this Ray cluster")
    add("--comfyui", type=Path, help="ComfyUI's folder, on each machine that is to start one")
    add(
        "--comfyui-args",
        default="",
        metavar="TEXT",
        help='options for those ComfyUIs: --comfyui-args="--cpu"',
    )
    add = made.add_argument_group("when something goes wrong").add_argument
    add("--retry-failed", action="store_true", help="try again what failed in earlier runs")
    silent = "how long a server may be silent before others take its jobs (default: 60)"
    add("--patience", type=float, default=60.0, metavar="SECONDS", help=silent)


def engine_for(options: argparse.Namespace) -> Engine:
    """Raises ValueError for options that do not go together, and where Ray does not come up."""
    if options.server and (options.gpus or options.ray):
        raise ValueError("Give either --server, or --gpus and --ray: those start servers.")
    if options.ray and not options.comfyui:
        raise ValueError(
            "--ray needs --comfyui PATH: where ComfyUI lies on the machines of the cluster."
        )
    if options.gpus or options.ray:
        comfy = _comfy(options)
        return rays.of_cards(_count(options.gpus), options.ray, comfy, options.patience)
    urls, headers = _urls(options.server or [USUAL]), headers_of(options.header)
    if len(urls) > 1:
        return rays.of_servers(urls, options.patience, headers)
    if options.server or _listens(urls[0]):
        return Threads(urls[0], Server(urls[0], options.patience, headers))
    return Threads("ComfyUI", CardServer("ComfyUI", _comfy(options), options.patience))


def _comfy(options: argparse.Namespace) -> Comfy:
    """The folder given, or that which this pack is installed in."""
    folder = options.comfyui or PACK.parents[1]
    if not options.ray and not (folder / "main.py").is_file():
        raise ValueError(
            f"There is no ComfyUI in {folder}. Name its folder with --comfyui, or a server that "
            "runs with --server."
        )
    logs = None if options.ray or not options.out else (options.out / STORE / "logs").resolve()
    arguments = shlex.split(options.comfyui_args, posix=os.name != "nt")
    if any(word.partition("=")[0] == "--port" for word in arguments):
        raise ValueError(
            "--comfyui-args has --port, but each card's ComfyUI has a free port of its own. Leave "
            "it out; for a ComfyUI at a certain port start it yourself, and name it with --server."
        )
    return Comfy(folder if options.ray else folder.resolve(), arguments, logs)


def _count(text: str | None) -> int | None:
    if text is None or text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f'--gpus {text}: give a number of cards, or "all".')
    return int(text)


def _urls(texts: Sequence[str]) -> list[str]:
    urls = [server_url(text) for text in texts]
    for url in urls:
        if urls.count(url) > 1:
            raise ValueError(f"--server {url} is given twice. Give each server once.")
    return urls


def _listens(url: str) -> bool:
    try:
        Client(url, ANSWER_WITHIN).queued()
    except ServerLost:
        return False
    return True


def headers_of(texts: Sequence[str]) -> dict[str, str]:
    """ "Authorization: Bearer ..." -> by name; "@FILE" has a line each. Raises ValueError."""
    lines = []
    for text in texts:
        is_file = text.startswith("@")
        lines += Path(text[1:]).read_text(encoding="utf-8").splitlines() if is_file else [text]
    headers = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not value.strip():
            raise ValueError('--header must read "Name: value": "Authorization: Bearer ...".')
        headers[name.strip()] = value.strip()
    return headers
