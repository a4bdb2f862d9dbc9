"""Clips with pixels hidden: MAGVIT's regions for inpainting and outpainting, and frames blended for interpolation.

What is hidden is overwritten before anything else sees the clip, so no code of it can tell of a hidden pixel.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from videopoet.conditions.shot import Condition, Shot


class Region(ABC):
    """A set of pixels of every frame."""

    @abstractmethod
    def mask(self, t: int, h: int, w: int) -> np.ndarray:
        """bool (t, h, w), true inside."""


@dataclass(frozen=True, kw_only=True)
class Central(Region):
    """The rectangle of half the height and half the width in the middle: of 64 pixels, 16 to 47."""

    def mask(self, t: int, h: int, w: int) -> np.ndarray:
        return Vertical().mask(t, h, w) & Horizontal().mask(t, h, w)


@dataclass(frozen=True, kw_only=True)
class Vertical(Region):
    """The strip of half the width in the middle, top to bottom."""

    def mask(self, t: int, h: int, w: int) -> np.ndarray:
        column = np.arange(w)
        return np.broadcast_to((column >= w // 4) & (column < w * 3 // 4), (t, h, w))


@dataclass(frozen=True, kw_only=True)
class Horizontal(Region):
    """The strip of half the height in the middle, left to right."""

    def mask(self, t: int, h: int, w: int) -> np.ndarray:
        row = np.arange(h)[:, None]
        return np.broadcast_to((row >= h // 4) & (row < h * 3 // 4), (t, h, w))


@dataclass(frozen=True, kw_only=True)
class MovingStrip(Region):
    """A strip of half the width that moves from the left edge to the right one: of 64 pixels, from 0 to 31 to 32 to 63."""

    def mask(self, t: int, h: int, w: int) -> np.ndarray:
        start = np.round(np.linspace(0, w // 2, t)).astype(int)[:, None, None]
        column = np.arange(w)
        return np.broadcast_to((column >= start) & (column < start + w // 2), (t, h, w))


@dataclass(frozen=True, kw_only=True)
class MovingRectangle(Region):
    """As `MovingStrip`, but of half the height, in the middle."""

    def mask(self, t: int, h: int, w: int) -> np.ndarray:
        return MovingStrip().mask(t, h, w) & Horizontal().mask(t, h, w)


@dataclass(frozen=True, kw_only=True)
class Outside(Region):
    """All but a region."""

    region: Region

    def mask(self, t: int, h: int, w: int) -> np.ndarray:
        return ~self.region.mask(t, h, w)


class Fill(ABC):
    """What stands in place of hidden pixels."""

    @abstractmethod
    def __call__(self, video: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """uint8 (t, h, w, 3) and bool (t, h, w) -> uint8 (t, h, w, 3) that depends on shown pixels alone."""


@dataclass(frozen=True, kw_only=True)
class Black(Fill):
    """Level 0."""

    def __call__(self, video: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        return np.where(hidden[..., None], np.uint8(0), video)


@dataclass(frozen=True, kw_only=True)
class Edge(Fill):
    """The nearest shown pixel. Raises ValueError where what is shown is not one rectangle in every frame."""

    def __call__(self, video: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        frames = []
        for frame, shown in zip(video, ~hidden):
            rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
            if not len(rows) or not shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all():
                raise ValueError("edges can be drawn out from a rectangle only, what is shown is none: fill with Black")
            row = np.clip(np.arange(len(shown)), rows[0], rows[-1])
            column = np.clip(np.arange(shown.shape[1]), columns[0], columns[-1])
            frames.append(frame[row[:, None], column])
        return np.stack(frames)


@dataclass(frozen=True, kw_only=True)
class HiddenRegion(Condition):
    """The clip with a region filled in (MAGVIT, App. B.1)."""

    region: Region
    fill: Fill = field(default_factory=Black)

    def __call__(self, shot: Shot) -> np.ndarray:
        return self.fill(shot.video, self.region.mask(*shot.video.shape[:3]))

    def shows(self, t: int, h: int, w: int) -> np.ndarray:
        return ~self.region.mask(t, h, w)


@dataclass(frozen=True, kw_only=True)
class Interpolation(Condition):
    """The first `given` frames and the last, and between them a linear blend of those next to the gap.

    5 frames, 1 given at each end: levels 0 . . . 200 -> 0 50 100 150 200.
    """

    given: int = 1

    def __call__(self, shot: Shot) -> np.ndarray:
        t, k = len(shot.video), self.given
        if not 0 < 2 * k < t:
            raise ValueError(f"{k} frames are given at each end of a clip that has {t}: nothing is between them")
        first, last = (shot.video[i].astype(np.float64) for i in (k - 1, t - k))
        share = (np.arange(1, t - 2 * k + 1) / (t - 2 * k + 1))[:, None, None, None]
        middle = np.rint(first + (last - first) * share).astype(np.uint8)
        return np.concatenate([shot.video[:k], middle, shot.video[t - k :]])

    def shows(self, t: int, h: int, w: int) -> np.ndarray:
        frame = np.arange(t)[:, None, None]
        return np.broadcast_to((frame < self.given) | (frame >= t - self.given), (t, h, w))
