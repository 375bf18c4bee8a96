"""Where the time of a training step goes, by kind of operation.

python -m benchmarks.profile --checkpoint sd15.safetensors
"""

from __future__ import annotations

from collections import defaultdict

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .contenders import DETEX, Setting, ours
from .machine import device, keep, real_size_parser

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


def kind_of(name: str) -> str:
    """The kind of an operation as torch names it, such as aten::addmm."""
    return next((kind for kind, words in KINDS if any(w in name for w in words)), OTHER)


def shares(setting: Setting, steps: int) -> dict[str, float]:
    """Each kind's share of the time that operations take, of warmed steps."""
    on_card = device().type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    spent: dict[str, float] = defaultdict(float)
    with ours(setting, DETEX) as (step, _):
        step()
        with profile(activities=activities) as seen:
            for _ in range(steps):
                step()
    for event in seen.key_averages():
        if event.device_type == DeviceType.CPU:  # operations; kernels are theirs
            own = event.self_device_time_total if on_card else event.self_cpu_time_total
            spent[kind_of(event.key)] += own
    whole = sum(spent.values())
    if not whole:
        raise RuntimeError("The profiler saw nothing: install a torch with CUPTI.")
    order = sorted(spent, key=lambda kind: (kind == OTHER, -spent[kind]))
    return {kind: round(spent[kind] / whole, 4) for kind in order}


def main() -> None:
    parser = real_size_parser(__doc__, "profile")
    parser.add_argument("--photos", type=int, default=1, help="and as many prior images")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    setting = Setting(str(options.checkpoint), options.pixels, options.photos)
    found = shares(setting, options.steps)
    report = {"pixels": options.pixels, "photos": options.photos, "steps": options.steps}
    keep(report | {"shares": found}, options.out)


if __name__ == "__main__":
    main()
