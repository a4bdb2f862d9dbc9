"""Values that change while a sample is made: frozen, and usable wherever a rule takes a plain number."""

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """The value at generated token `index` of `total`. `bounds`: the values it moves between, for checks beforehand."""

    @property
    def bounds(self) -> tuple[float, ...]: ...

    def __call__(self, index: int, total: int) -> float: ...


#: A number, or a schedule of numbers.
Value = float | Schedule


def value_at(value: Value, index: int, total: int) -> float:
    """A plain value is the same everywhere."""
    return value(index, total) if callable(value) else value


def bounds_of(value: Value) -> tuple[float, ...]:
    """Every value a rule has to accept for this one."""
    return value.bounds if callable(value) else (value,)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """From `start` at the first token straight to `end`, reached after `tokens` tokens; None: at the last one.

    With start 1, end 0.5, tokens 5: 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, ... With `tokens` a value does not depend on how
    long the sample is, so that an image still is the head of a video.
    """

    start: float
    end: float
    tokens: int | None = None

    def __post_init__(self):
        _check_tokens(self.tokens)

    @property
    def bounds(self) -> tuple[float, ...]:
        return (self.start, self.end)

    def __call__(self, index: int, total: int) -> float:
        return self.start + (self.end - self.start) * _fraction(index, total, self.tokens)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """As `Linear`, along half a cosine wave: slow at both ends, `(1 - cos(pi x)) / 2` of the way at fraction x."""

    start: float
    end: float
    tokens: int | None = None

    def __post_init__(self):
        _check_tokens(self.tokens)

    @property
    def bounds(self) -> tuple[float, ...]:
        return (self.start, self.end)

    def __call__(self, index: int, total: int) -> float:
        way = (1 - math.cos(math.pi * _fraction(index, total, self.tokens))) / 2
        return self.start + (self.end - self.start) * way


def _fraction(index: int, total: int, tokens: int | None) -> float:
    return min(1.0, index / max(1, total - 1 if tokens is None else tokens))


def _check_tokens(tokens: int | None) -> None:
    if tokens is not None and tokens < 1:
        raise ValueError(f"a schedule over {tokens} tokens: it needs at least 1, or None for the whole sample")
