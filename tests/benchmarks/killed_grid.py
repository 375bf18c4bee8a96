"""A grid of quick cells with long files, for a process of its own, to be killed at any moment.

python tests/benchmarks/killed_grid.py          the grid
python tests/benchmarks/killed_grid.py worker   one of its workers
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":  # else the tests have done it
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from devtools.pack_host import enter_host

    enter_host(cpu=True)

from detex_pack.benchmarks.cells import Cell, store
from detex_pack.benchmarks.disentangle import absent, run_cells
from detex_pack.benchmarks.references import reported_identities

CELLS = [Cell("detex", reported_identities(1)[0], seed) for seed in range(24)]
RESULT = {"digits": list(range(150_000))}  # long enough to be killed while it is written


def work() -> None:
    by_name = {json.dumps(asdict(cell)): cell for cell in CELLS}
    for line in sys.stdin:
        time.sleep(0.05)
        store(by_name[line.strip()], RESULT)
        print(json.dumps({"seconds": {}}), flush=True)


def main() -> None:
    todo = absent(CELLS)
    print(len(todo), flush=True)
    for cell, answer in run_cells(todo, 2, [sys.executable, __file__, "worker"]):
        assert "error" not in answer, answer
        print(cell.seed, flush=True)


if __name__ == "__main__":
    work() if sys.argv[1:] else main()
