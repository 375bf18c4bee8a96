"""What the pack's claims rest on: two experiments, and the batch under load.

disentangle   do the words disentangle? docs/science.md, in the embedded little world
speed         seconds and memory, docs/performance.md
batch_*       killed servers, long runs and thousands of rows (docs/batch_rendering.md)
"""

from devtools.pack_host import enter_host

enter_host()
