"""Start a real ComfyUI with this pack in it, and talk to it as its page does."""

import asyncio
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from detex_pack.detex.batch.api_prompt import to_api_prompt
from detex_pack.detex.batch.client import Client, PromptError, ServerLost, failure

from .host_process import (
    end_process_tree,
    free_port,
    host_command,
    own_group,
    prepare_base,
    unlink_pack,
)

__all__ = ["ComfyServer", "PromptError", "to_api_prompt"]

START_WITHIN = 240.0  # seconds until the server must answer

OnProgress = Callable[[int, int], None]  # steps done, steps in all


class ComfyServer(Client):
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
    ):
        self.temporary = base is None
        self.base = Path(base or tempfile.mkdtemp(prefix="detex-server-")).resolve()
        self.port = port or free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.log = self.base / "server.log"
        self._cpu = cpu
        self._arguments = list(arguments)
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
        end = time.monotonic() + START_WITHIN
        while self.is_running():
            with suppress(ServerLost):
                self.get("/system_stats")
                return
            if time.monotonic() > end:
                raise TimeoutError(
                    f"ComfyUI did not answer within {START_WITHIN:.0f} s. "
                    f"Its log ends with:\n{self._tail()}"
                )
            time.sleep(0.2)
        raise RuntimeError(f"ComfyUI stopped while starting. Its log ends with:\n{self._tail()}")

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
        if self._process is not None:
            end_process_tree(self._process)
            self._process = None

    def log_text(self) -> str:
        """All that the server has written so far, without its colours."""
        if not self.log.exists():
            return ""
        return re.sub(r"\x1b\[\d*m", "", self.log.read_text(encoding="utf-8", errors="replace"))

    def _tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def run(
        self, prompt: dict[str, Any], on_progress: OnProgress | None = None, timeout: float = 3600.0
    ) -> dict[str, Any]:
        """Queue the prompt and wait for its end -> its history entry.

        Raises PromptError where a node fails or the run is interrupted, TimeoutError after
        `timeout` seconds.
        """
        prompt_id = self.queue(prompt)
        try:
            asyncio.run(asyncio.wait_for(self._follow(prompt_id, on_progress), timeout))
        except asyncio.TimeoutError:
            raise TimeoutError(f"Prompt {prompt_id} did not end within {timeout:.0f} s.") from None
        entry = self.history(prompt_id)
        if entry.get("status", {}).get("status_str") == "error":
            raise failure(entry)
        return entry

    def pictures(
        self, prompt: dict[str, Any], on_progress: OnProgress | None = None
    ) -> dict[str, list[Image.Image]]:
        """Run it -> the pictures of every node that shows some, by its title or else its number."""
        found = self.shown(self.run(prompt, on_progress)["outputs"])
        return {
            prompt[number].get("_meta", {"title": number})["title"]: pictures
            for number, pictures in found.items()
        }

    def shown(self, outputs: dict[str, Any]) -> dict[str, list[Image.Image]]:
        """The pictures in a history entry's outputs, by the number of the node."""
        return {
            number: [
                Image.open(io.BytesIO(self.image(**entry))).convert("RGB")
                for entry in output["images"]
            ]
            for number, output in outputs.items()
            if output.get("images")
        }

    async def _follow(self, prompt_id: str, on_progress: OnProgress | None) -> None:
        """Pass progress on until the history has this prompt."""
        address = f"{self.url}/ws?clientId={self.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as line:
            while not self.history(prompt_id):
                try:
                    message = await line.receive(timeout=1.0)
                except asyncio.TimeoutError:
                    continue  # the end may have come before we listened
                if message.type == aiohttp.WSMsgType.TEXT:
                    event = json.loads(message.data)
                    if on_progress and event["type"] == "progress":
                        on_progress(int(event["data"]["value"]), int(event["data"]["max"]))
                elif message.type != aiohttp.WSMsgType.BINARY:
                    raise RuntimeError(
                        f"ComfyUI closed the line. Its log ends with:\n{self._tail()}"
                    )
