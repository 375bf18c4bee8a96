"""`python -m detex.batch`; everything is in command.py."""

import sys

from .command import heed_terminate, main

if __name__ == "__main__":
    heed_terminate()
    sys.exit(main())
