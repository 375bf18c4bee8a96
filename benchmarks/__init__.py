"""Do the words disentangle? The experiment behind docs/science.md, in the embedded little world."""

from devtools.pack_host import enter_host

enter_host()
