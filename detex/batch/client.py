"""What is asked of a ComfyUI server over HTTP."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # servers are near
CONCEPT = "detex"  # the folder of concept files, see host/routes.py
_GATEWAY_ERRORS = (502, 503, 504)  # a proxy before the server speaks, not the server
_BEGINNINGS = {  # of files, by suffix
    ".png": b"\x89PNG\r\n\x1a\n",
    ".jpg": b"\xff\xd8",
    ".jpeg": b"\xff\xd8",
    ".webp": b"RIFF",
    ".gif": b"GIF8",
}


class ServerLost(ConnectionError):
    """The server gave no answer. `stopped`: nothing listens there, so that its queue is gone."""

    def __init__(self, url: str, reason: object):
        super().__init__(f"{url} does not answer ({reason}).")
        self.url, self.reason = url, str(reason)
        self.stopped = isinstance(reason, ConnectionRefusedError)

    def __reduce__(self) -> tuple[Any, ...]:  # on its way from another process
        return ServerLost, (self.url, self.reason)


class PromptError(RuntimeError):
    """The server refused a request or a node failed. `details` holds the server's own JSON."""

    def __init__(self, message: str, details: dict[str, Any]):
        super().__init__(message)
        self.details = details


class Client:
    """One server. Every method raises ServerLost where it gives no answer within `patience` s.

    headers: sent with each request, such as {"Authorization": "Bearer ..."}; never to another
    address that the server sends us on to.
    """

    def __init__(self, url: str, patience: float = 60.0, headers: Mapping[str, str] | None = None):
        self.url = server_url(url)
        self.client_id = uuid.uuid4().hex
        self.patience = patience
        self.headers = dict(headers or {})

    def get(self, path: str) -> Any:
        """The JSON answer of this route."""
        with self._reading(path):
            return json.loads(self._ask(path))

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """An answer that does not read as ComfyUI's is none."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise ServerLost(self.url, f"{path} is not what a ComfyUI answers") from None

    def _file(self, path: str, name: str) -> bytes:
        content = self._send(path)
        if content[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise ServerLost(self.url, "a web page came in place of a file")
        if not content.startswith(_BEGINNINGS.get(PurePosixPath(name).suffix.lower(), b"")):
            raise ServerLost(self.url, f"what came for {name} is not a file of that kind")
        return content

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """For what a server in order never refuses."""
        try:
            return self._send(path, body)
        except PromptError as error:
            raise ServerLost(self.url, error) from None

    def _send(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        if body is None:
            return self._exchange(urllib.request.Request(self.url + path))
        return self._post(path, json.dumps(body).encode(), "application/json")

    def _post(self, path: str, content: bytes, kind: str) -> bytes:
        headers = {"Content-Type": kind}
        return self._exchange(urllib.request.Request(self.url + path, content, headers))

    def _exchange(self, request: urllib.request.Request) -> bytes:
        for name, value in self.headers.items():
            request.add_unredirected_header(name, value)
        try:
            with _DIRECT.open(request, timeout=self.patience) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code in _GATEWAY_ERRORS:
                raise ServerLost(self.url, error) from None
            details = _details(error)
            raise PromptError(_refusal(details), details) from None
        except urllib.error.URLError as error:
            raise ServerLost(self.url, error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerLost(self.url, error) from error

    def arguments(self) -> list[str]:
        """The command line that the server was started with."""
        with self._reading("/system_stats"):
            return list(self.get("/system_stats")["system"]["argv"])

    def object_info(self) -> dict[str, Any]:
        """The schema of every registered node."""
        with self._reading("/object_info"):
            info = self.get("/object_info")
            return {name: node for name, node in info.items() if "input" in node}

    def concept_words(self, name: str) -> list[str] | None:
        """The words of a concept on this server, "V", "P1", "B1"...; None where it cannot tell."""
        try:
            return [str(word) for word in json.loads(self._send(f"{concept_route(name)}/words"))]
        except (PromptError, TypeError, ValueError):
            return None

    def queue(
        self,
        prompt: dict[str, Any],
        workflow: dict[str, Any] | None = None,
        prompt_id: str | None = None,
    ) -> str:
        """Put an API prompt in the queue -> its id, `prompt_id` (a UUID) where one is given.

        The workflow goes into the pictures' metadata. Raises PromptError with the reason for each
        node where the server finds any of it invalid; then nothing is left in the queue.
        """
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id}
        if prompt_id is not None:
            body["prompt_id"] = prompt_id
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        with self._reading("/prompt"):
            answer = json.loads(self._send("/prompt", body))
            queued_as, errors = answer["prompt_id"], answer.get("node_errors")
        if errors:  # it would render the other outputs without these
            self.cancel(queued_as)
            raise PromptError(_refusal(answer), answer)
        return queued_as

    def queued(self) -> set[str]:
        """The ids of the prompts that run or wait."""
        with self._reading("/queue"):
            state = self.get("/queue")
            return {item[1] for item in state["queue_running"] + state["queue_pending"]}

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What the server keeps of a finished prompt: outputs, status; empty before its end."""
        with self._reading("/history"):
            return dict(self.get(f"/history/{prompt_id}").get(prompt_id, {}))

    def image(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a file that a node has saved; call as `image(**entry)`.

        type: "output", "temp" or "input", or "detex" for a concept.
        """
        if type == CONCEPT:
            return self._file(concept_route(filename), filename)
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self._file(f"/view?{query}", filename)

    def has(self, folder: str, name: str) -> bool:
        """Whether the file is in the server's input folder or, for "detex", among its concepts."""
        try:
            self._exchange(urllib.request.Request(self.url + _route(folder, name), method="HEAD"))
        except PromptError:
            return False
        return True

    def upload(self, folder: str, name: str, content: bytes) -> None:
        """Put a file into the server's input folder or, for "detex", among its concepts.

        name: with "/" for a folder in it. Raises PromptError where the server refuses it.
        """
        if folder == CONCEPT:
            self._post(concept_route(name), content, "application/octet-stream")
            return
        subfolder, _, file = name.rpartition("/")
        border = uuid.uuid4().hex
        fields = {"type": folder, "subfolder": subfolder, "overwrite": "true"}
        head = "".join(_field(border, f'name="{key}"', value) for key, value in fields.items())
        head += _field(border, f'name="image"; filename="{file}"', "")[:-2]
        body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
        self._post("/upload/image", body, f"multipart/form-data; boundary={border}")

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Cancel what is running now; with an id, only where that prompt is."""
        self._ask("/interrupt", {} if prompt_id is None else {"prompt_id": prompt_id})

    def cancel(self, prompt_id: str) -> None:
        """Take this prompt out of the queue, or interrupt it where it runs."""
        self._ask("/queue", {"delete": [prompt_id]})
        self.interrupt(prompt_id)


def concept_route(name: str) -> str:
    """The pack's own route: GET brings a concept file, POST takes one."""
    return f"/detex/concepts/{urllib.parse.quote(name)}"


def _route(folder: str, name: str) -> str:
    subfolder, _, file = name.rpartition("/")
    query = {"filename": file, "subfolder": subfolder, "type": folder}
    return concept_route(name) if folder == CONCEPT else f"/view?{urllib.parse.urlencode(query)}"


def _field(border: str, disposition: str, value: str) -> str:
    return f"--{border}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n"


def server_url(text: str) -> str:
    """ "gpu-1:8188" -> "http://gpu-1:8188". Raises ValueError for what is not an address."""
    url = (text if "://" in text else f"http://{text}").strip().rstrip("/")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f'"{text}" is not the address of a server. Give it as the browser shows it, for '
            "example http://127.0.0.1:8188."
        )
    return url


