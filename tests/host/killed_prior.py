"""Makes prior images with the tests' small models until it is killed; argument: output folder."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from devtools.pack_host import enter_host

enter_host(cpu=True)

import folder_paths
import tiny
import torch

from detex_pack.detex.host.prior import PriorConfig, prior_pictures

if __name__ == "__main__":
    folder_paths.set_output_directory(sys.argv[1])
    models = tiny.tiny_model(), tiny.tiny_clip(), tiny.tiny_vae()
    config = PriorConfig(prompt="photo of a ball", resolution=64, steps=2)
    with torch.inference_mode():
        prior_pictures(*models, config, 1000, 2, lambda *_: None)
