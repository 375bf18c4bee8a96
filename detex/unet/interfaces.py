"""All that the core asks of a host: a denoiser and a text encoder."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from torch import Tensor
from torch.amp import GradScaler

from ..prompt.grammar import PromptTokens
from .attention import AttentionTap
from .coded import RowCodes
from .condition import Condition
from .deltas import Layer, LayerDeltas
from .features import FeatureTap
from .schedules import Schedule

Tap: TypeAlias = AttentionTap | FeatureTap


class Denoiser(Protocol):
    """A frozen UNet on `device`, with trainable additions to its linear layers."""

    device: str
    schedule: Schedule
    layers: tuple[Layer, ...]  # of all attention, which may have deltas
    rank: int | None  # of deltas of K and V where the settings name none; None: full matrices
    gradient_checkpointing: bool  # compute again in the backward pass what is not kept: may be set
    codes: RowCodes  # those of the last condition

    def with_deltas(
        self, deltas: LayerDeltas, *, detach_start_token: bool
    ) -> AbstractContextManager[None]:
        """Add `deltas` to their layers for the time of the context; those that read text may detach
        the start token.
        """
        ...

    def predict(
        self, noisy: Tensor, timesteps: Tensor, cond: Condition, taps: Sequence[Tap] = ()
    ) -> Tensor:
        """UNet output, float32: [B, 4, h, w], [B], B conditions -> [B, 4, h, w]. The taps collect
        attention maps and features of their grids on the way. The codes of the condition stay in
        `codes` until the next call.
        """
        ...

    def grad_scaler(self) -> GradScaler:
        """Enabled where the device computes in float16, else a pass-through."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` says that the device is full."""
        ...

    def free_memory(self) -> None:
        """Where the device is full: give back what no tensor uses, and what training can spare."""
        ...


class TextEncoder(Protocol):
    """Frozen text towers that gradients pass through. A word's vector [C] is as wide as all of
    them together, one part after the other.
    """

    def tokenize(self, text: str) -> PromptTokens:
        """One 77-token prompt. Raises ValueError where it does not fit."""
        ...

    def encode(
        self, prompts: Sequence[PromptTokens], words: Sequence[Mapping[str, Tensor]]
    ) -> Condition:
        """B conditions, with words[i]["V"] and so on in their places in prompts[i]: a vector [C],
        or several [n, C] for a word that stands n times in a row.
        """
        ...

    def embedding_row(self, token_id: int) -> Tensor:
        """One row of the token table, float32 [C]."""
        ...

    def embedding_rms(self) -> Tensor:
        """[C] root mean square of the token table that each coordinate belongs to, float64."""
        ...
