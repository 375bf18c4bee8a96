"""A headless ComfyUI of our own, on one card: started, watched, and started again when it dies."""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .client import ServerLost
from .needs import Needs
from .server import Ending, Server, Welcome

START_WITHIN = 600.0  # s, for a node with many packs on a slow disk
LOG_LINES = 15  # of a server that did not start
PORTS = 3  # that are tried: each was free, but another program may be faster to take it


class Comfy(NamedTuple):
    """How to start it. folder: where main.py is; logs: where each card writes its own."""

    folder: Path
    arguments: Sequence[str] = ()
    logs: Path | None = None


class CardServer(Server):
    """A server that lives as long as its process: its port is a free one, its output folder its
    own, so that cards do not take each other's file names.
    """

    def __init__(self, name: str, comfy: Comfy, patience: float):
        super().__init__("127.0.0.1", patience)
        self.name, self.comfy = name, comfy
        self._work = tempfile.TemporaryDirectory(prefix="detex-card-", ignore_cleanup_errors=True)
        self._output = str(Path(self._work.name) / "output")  # no other ComfyUI is told this
        folder = comfy.logs or Path(tempfile.gettempdir()) / "detex-batch"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name.replace(' ', '_')}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def object_info(self) -> dict[str, Any]:
        self._start()
        return super().object_info()

    def enter(self, needs: Needs, noted: Collection[str], patient: bool) -> Welcome | Ending:  # noqa: FBT001
        try:
            self._start()
        except ServerLost as error:
            return Welcome((str(error),))
        return super().enter(needs, noted, patient)

    def _start(self) -> None:
        """Start ComfyUI, unless it answers. Raises ServerLost with the end of its log."""
        with self._starting:
            if self._process and self._answers():
                return
            if not (self.comfy.folder / "main.py").is_file():
                where = f"{self.comfy.folder} of {socket.gethostname()}"
                raise ServerLost(self.name, f"there is no ComfyUI in {where}; see --comfyui")
            ports = [_free_port() for _ in range(PORTS)]
            if not any(self._starts_at(port) for port in ports):
                taken = ", ".join(map(str, ports))
                raise ServerLost(self.name, f"other programs took the ports {taken} before ComfyUI")

    def _starts_at(self, port: int) -> bool:
        """Start ComfyUI at this port; False where the port was taken meanwhile."""
        self._kill()
        self.client.url = f"http://127.0.0.1:{port}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(port), stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        end = time.monotonic() + START_WITHIN
        while not self._answers():
            if self._process.poll() is not None:
                if not _is_free(port):
                    return False
                lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
                tail = "\n".join(lines[-LOG_LINES:])
                raise ServerLost(self.name, f"ComfyUI did not start; {self.log} ends:\n{tail}")
            if self._closed.wait(0.5) or time.monotonic() > end:
                raise ServerLost(self.name, f"ComfyUI did not start in {START_WITHIN:.0f} s")
        return True

    def _command(self, port: int) -> list[str]:
        work = Path(self._work.name)
        guard = [sys.executable, str(Path(__file__).with_name("guard.py"))]
        comfy = [sys.executable, "-u", str(self.comfy.folder / "main.py"), "--port", str(port)]
        own = ["--output-directory", self._output, "--temp-directory", str(work)]
        own += ["--database-url", f"sqlite:///{(work / 'comfyui.db').as_posix()}"]
        return [*guard, *comfy, "--disable-auto-launch", *own, *self.comfy.arguments]

    def _answers(self) -> bool:
        """Whether it is ours that answers, not a ComfyUI that took the port before it."""
        try:
            return self._output in self.client.arguments()
        except ServerLost:
            return False

    def _kill(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()  # the guard kills it
            self._process.wait()
        self._process = None

    def close(self, prompt_ids: Collection[str]) -> None:  # noqa: ARG002
        """End ComfyUI, and what it was asked for with it."""
        self._closed.set()
        self._kill()
        self._work.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
