"""Make ComfyUI importable, and this pack importable the way ComfyUI imports it."""

import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
HOST_VERSION = "0.30.0"
PACK = "detex_pack"  # like ComfyUI: a package whose name is not its folder's


def is_host(folder: Path) -> bool:
    """Whether this folder holds a ComfyUI."""
    return (folder / "comfy" / "model_patcher.py").is_file()


def host_folder() -> Path:
    """The ComfyUI to use: COMFYUI_PATH, else the one this pack sits in, else the downloaded one.

    Raises FileNotFoundError where none of them holds a ComfyUI.
    """
    given = os.environ.get("COMFYUI_PATH")
    downloaded = ROOT / ".host" / f"ComfyUI-{HOST_VERSION}"
    candidates = [Path(given).expanduser()] if given else [ROOT.parents[1], downloaded]
    for folder in candidates:
        if is_host(folder):
            return folder.resolve()
    raise FileNotFoundError(
        f"No ComfyUI in {' or '.join(map(str, candidates))}. Run `python dev.py test` once to "
        "fetch one, or set COMFYUI_PATH to a ComfyUI folder."
    )


def register_pack() -> None:
    """Register this folder as the package `detex_pack`; ComfyUI is not needed for that."""
    if PACK not in sys.modules:
        pack = ModuleType(PACK)
        pack.__path__ = [str(ROOT)]
        sys.modules[PACK] = pack


def enter_host(*, cpu: bool | None = None) -> Path:
    """Put ComfyUI on sys.path and register this folder as the package `detex_pack`.

    The pack's own folder leaves sys.path: there, `nodes/` would shadow ComfyUI's nodes.py.
    ComfyUI is told to use the CPU (by default: where there is no CUDA) before anything of it is
    imported. A second call changes nothing.
    """
    folder = host_folder()
    if "comfy.cli_args" in sys.modules:
        return folder
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, folder)]
    sys.path.insert(0, str(folder))
    register_pack()

    import torch  # after the path is right
    import utils.extra_config  # noqa: F401  (as main.py: old nodes.py would put comfy/utils.py first)
    from comfy.cli_args import args  # must precede every other import of comfy

    args.cpu = not torch.cuda.is_available() if cpu is None else cpu
    return folder
