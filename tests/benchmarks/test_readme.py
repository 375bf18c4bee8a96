"""README's table is that of the cells in git."""

from detex_pack.benchmarks.tables import readme_table
from devtools.machine import ROOT


def test_readme_tells_what_the_cells_say():
    """After a change: `python -m benchmarks.disentangle --report` prints the table."""
    assert readme_table() in (ROOT / "README.md").read_text(encoding="utf-8")
