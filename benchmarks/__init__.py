"""What the pack's claims rest on.

disentangle   do the words disentangle? docs/science.md, in the embedded little world
speed         seconds and memory, docs/performance.md
field_scores  which of the field's scores say what? docs/science/field_scores.md
real_photos   do they tell real subjects apart? docs/science/real_photos.md
batch         kills, soak, trainings, scale: docs/batch_rendering.md; protocol: docs/evaluation.md
"""

from devtools.pack_host import enter_host

enter_host()
