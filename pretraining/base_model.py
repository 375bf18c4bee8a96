"""Trains the embedded base model from nothing, stage by stage; long stages resume.

On two CPU cores, one process per core; on a GPU, plain `python -m` in their place:

    torchrun --nproc-per-node 2 -m pretraining.base_model vae --minutes 14
    python -m pretraining.base_model latents
    torchrun --nproc-per-node 2 -m pretraining.base_model denoiser --minutes 90
    python -m pretraining.base_model vision --minutes 5
    python -m pretraining.base_model export

In a fresh clone, `unpack` makes checkpoints of the committed weights; go on with `latents`.
"""

from __future__ import annotations

import argparse
import logging

from devtools.pack_host import enter_host

enter_host()

import torch  # noqa: E402
from comfy.cli_args import args as host_arguments  # noqa: E402

host_arguments.use_pytorch_cross_attention = True  # read when the host's attention is imported

from . import denoiser, export, vae, vision  # noqa: E402

_STAGES = {
    "vae": lambda a: vae.train(a.minutes, a.steps, a.peak or vae.PEAK),
    "latents": lambda a: denoiser.cache_latents(a.pictures),
    "denoiser": lambda a: denoiser.train(a.minutes, a.steps, a.peak or denoiser.PEAK),
    "vision": lambda a: vision.train(a.minutes, a.steps),
    "export": lambda _: export.export(),
    "unpack": lambda _: export.unpack(),
}


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=_STAGES)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--peak", type=float, default=0, help="learning rate; 0: the stage's own")
    parser.add_argument("--pictures", type=int, default=36_000, help="latents to cache")
    parser.add_argument("--threads", type=int, default=0, help="0: let PyTorch choose")
    arguments = parser.parse_args()
    if arguments.peak and arguments.stage not in ("vae", "denoiser"):
        parser.error(f"--peak is for vae and denoiser; {arguments.stage} has its own rate")
    level = logging.Formatter("%(asctime)s %(message)s")
    logging.basicConfig(level=logging.INFO, force=True)
    logging.getLogger().handlers[0].setFormatter(level)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    _STAGES[arguments.stage](arguments)


if __name__ == "__main__":
    main()
