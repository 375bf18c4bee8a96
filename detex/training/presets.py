"""How much is drawn and trained: presets, from a quick look to the paper's amounts."""

from typing import NamedTuple


class Preset(NamedTuple):
    """Amounts of one training."""

    steps: int  # of the optimiser
    prior_images: int  # pictures of the class
    sampling_steps: int  # of each prior and place picture


PRESETS = {
    "fast": Preset(steps=300, prior_images=50, sampling_steps=20),
    "balanced": Preset(steps=600, prior_images=100, sampling_steps=30),
    "paper": Preset(steps=600, prior_images=200, sampling_steps=50),  # DETEX, section 4.1
}
