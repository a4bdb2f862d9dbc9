"""Which tokens of a stream a denoiser hides: spans of its flattened codes, drawn from a generator.

How many spans there are depends on the stream's shape alone, so that all sequences of one denoiser are as long. By
UL2's definition (§3.1.1) a denoiser is extreme where its spans are 12 tokens or longer, or hide 30 % or more.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from videopoet.vocabulary import Control

LONG, MANY = 12, 0.3  # tokens of a span and share of the stream from which on a denoiser is extreme


class Spans(ABC):
    """`draw` gives the spans in order, each as ascending indices; `mode` the token that announces such spans."""

    @abstractmethod
    def draw(self, shape: tuple[int, int, int], rng: np.random.Generator) -> list[Tensor]:
        """Shape (t, h, w) of a stream of codes; sound in its order of writing is (n, 1, 1)."""

    @abstractmethod
    def mode(self, shape: tuple[int, int, int]) -> Control:
        """R, S or X."""


def extreme(span: float, rate: float) -> Control:
    return Control.MODE_X if span >= LONG or rate >= MANY else Control.MODE_R


@dataclass(frozen=True, kw_only=True)
class Runs(Spans):
    """Runs of `mean` tokens on average that hide `rate` of the stream (T5's span corruption).

    20 tokens, mean 3, rate 0.3: 6 tokens hidden in 2 runs, 14 kept before, between and after them, all lengths random.
    In T5's own the last run always ends the stream, which would make a single run the sequential denoiser's.
    """

    mean: float = 3.0
    rate: float = 0.15

    def draw(self, shape: tuple[int, int, int], rng: np.random.Generator) -> list[Tensor]:
        length = prod(shape)
        hidden = min(max(1, round(self.rate * length)), length - 1)
        count = min(max(1, round(hidden / self.mean)), hidden, length - hidden)
        kept, gone = _parts(length - hidden + 2, count + 1, rng)[:-1], _parts(hidden, count, rng)
        starts = np.cumsum(kept) - 1 + np.cumsum(gone) - gone  # -1, +2: nothing need be kept before and after
        return [torch.arange(start, start + size) for start, size in zip(starts.tolist(), gone.tolist())]

    def mode(self, shape: tuple[int, int, int]) -> Control:
        return extreme(self.mean, self.rate)


@dataclass(frozen=True, kw_only=True)
class Suffix(Spans):
    """The end of the stream, `rate` of it, as one span: UL2's S. With `least`, the share is drawn from `least` to `rate`."""

    rate: float = 0.25
    least: float | None = None

    def draw(self, shape: tuple[int, int, int], rng: np.random.Generator) -> list[Tensor]:
        length = prod(shape)
        rate = self.rate if self.least is None else rng.uniform(self.least, self.rate)
        hidden = min(max(1, round(rate * length)), length - 1)
        return [torch.arange(length - hidden, length)]

    def mode(self, shape: tuple[int, int, int]) -> Control:
        return Control.MODE_S


@dataclass(frozen=True, kw_only=True)
class Blocks(Spans):
    """Blocks of `frames` x `rows` x `columns` codes out of a grid of them, `rate` of the grid; cut off at the edges.

    A lattice of 5 x 8 x 8 in blocks of 2 x 4 x 4 has a grid of 3 x 2 x 2; rate 0.25 hides 3 of the 12.
    """

    frames: int = 2
    rows: int = 4
    columns: int = 4
    rate: float = 0.25

    def draw(self, shape: tuple[int, int, int], rng: np.random.Generator) -> list[Tensor]:
        size = (self.frames, self.rows, self.columns)
        grid = tuple(-(-whole // part) for whole, part in zip(shape, size))
        count = min(max(1, round(self.rate * prod(grid))), max(1, prod(grid) - 1))
        index, spans = torch.arange(prod(shape)).view(shape), []
        for block in sorted(rng.permutation(prod(grid))[:count].tolist()):
            corner = np.unravel_index(block, grid)
            spans.append(index[tuple(slice(c * s, (c + 1) * s) for c, s in zip(corner, size))].flatten())
        return spans

    def mode(self, shape: tuple[int, int, int]) -> Control:
        cut = [min(part, whole) for part, whole in zip((self.frames, self.rows, self.columns), shape)]
        return extreme(prod(cut), self.rate)


@dataclass(frozen=True, kw_only=True)
class LatentFrames(Spans):
    """Whole latent frames, `rate` of them, each a span of its own."""

    rate: float = 0.4

    def draw(self, shape: tuple[int, int, int], rng: np.random.Generator) -> list[Tensor]:
        return self._as_blocks(shape).draw(shape, rng)

    def mode(self, shape: tuple[int, int, int]) -> Control:
        return self._as_blocks(shape).mode(shape)

    def _as_blocks(self, shape: tuple[int, int, int]) -> Blocks:
        return Blocks(frames=1, rows=shape[1], columns=shape[2], rate=self.rate)


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random positive sizes that sum to `total`, every such division as likely."""
    cuts = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
