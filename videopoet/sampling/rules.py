"""How a token is drawn from logits: frozen values, composed in order."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Filter(Protocol):
    """Maps logits (b, v) to logits (b, v)."""

    def __call__(self, logits: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Divide by `value`: below 1 sharper, above 1 flatter."""

    value: float

    def __post_init__(self):
        if self.value <= 0:
            raise ValueError(f"temperature is {self.value}, it must be above 0 (use --top-k 1 for the likeliest token)")

    def __call__(self, logits: Tensor) -> Tensor:
        return logits / self.value


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keep the `k` likeliest."""

    k: int

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"top-k is {self.k}, it must be at least 1")

    def __call__(self, logits: Tensor) -> Tensor:
        least = logits.topk(min(self.k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < least, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class TopP:
    """Keep the fewest of the likeliest whose probabilities reach `p`."""

    p: float

    def __post_init__(self):
        if not 0 < self.p <= 1:
            raise ValueError(f"top-p is {self.p}, it must be above 0 and at most 1")

    def __call__(self, logits: Tensor) -> Tensor:
        ordered, order = logits.sort(descending=True)
        probability = ordered.softmax(-1)
        beyond = probability.cumsum(-1) - probability >= self.p  # the first is always kept
        return logits.masked_fill(beyond.gather(-1, order.argsort(-1)), -torch.inf)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance on a doubled batch, conditioned rows first: `u + scale * (c - u)`."""

    scale: float

    def __call__(self, logits: Tensor) -> Tensor:
        """(2b, v) -> (b, v)."""
        conditioned, unconditioned = logits.chunk(2)
        return unconditioned + self.scale * (conditioned - unconditioned)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Guidance (if any), then the filters in order, then one draw per row.

    Each row has a generator of its own, so a row's tokens do not depend on what else is in the batch.
    """

    filters: tuple[Filter, ...] = ()
    guidance: Guidance | None = None

    @property
    def copies(self) -> int:
        """Rows of logits per row drawn."""
        return 2 if self.guidance else 1

    def __call__(self, logits: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Logits (copies * b, v), a generator for each of the b rows -> indices int64 (copies * b,), copies alike."""
        logits = logits.float()
        if self.guidance:
            logits = self.guidance(logits)
        for filter in self.filters:
            logits = filter(logits)
        noise = torch.stack([torch.rand(logits.shape[-1], generator=g) for g in generators]).to(logits.device)
        gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        return (logits + gumbel).argmax(-1).repeat(self.copies)
