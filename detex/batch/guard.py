"""Run a command until it ends, or until whoever started it is gone, however that came.

`python guard.py COMMAND...`: its standard input is a pipe that the starter holds open; when the
starter dies the system closes it, and the command is killed. So no server outlives its actor and
keeps the card. Ray may kill the guard itself, with the other children of a worker: where the system
is Linux, the command is killed then, too.
"""

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent dies


def dying_with_parent() -> Callable[[], object] | None:
    """What a new process does first, so that it is killed when its parent dies; Linux alone."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(command: list[str]) -> int:
    first = dying_with_parent()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=first)  # noqa: PLW1509

    def watch() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
