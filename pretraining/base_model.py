"""Trains a base model of a world, stage by stage; long stages resume.

On two CPU cores, one process per core; on a GPU, plain `python -m` in their place:

    torchrun --nproc-per-node 2 -m pretraining.base_model vae --minutes 14
    python -m pretraining.base_model latents
    torchrun --nproc-per-node 2 -m pretraining.base_model denoiser --minutes 90
    python -m pretraining.base_model vision --minutes 5
    python -m pretraining.base_model export

`decoder` goes on with the VAE but leaves its latents as they are cached, beside the denoiser.
`--world` is toyland or toys. In a fresh clone, `unpack` makes checkpoints of stored weights
(`--weights`; the committed ones of the old world by default); go on with `latents`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from comfy.cli_args import args as host_arguments

host_arguments.use_pytorch_cross_attention = True  # read when the host's attention is imported

from detex_pack.detex.host.demo_model import DEMO_MODEL_PATH

from . import denoiser, export, vae, vision
from .worlds import WORLDS, Run

_STAGES = {
    "vae": lambda run, a: vae.train(run, a.minutes, a.steps, a.peak or vae.PEAK),
    "decoder": lambda run, a: vae.train(
        run, a.minutes, a.steps, a.peak or vae.PEAK, frozen=vae.ENCODER
    ),
    "latents": lambda run, a: denoiser.cache_latents(run, a.pictures),
    "denoiser": lambda run, a: denoiser.train(run, a.minutes, a.steps, a.peak or denoiser.PEAK),
    "vision": lambda run, a: vision.train(run, a.minutes, a.steps),
    "export": lambda run, a: export.export(run, a.weights or run.file("base_model.safetensors")),
    "unpack": lambda run, a: export.unpack(run, a.weights or DEMO_MODEL_PATH),
}


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=_STAGES)
    parser.add_argument("--world", choices=WORLDS, default="toyland")
    parser.add_argument("--folder", type=Path, help="of checkpoints; runs/WORLD by default")
    parser.add_argument(
        "--weights", type=Path, help="to export (runs/WORLD's) or unpack (the shipped ones)"
    )
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--peak", type=float, default=0, help="learning rate; 0: the stage's own")
    parser.add_argument("--pictures", type=int, default=36_000, help="latents to cache")
    parser.add_argument("--threads", type=int, default=0, help="0: let PyTorch choose")
    arguments = parser.parse_args()
    if arguments.peak and arguments.stage not in ("vae", "decoder", "denoiser"):
        parser.error(f"--peak is for vae, decoder and denoiser; {arguments.stage} has its own rate")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    _STAGES[arguments.stage](Run.of(arguments.world, arguments.folder), arguments)


if __name__ == "__main__":
    main()
