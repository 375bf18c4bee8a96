"""Where the time of a training step goes, by kind of operation."""

from __future__ import annotations

import argparse
from collections import defaultdict

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .measure import Keep, device
from .runs import open_run, real_inputs

OPTIONS = {"checkpoint": None, "pixels": 256, "photos": 1, "steps": 3}
KINDS = (  # the first whose word is in the operation's name
    ("convolution", ("conv",)),
    ("attention without maps", ("attention",)),
    ("optimiser", ("adam", "foreach", "lerp", "addcdiv", "addcmul", "linalg_vector_norm")),
    ("normalisation", ("group_norm", "layer_norm")),
    ("softmax of the maps", ("softmax",)),
    ("matrix products", ("::mm", "::bmm", "addmm", "::linear", "matmul")),
    ("activations", ("silu", "gelu", "sigmoid")),
    ("copies", ("copy", "::cat", "clone", "contiguous", "fill_", "zero", "empty")),
)
OTHER = "the rest"


def measure(options: argparse.Namespace, keep: Keep) -> None:
    """Each kind's share of the time that operations take, of warmed steps."""
    on_card = device().type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    spent: dict[str, float] = defaultdict(float)
    with open_run(*real_inputs(options)) as (run, _):
        run.take_step()
        with profile(activities=activities) as seen:
            for _ in range(options.steps):
                run.take_step()
    for event in seen.key_averages():
        if event.device_type == DeviceType.CPU:  # operations; kernels are theirs
            own = event.self_device_time_total if on_card else event.self_cpu_time_total
            spent[kind_of(event.key)] += own
    whole = sum(spent.values())
    if not whole:
        raise RuntimeError("The profiler saw nothing: install a torch with CUPTI.")
    order = sorted(spent, key=lambda kind: (kind == OTHER, -spent[kind]))
    keep({"shares": {kind: round(spent[kind] / whole, 4) for kind in order}})


def kind_of(name: str) -> str:
    """The kind of an operation as torch names it, such as aten::addmm."""
    return next((kind for kind, words in KINDS if any(w in name for w in words)), OTHER)
