"""The state of a training run as one .safetensors: what a run needs to go on as if never stopped.

Tensors: `learned.<name>.<key>`, `optimiser.<name>.<parameter>.<key>`, `generator.<name>` (uint8),
`average.<parameter>` where there is one, `history.<term>` [steps]. Scalars are JSON in the header.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..concept.file import all_tensors
from .loop import Run

FORMAT = "detex-run-2"


@dataclass(frozen=True)
class Snapshot:
    """What was read from a file."""

    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any]  # step, passes, scaler, terms, steady, scores

    def part(self, prefix: str) -> dict[str, Tensor]:
        """ "learned." -> the tensors of all that is learned, by the rest of their names."""
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}

    def apply(self, run: Run) -> None:
        """Put this state into a run of the same method, settings and photos.

        Raises ValueError, the run as it was, where the learned tensors are not of the same shapes.
        """
        self.check_fit(run)
        averages = self.part("average.")
        if run.average and averages.keys() != run.average.values.keys():
            raise ValueError(f"The snapshot of step {self.scalars['step']} has no average.")
        run.method.learned.load_state_dict(self.part("learned."))
        if run.average:
            run.average.load(averages)
        for name, optimiser in run.optimisers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in self.part(f"optimiser.{name}.").items():
                index, moment = key.split(".")
                moments.setdefault(int(index), {})[moment] = tensor
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": moments, "param_groups": groups})
        if self.scalars["scaler"]:
            run.scaler.load_state_dict(self.scalars["scaler"])
        for name, state in self.part("generator.").items():
            run.rngs[name].set_state(state)
        history, device = self.part("history."), run.denoiser.device
        run.history = {
            name: list(history[name].to(device).unbind()) for name in self.scalars["terms"]
        }
        run.step, run.passes = self.scalars["step"], self.scalars["passes"]
        run.steady = {int(step): loss for step, loss in self.scalars["steady"].items()}
        scores = self.scalars.get("scores", {})  # which earlier versions did not keep
        run.scores = {int(step): values for step, values in scores.items()}
        run.mark_between_steps()

    def check_fit(self, run: Run) -> None:
        found, wanted = self.part("learned."), run.method.learned.state_dict()
        for name in sorted(found.keys() | wanted.keys()):
            if name not in found or name not in wanted or found[name].shape != wanted[name].shape:
                raise ValueError(
                    f"The snapshot of step {self.scalars['step']} does not fit this training: "
                    f"{name} is missing there, new, or of another shape."
                )


def snapshot_bytes(run: Run) -> bytes:
    """The file's content; the run must stand between two steps."""
    tensors = {f"learned.{k}": tensor for k, tensor in run.method.learned.state_dict().items()}
    for name, optimiser in run.optimisers.items():
        for index, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{name}.{index}.{key}": t for key, t in moments.items()}
    averages = run.average.values if run.average else {}
    tensors |= {f"average.{name}": tensor for name, tensor in averages.items()}
    tensors |= {f"generator.{name}": rng.get_state() for name, rng in run.rngs.items()}
    tensors |= {f"history.{name}": torch.stack(terms) for name, terms in run.history.items()}
    scalars = {
        "step": run.step,
        "passes": run.passes,
        "scaler": run.scaler.state_dict(),
        "terms": list(run.history),  # in their order, which the file does not keep
        "steady": run.steady,
        "scores": run.scores,
    }
    on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return save(on_cpu, {"format": FORMAT, "scalars": json.dumps(scalars)})


def read_snapshot(path: Path) -> Snapshot:
    """Raises ValueError for a damaged file or one of another version of the pack."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = all_tensors(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} was written by another version of the pack.")
    return Snapshot(tensors, json.loads(metadata["scalars"]))
