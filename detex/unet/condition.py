"""What a UNet is told beside the noisy latents."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """The prompts of B pictures as features and, for Stable Diffusion XL, what it asks besides."""

    context: Tensor  # [B, T, C] features of the tokens
    pooled: Tensor  # [B, D] of the whole prompt; D is 0 where the UNet takes none
    size_ids: Tensor | None = None  # [B, 6] as `whole_picture` has them; None: of the latents' size
    codes: Tensor | None = None  # [B, r] of the individuals that are shown; see `unet.coded`

    def __len__(self) -> int:
        return len(self.context)

    def rows(self, index: slice) -> "Condition":
        """Those of some of the pictures."""
        size_ids = None if self.size_ids is None else self.size_ids[index]
        codes = None if self.codes is None else self.codes[index]
        return Condition(self.context[index], self.pooled[index], size_ids, codes)

    def expand(self, count: int) -> "Condition":
        """One prompt for `count` pictures."""
        codes = None if self.codes is None else self.codes.expand(count, -1)
        return Condition(
            self.context.expand(count, -1, -1), self.pooled.expand(count, -1), codes=codes
        )


def joined(*conditions: Condition) -> Condition:
    """Conditions without size ids, one after another; all of them have codes, or none."""
    codes = [condition.codes for condition in conditions if condition.codes is not None]
    return Condition(
        torch.cat([condition.context for condition in conditions]),
        torch.cat([condition.pooled for condition in conditions]),
        codes=torch.cat(codes) if codes else None,
    )


def whole_picture(count: int, height: int, width: int) -> Tensor:
    """[count, 6] pixels: height and width of the photo, top and left of the part that is shown,
    height and width of the picture (SDXL, arXiv 2307.01952, section 2.2); here nothing is cut off.
    """
    return torch.tensor([[height, width, 0, 0, height, width]]).expand(count, -1)
