"""The Chinese and Japanese texts, and what they were translated from.

    locales/<language>/nodeDefs.json  names, descriptions and tooltips, as ComfyUI reads them
    web/docs/<node>/<language>.md     help pages, as ComfyUI's page finds them
    locales/<language>/sources.json   a hash of the English text behind each of these

The English texts are the node schemas and web/docs/<node>.md. When one of them changes,
`python -m devtools.translations` names what must be translated anew; after that,
`python -m devtools.translations --done zh ja` writes the hashes of the English as it is now.
"""

import argparse
import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .pack_host import ROOT, enter_host

LANGUAGES = ("zh", "ja")
LOCALES = ROOT / "locales"
PAGES = ROOT / "web" / "docs"

Texts = dict[str, str]  # "DETEXTrain.inputs.steps.tooltip" or "DETEXTrain.help" -> text


def english() -> Texts:
    """Every text that is to be translated: those of the registered nodes and their help pages."""
    enter_host()
    from detex_pack.nodes import comfy_entrypoint

    async def nodes() -> list[Any]:
        extension = await comfy_entrypoint()
        await extension.on_load()  # as ComfyUI does, before it asks for the nodes
        return await extension.get_node_list()

    schemas = [node.GET_NODE_INFO_V1() for node in asyncio.run(nodes())]
    pages = {f"{s['name']}.help": _read(PAGES / f"{s['name']}.md") for s in schemas}
    return flat({schema["name"]: node_texts(schema) for schema in schemas}) | pages


def translated(language: str) -> Texts:
    """What there is in this language, under the same keys."""
    pages = {f"{path.parent.name}.help": _read(path) for path in PAGES.glob(f"*/{language}.md")}
    return flat(json.loads(_read(LOCALES / language / "nodeDefs.json"))) | pages


def node_texts(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A node's entry in nodeDefs.json, from its schema as ComfyUI's /object_info gives it."""
    groups = (schema["input"].get(group, {}) for group in ("required", "optional"))
    inputs = [(name, spec[1]["tooltip"]) for group in groups for name, spec in group.items()]
    outputs = zip(schema["output_name"], schema["output_tooltips"], strict=True)
    return {
        "display_name": schema["display_name"],
        "description": schema["description"],
        "inputs": {name: {"name": name, "tooltip": tooltip} for name, tooltip in inputs},
        "outputs": {
            str(i): {"name": name, "tooltip": tip} for i, (name, tip) in enumerate(outputs)
        },
    }


def flat(tree: Mapping[str, Any], path: str = "") -> Texts:
    """{"a": {"b": "text"}} -> {"a.b": "text"}"""
    texts: Texts = {}
    for key, part in tree.items():
        name = path + key
        texts |= flat(part, f"{name}.") if isinstance(part, Mapping) else {name: part}
    return texts


def outdated(language: str, texts: Texts) -> list[str]:
    """The keys whose English is not the one that was translated."""
    known = sources(language)
    return [key for key, text in texts.items() if known.get(key) != fingerprint(text)]


def sources(language: str) -> dict[str, str]:
    path = LOCALES / language / "sources.json"
    return json.loads(_read(path)) if path.exists() else {}


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def mark_done(language: str, texts: Texts) -> None:
    """Take every translation of this language as one of the English as it is now."""
    hashes = {key: fingerprint(text) for key, text in sorted(texts.items())}
    path = LOCALES / language / "sources.json"
    path.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Names what must be translated anew.")
    parser.add_argument("--done", nargs="+", choices=LANGUAGES, default=[], metavar="LANGUAGE")
    done, texts = parser.parse_args().done, english()
    for language in LANGUAGES:
        for key in outdated(language, texts):
            print(f"{language}  {key}{'  done' if language in done else ''}")
    for language in done:
        mark_done(language, texts)


if __name__ == "__main__":
    main()
