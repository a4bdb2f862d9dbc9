"""What every quantizer is: continuous latents in, codes out, and back again."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What a quantizer makes of latents.

    latents: the quantized latents, same shape and dtype as the input, differentiable by straight-through.
    codes: int64, one per position (or one per position and level).
    loss: float32 scalar, everything the quantizer adds to the training loss, already weighted; zero in evaluation.
    metrics: named scalars for the log, detached.
    """

    latents: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Maps latents (b, dimension, *lattice) to one of `size` codes per position of any lattice.

    In evaluation `embed(forward(z).codes) == forward(z).latents` and nothing but the result changes. Quantizers that
    learn from what they see (codebooks, schedules) do so in training mode with gradients enabled, and only then.
    Arithmetic is float32 whatever the autocast and the dtype of the latents: small differences decide the code.
    """

    dimension: int  # channels of the latents
    size: int  # number of codes

    @abstractmethod
    def forward(self, latents: Tensor) -> Quantized: ...

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """codes int64 (b, *lattice) -> quantized latents (b, dimension, *lattice). Raises ValueError on foreign codes."""


def check_latents(latents: Tensor, dimension: int) -> None:
    """Raises ValueError unless latents are (b, dimension, *lattice)."""
    if latents.ndim < 2 or latents.shape[1] != dimension:
        raise ValueError(
            f"latents are {tuple(latents.shape)}, the quantizer takes {dimension} channels in the second place: "
            "give encoder and quantizer the same dimension"
        )


def check_codes(codes: Tensor, size: int) -> None:
    """Raises ValueError unless codes are integers in [0, size)."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes are {codes.dtype}, must be integers")
    if codes.numel() == 0:
        return
    low, high = (int(extreme) for extreme in codes.aminmax())
    if low < 0 or high >= size:
        raise ValueError(f"codes span {low} to {high}, the quantizer has {size} of them (0 to {size - 1})")
