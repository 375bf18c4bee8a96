"""How the demo model came to be: docs/base_model.md."""

from devtools.pack_host import enter_host

enter_host()
