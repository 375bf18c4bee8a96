"""`python -m detex.evaluate`; everything is in command.py."""

import sys

from ..batch.command import heed_terminate
from .command import main

if __name__ == "__main__":
    heed_terminate()
    sys.exit(main())
