"""What DETEX and Custom Diffusion train of the UNet: additions to K and V of cross-attention."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class KVDeltas(nn.Module):
    """One float32 matrix [out, in] for each attn2.to_k and to_v, zero at the start.

    W = W0 + delta is never formed in training: a layer answers W0 c + delta c (bypass form), so a
    step of 1e-5 is not lost in a half-precision weight. 19,169,280 parameters for SD 1.x.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], device: str = "cpu"):
        super().__init__()
        self.names = tuple(shapes)
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes.values()
        )

    def named(self) -> dict[str, nn.Parameter]:
        return dict(zip(self.names, self.matrices, strict=True))

    def export(self) -> dict[str, Tensor]:
        """The deltas on the CPU, detached and contiguous, for the concept file."""
        return {name: p.detach().cpu().contiguous().clone() for name, p in self.named().items()}


def add_delta(output: Tensor, cond: Tensor, delta: Tensor, *, detach_start_token: bool) -> Tensor:
    """K or V with its delta: output [B, T, out] = W0 cond, cond [B, T, in], delta [out, in].

    Custom Diffusion detaches the start token: its feature is the same for every prompt, the empty
    one too, so a gradient through it would move all prompts at once.
    """
    output = output + nn.functional.linear(cond.to(delta.dtype), delta).to(output.dtype)
    if detach_start_token:
        output = torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
    return output
