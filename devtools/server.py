"""Start a real ComfyUI with this pack in it, and talk to it as its page does."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp

from .api_prompt import to_api_prompt
from .host_process import (
    end_process_tree,
    free_port,
    host_command,
    own_group,
    prepare_base,
    unlink_pack,
)

__all__ = ["ComfyServer", "PromptError", "to_api_prompt"]

OnProgress = Callable[[str, int, int], None]  # node id, steps done, steps in all
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is local


class PromptError(RuntimeError):
    """The server refused a prompt or a node failed. `details` holds the server's own JSON."""

    def __init__(self, message: str, details: dict[str, Any]):
        super().__init__(message)
        self.details = details


class ComfyServer:
    """A ComfyUI server that lives as long as the `with` block.

    base: folder for models, input, output and custom_nodes; a temporary one by default.
    port: a free one by default. cpu: by default where there is no CUDA.
    """

    def __init__(
        self,
        base: Path | None = None,
        *,
        port: int | None = None,
        cpu: bool | None = None,
        arguments: Iterable[str] = (),
        timeout: float = 240.0,  # seconds until the server must answer
    ):
        self.temporary = base is None
        self.base = Path(base or tempfile.mkdtemp(prefix="detex-server-")).resolve()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client_id = uuid.uuid4().hex
        self.log = self.base / "server.log"
        self._cpu = cpu
        self._arguments = list(arguments)
        self._timeout = timeout
        self._process: subprocess.Popen[Any] | None = None

    def __enter__(self) -> "ComfyServer":
        prepare_base(self.base)
        arguments = ["--disable-auto-launch", *self._arguments]
        command = host_command(self.base, self.port, arguments, cpu=self._cpu)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.base,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **own_group(),
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and remove the base folder if it is a temporary one; never the pack it links to."""
        self.stop()
        if self.temporary:
            unlink_pack(self.base)
            shutil.rmtree(self.base, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self._timeout
        while time.monotonic() < end:
            if not self.is_running():
                raise RuntimeError(
                    f"ComfyUI stopped while starting. Its log ends with:\n{self._tail()}"
                )
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return
        raise TimeoutError(
            f"ComfyUI did not answer within {self._timeout:.0f} s. "
            f"Its log ends with:\n{self._tail()}"
        )

    @property
    def pid(self) -> int:
        """The server's process id. Raises RuntimeError where it is not running."""
        if self._process is None:
            raise RuntimeError("The server is not running; use it inside its `with` block.")
        return self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server and every process that it started."""
        if self._process is None:
            return
        end_process_tree(self._process)
        self._process = None

    def log_text(self) -> str:
        """All that the server has written so far, without its colours."""
        if not self.log.exists():
            return ""
        return re.sub(r"\x1b\[\d*m", "", self.log.read_text(encoding="utf-8", errors="replace"))

    def _tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    # What the page asks of the server

    def get(self, path: str) -> Any:
        """The JSON answer of this route."""
        return json.loads(self._send(path))

    def _send(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with _DIRECT.open(request, timeout=60) as answer:
            return answer.read()

    def object_info(self) -> dict[str, Any]:
        """The schema of every registered node."""
        return self.get("/object_info")

    def queue(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Put an API prompt in the queue -> its id. The workflow goes into the pictures' metadata.

        Raises PromptError with the reason for each node where the server finds it invalid.
        """
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return json.loads(self._send("/prompt", body))["prompt_id"]
        except urllib.error.HTTPError as error:
            details = _json_or_text(error.read())
            raise PromptError(_refusal(details), details) from None

    def follow(
        self, prompt_id: str, on_progress: OnProgress | None = None, timeout: float = 3600.0
    ) -> dict[str, Any]:
        """Wait for the prompt's end -> its history entry.

        Raises PromptError where a node fails or the run is interrupted, TimeoutError after
        `timeout` seconds.
        """
        try:
            asyncio.run(asyncio.wait_for(self._follow(prompt_id, on_progress), timeout))
        except asyncio.TimeoutError:
            raise TimeoutError(f"Prompt {prompt_id} did not end within {timeout:.0f} s.") from None
        return self.history(prompt_id)

    async def _follow(self, prompt_id: str, on_progress: OnProgress | None) -> None:
        address = f"{self.url}/ws?clientId={self.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as line:
            while not self._ended(prompt_id):
                await self._listen(line, prompt_id, on_progress)

    async def _listen(
        self,
        line: aiohttp.ClientWebSocketResponse,
        prompt_id: str,
        on_progress: OnProgress | None,
    ) -> None:
        """Pass progress on until the server falls idle or is silent for two seconds."""
        while True:
            try:
                message = await line.receive(timeout=2.0)
            except asyncio.TimeoutError:
                return  # the end may have come before we listened
            if message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                _report(event, prompt_id, on_progress)
                if event.get("type") == "executing" and event["data"].get("node") is None:
                    return
            elif message.type != aiohttp.WSMsgType.BINARY:
                raise RuntimeError(f"ComfyUI closed the line. Its log ends with:\n{self._tail()}")

    def _ended(self, prompt_id: str) -> bool:
        """Whether the history has this prompt; raises PromptError where it failed."""
        entry = self.history(prompt_id)
        status = entry.get("status") or {}
        if status.get("status_str") == "error":
            raise _failure(dict(status.get("messages") or []))
        return bool(entry)

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What the server keeps of a finished prompt: outputs, status; empty before its end."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def run(
        self, prompt: dict[str, Any], on_progress: OnProgress | None = None, timeout: float = 3600.0
    ) -> dict[str, Any]:
        """Queue and follow -> the history entry."""
        return self.follow(self.queue(prompt), on_progress, timeout)

    def image(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a picture that a node has saved; call as `image(**entry)`."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self._send(f"/view?{query}")

    def interrupt(self) -> None:
        """Cancel what is running now."""
        self._send("/interrupt", {})


def _report(message: dict[str, Any], prompt_id: str, on_progress: OnProgress | None) -> None:
    """Pass a progress message of this prompt on."""
    data = message.get("data") or {}
    if on_progress is None or message.get("type") != "progress":
        return
    if data.get("prompt_id") in (prompt_id, None):
        on_progress(str(data.get("node")), int(data["value"]), int(data["max"]))


def _refusal(details: dict[str, Any]) -> str:
    """Why the server did not accept a prompt, one line per fault."""
    error = details.get("error") or {}
    lines = [
        f"ComfyUI refused the prompt: {error.get('message', error)} {error.get('details', '')}"
    ]
    for node_id, node in (details.get("node_errors") or {}).items():
        for fault in node["errors"]:
            where = f"node {node_id} ({node.get('class_type')})"
            lines.append(f"  {where}: {fault['message']}: {fault.get('details', '')}")
    return "\n".join(lines)


def _failure(messages: dict[str, dict[str, Any]]) -> PromptError:
    """The error that the history of a failed prompt tells of."""
    if "execution_error" in messages:
        data = messages["execution_error"]
        where = f"node {data.get('node_id')} ({data.get('node_type')})"
        text = f"{where}: {data.get('exception_type')}: {data.get('exception_message')}"
        return PromptError(text, data)
    data = messages.get("execution_interrupted", {})
    return PromptError(f"The run was interrupted at node {data.get('node_id')}.", data)


def _json_or_text(body: bytes) -> dict[str, Any]:
    try:
        return json.loads(body)
    except ValueError:
        return {"error": {"message": body.decode(errors="replace")}}
