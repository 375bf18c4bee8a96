"""The folder that a ComfyUI server works in, and the end of its processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .pack_host import ROOT, host_folder

PACK_FOLDER = "ComfyUI-DETEX"
FOLDERS = ("custom_nodes", "models", "input", "output", "user/default")
PAGE_SETTINGS = {"Comfy.TutorialCompleted": True}  # else the page opens its template gallery


def prepare_base(base: Path) -> Path:
    """Make the folders that ComfyUI expects, with this pack linked into custom_nodes.

    Returns the link. What is already there stays.
    """
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    settings = base / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        settings.write_text(json.dumps(PAGE_SETTINGS), encoding="utf-8")
    link = base / "custom_nodes" / PACK_FOLDER
    if not link.exists():
        unlink_pack(base)  # a link whose target has moved
        link_folder(ROOT, link)
    return link


def link_folder(target: Path, link: Path) -> None:
    """Make `link` stand for the folder `target`; a junction on Windows, which needs no rights."""
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def unlink_pack(base: Path) -> None:
    """Remove the link to the pack, never the pack."""
    link = base / "custom_nodes" / PACK_FOLDER
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(link) if sys.platform == "win32" else link.unlink()


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_cuda() -> bool:
    import torch  # takes seconds; who knows the answer need not wait

    return torch.cuda.is_available()


def host_command(
    base: Path, port: int, arguments: Iterable[str] = (), *, cpu: bool | None = None
) -> list[str]:
    """The command line of ComfyUI working in `base`; on the CPU by default where CUDA is not.

    COMFYUI_FRONTEND names the folder `static` of another comfyui-frontend-package.
    """
    database = (base / "user" / "comfyui.db").as_posix()
    command = [sys.executable, str(host_folder() / "main.py"), "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", f"sqlite:///{database}"]
    command += ["--disable-api-nodes", *arguments]
    if frontend := os.environ.get("COMFYUI_FRONTEND"):
        command += ["--front-end-root", frontend]
    on_cpu = not has_cuda() if cpu is None else cpu
    return [*command, "--cpu"] if on_cpu else command


def exit_on_terminate() -> None:
    """Make SIGTERM end this program as Ctrl-C does: its `with` blocks close what they opened."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def own_group() -> dict[str, Any]:
    """Arguments for Popen that let end_process_tree reach the children too."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def end_process_tree(process: "subprocess.Popen[Any]", patience: float = 10.0) -> None:
    """End this process (started with own_group) and its children; by force after `patience` s."""
    if sys.platform == "win32":
        command = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False)
        process.wait()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
