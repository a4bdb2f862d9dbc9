"""How a token is drawn from logits: frozen values, composed in order. Nothing here waits for the device."""

from collections.abc import Container, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from videopoet.sampling.schedules import Value, bounds_of, value_at
from videopoet.vocabulary import Modality

CONDITIONS = ("text", "audio", "visual")  # that guidance may be by
DRAWS_PER_TOKEN = 8  # at most; a factorised token takes one per factor


@dataclass(frozen=True)
class Place:
    """Where a token stands among the generated ones, and the chance it is drawn by.

    uniforms: float64 (b,) in [0, 1) for each draw of this token, one number per row.
    """

    index: int = 0
    total: int = 1
    uniforms: Iterator[Tensor] = field(default_factory=lambda: iter(()))

    def at(self, value: Value) -> float:
        """A plain or scheduled value here."""
        return value_at(value, self.index, self.total)


def uniforms(seeds: Many[int], tokens: int, device: torch.device | str = "cpu") -> list[Iterator[Tensor]]:
    """The chance of every token, made ahead: for each token its draws, each float64 (b,) in [0, 1).

    A row's numbers depend on its seed alone, not on the batch, and those of a shorter sample are the first of a longer
    one's. Being made ahead they go to the device once, and no draw waits for the host.
    """
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"seed is {seed}: it must be at least 0")
    # NumPy's generators hash their seed, of any size; torch's on the CPU look at its low 32 bits only.
    rows = [np.random.default_rng(seed).random((tokens, DRAWS_PER_TOKEN)) for seed in seeds]
    # Below 1 by more than rounding, so that `pick` never passes the last token that has a probability.
    chance = torch.from_numpy(np.stack(rows, -1)).clamp(max=1 - 2**-32).to(device)
    return [iter(draws.unbind(0)) for draws in chance.unbind(0)]


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Logits (b, v), uniform float64 (b,) in [0, 1) -> indices int64 (b,): the first whose summed probability exceeds it."""
    mass = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    return torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)[:, 0]


class Filter(Protocol):
    """Maps logits (b, v) to logits (b, v)."""

    def __call__(self, logits: Tensor, place: Place) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Divide by `value`: below 1 sharper, above 1 flatter."""

    value: Value

    def __post_init__(self):
        for value in bounds_of(self.value):
            if value <= 0:
                raise ValueError(f"temperature is {value}, it must be above 0 (use --top-k 1 for the likeliest token)")

    def __call__(self, logits: Tensor, place: Place) -> Tensor:
        return logits / place.at(self.value)


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keep the `k` likeliest; a scheduled k is rounded."""

    k: Value

    def __post_init__(self):
        for k in bounds_of(self.k):
            if k < 1:
                raise ValueError(f"top-k is {k}, it must be at least 1")

    def __call__(self, logits: Tensor, place: Place) -> Tensor:
        least = logits.topk(min(round(place.at(self.k)), logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < least, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class TopP:
    """Keep the fewest of the likeliest whose probabilities reach `p`."""

    p: Value

    def __post_init__(self):
        for p in bounds_of(self.p):
            if not 0 < p <= 1:
                raise ValueError(f"top-p is {p}, it must be above 0 and at most 1")

    def __call__(self, logits: Tensor, place: Place) -> Tensor:
        ordered, order = logits.sort(descending=True)
        probability = ordered.softmax(-1)
        beyond = probability.cumsum(-1) - probability >= place.at(self.p)  # the first is always kept
        return logits.masked_fill(beyond.gather(-1, order.argsort(-1)), -torch.inf)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance with a scale per condition; 1 leaves a condition alone.

    Beside the fully conditioned rows stand, per guided condition, rows that lack it and those before it in the order
    text, audio, visual: 1 + number of guided conditions copies of the batch. With text and visual guided and logits
    l(text, visual):

        l(-, -) + visual * (l(-, visual) - l(-, -)) + text * (l(text, visual) - l(-, visual))

    the chained form of InstructPix2Pix (Brooks et al. 2022, Eq. 3), the picture first and the text on top of it. One
    condition alone gives the ordinary `u + scale * (c - u)`; equal scales give it too, without all of them at once.

    None leaves it to the model, whose mixture may say what its tasks are guided by (`Share.guidance`), and is 1 else.
    """

    text: Value | None = None
    audio: Value | None = None
    visual: Value | None = None

    def __post_init__(self):
        for name in CONDITIONS:
            scale = getattr(self, name)
            if scale is not None and min(bounds_of(scale)) < 0:
                raise ValueError(f"{name} guidance is {min(bounds_of(scale))}, it must be at least 0 (1 is none)")

    @property
    def guided(self) -> tuple[Modality, ...]:
        """The conditions that rows are made without, in the order in which they are taken away."""
        scales = {Modality.TEXT: self.text, Modality.AUDIO: self.audio, Modality.VISUAL: self.visual}
        return tuple(condition for condition, scale in scales.items() if scale not in (None, 1))

    def over(self, other: "Guidance") -> "Guidance":
        """The other one where this says nothing."""
        return Guidance(**{n: getattr(other if getattr(self, n) is None else self, n) for n in CONDITIONS})

    def within(self, conditions: Container[Modality]) -> "Guidance":
        """Guidance by none but these conditions, for a task that has no others."""
        others = [m for m in (Modality.TEXT, Modality.AUDIO, Modality.VISUAL) if m not in conditions]
        return replace(self, **{m.name.lower(): None for m in others})

    def __call__(self, logits: Tensor, place: Place) -> Tensor:
        """(copies * b, v), fully conditioned rows first -> (b, v)."""
        *fuller, result = logits.chunk(1 + len(self.guided))
        lacking = result
        for condition, rows in zip(reversed(self.guided), reversed(fuller)):
            result = result + place.at(getattr(self, condition.name.lower())) * (rows - lacking)
            lacking = rows
        return result


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Guidance, then the filters in order, then one draw per row, by that row's own chance."""

    filters: tuple[Filter, ...] = ()
    guidance: Guidance = Guidance()

    @property
    def copies(self) -> int:
        """Rows of logits per row drawn."""
        return 1 + len(self.guidance.guided)

    def __call__(self, logits: Tensor, place: Place) -> Tensor:
        """Logits (copies * b, v) -> indices int64 (copies * b,), copies alike."""
        logits = self.guidance(logits.float(), place)
        for filter in self.filters:
            logits = filter(logits, place)
        uniform = next(place.uniforms, None)
        assert uniform is not None, f"a token has at most {DRAWS_PER_TOKEN} factors"
        return pick(logits, uniform).repeat(self.copies)
