"""ComfyUI with this pack in it, for a browser: `python dev.py serve [--port N]`."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .host_process import host_command, prepare_base
from .pack_host import ROOT

BASE = ROOT / "runs" / "serve"


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py serve", description=__doc__)
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--base", type=Path, default=BASE, help="folder for models, input, output")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parser.parse_args()
    base = options.base.resolve()
    prepare_base(base)
    launch = "--auto-launch" if options.open else "--disable-auto-launch"
    command = host_command(base, options.port, [launch])
    print(f"ComfyUI with this pack: http://127.0.0.1:{options.port}  (Ctrl+C ends it)")
    print(f"Models, input and output: {base}", flush=True)
    if os.name != "nt":
        os.chdir(base)
        os.execv(command[0], command)  # so that a signal to end this ends ComfyUI
    try:
        return subprocess.call(command, cwd=base)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
