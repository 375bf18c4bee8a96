"""Run a command until it ends, or until whoever started it is gone, however that came.

`python guard.py COMMAND...`: its standard input is a pipe that the starter holds open; when the
starter dies the system closes it, and the command is killed. So no server outlives its actor and
keeps the card.
"""

import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def watch() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
