"""What every quantizer is: continuous latents in, codes out, and back again."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Quantized(NamedTuple):
    """What a quantizer makes of latents.

    latents: the quantized latents, same shape as the input, differentiable by straight-through.
    codes: int64, one per position (or one per position and level).
    loss: scalar, everything the quantizer adds to the training loss, already weighted.
    metrics: named scalars for the log, detached.
    """

    latents: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Maps latents to one of `size` codes; `embed` is the inverse on codes: `embed(forward(z).codes) == forward(z).latents`."""

    dimension: int  # channels of the latents
    size: int  # number of codes

    @abstractmethod
    def forward(self, latents: Tensor) -> Quantized: ...

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor: ...