def failure(entry: dict[str, Any]) -> PromptError:
    """The error that the history entry of a failed prompt tells of."""
    messages = dict((entry.get("status") or {}).get("messages") or [])
    if "execution_error" in messages:
        data = messages["execution_error"]
        where = f"node {data.get('node_id')} ({data.get('node_type')})"
        text = f"{where}: {data.get('exception_type')}: {data.get('exception_message')}"
        return PromptError(text.strip(), data)
    data = messages.get("execution_interrupted", {})
    return PromptError(f"The run was interrupted at node {data.get('node_id')}.", data)


def _refusal(details: dict[str, Any]) -> str:
    """Why the server did not accept a prompt, one line per fault."""
    error = details.get("error") or {"message": "some of its nodes are invalid"}
    told = error if isinstance(error, dict) else {"message": error}
    lines = [f"ComfyUI refused: {told.get('message')} {told.get('details', '')}".strip()]
    for node_id, node in (details.get("node_errors") or {}).items():
        for fault in node["errors"]:
            where = f"node {node_id} ({node.get('class_type')})"
            lines.append(f"  {where}: {fault['message']}: {fault.get('details', '')}")
    return "\n".join(lines)


def _details(answer: urllib.error.HTTPError) -> dict[str, Any]:
    """The server's JSON, or what it says instead."""
    try:
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        text = str(error)
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        return {"error": {"message": f"{answer.url}: {answer}", "details": text[:200]}}
