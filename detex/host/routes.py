"""Concept files over HTTP, for batches whose servers share no folder (detex/batch).

GET /detex/concepts/NAME brings a concept of models/detex, .../NAME/words its words; POST puts one
there. Nothing is replaced, and nothing but a concept is taken.
"""

from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ..concept.files import beside_of
from . import paths
from .concepts import read_concept

ROUTE = "/detex/concepts/{name}"


def register_routes() -> None:
    """Add them to the running server; a ComfyUI that is only imported has none."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(ROUTE)(bring_concept)
        server.routes.get(f"{ROUTE}/words")(tell_words)
        server.routes.post(ROUTE)(take_concept)


async def bring_concept(request: web.Request) -> web.StreamResponse:
    path = found(request)
    return web.FileResponse(path) if path else web.Response(status=404)


async def tell_words(request: web.Request) -> web.Response:
    path = found(request)
    if path is None:
        return web.Response(status=404)
    try:
        return web.json_response(read_concept(path).word_names)
    except ValueError as error:
        return refusal(str(error))


async def take_concept(request: web.Request) -> web.Response:
    """Keep the request's body under the name, as long as it is a concept and the name is free."""
    name = request.match_info["name"]
    if f"{paths.plain_name(Path(name).stem)}.safetensors" != name:
        return refusal(
            f'"{name}" is no file name for a concept: small letters, digits, _ - and .safetensors.'
        )
    target = paths.target_path(paths.FOLDER, name)
    beside = beside_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with beside.open("wb") as file:
            async for block in request.content.iter_chunked(1 << 20):
                file.write(block)
        read_concept(beside)
        paths.move_new(beside, target)
    except FileExistsError:
        return refusal(f"{name} exists already. Save under another name.")
    except ValueError as error:
        return refusal(str(error).replace(beside.name, name))
    except OSError as error:
        return refusal(paths.why_not(target, request.content_length or 0, error))
    finally:
        beside.unlink(missing_ok=True)
    return web.json_response({"name": name})


def found(request: web.Request) -> Path | None:
    """The concept of that name in one of the folders of concepts."""
    path = folder_paths.get_full_path(paths.FOLDER, request.match_info["name"])
    return Path(path) if path else None


def refusal(message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=400)
