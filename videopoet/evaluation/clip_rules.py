"""Which frames of a video are scored, as values: 16 frames at 8 or at 30 per second are two metrics.

    rule = ClipRule(frames=16)                                   # VideoPoet on MSR-VTT: central, native rate
    rule = ClipRule(frames=16, stride=3, offset=RandomStart())   # DynamiCrafter
    rule.indices(300, fps=30.0, key="video7010") -> array of 16 frame numbers

A rule is a function of the number of frames, their rate and the video's name alone, so the order of files, the number of
workers and earlier draws change nothing.
"""

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np


class Offset(Protocol):
    """Where a clip starts, given the number of starts that fit (at least 1): 0 is the first."""

    def __call__(self, starts: int, key: str) -> int: ...


@dataclass(frozen=True, kw_only=True)
class AtStart:
    def __call__(self, starts: int, key: str) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Central:
    """The middle; of an even number of starts the earlier of the two."""

    def __call__(self, starts: int, key: str) -> int:
        return (starts - 1) // 2


@dataclass(frozen=True, kw_only=True)
class RandomStart:
    """Uniform, by the seed and the video's name."""

    seed: int = 0

    def __call__(self, starts: int, key: str) -> int:
        digest = hashlib.sha256(f"{self.seed}\0{key}".encode()).digest()
        return int.from_bytes(digest[:16], "big") % starts


class Short(Protocol):
    """What becomes of a video with fewer frames than the clip spans: indices, some past the end, -> indices inside."""

    def __call__(self, indices: np.ndarray, frames: int, key: str) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class RefuseShort:
    """Raises ValueError."""

    def __call__(self, indices: np.ndarray, frames: int, key: str) -> np.ndarray:
        raise ValueError(
            f"{key} has {frames} frames, the clip spans {int(indices[-1]) + 1}: leave it out, or choose HoldLast or Loop"
        )


@dataclass(frozen=True, kw_only=True)
class HoldLast:
    """The last frame stands still."""

    def __call__(self, indices: np.ndarray, frames: int, key: str) -> np.ndarray:
        return np.minimum(indices, frames - 1)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The video starts again."""

    def __call__(self, indices: np.ndarray, frames: int, key: str) -> np.ndarray:
        return indices % frames


@dataclass(frozen=True, kw_only=True)
class ClipRule:
    """`frames` consecutive frames, or every `stride`-th, at the video's own rate or at `fps`.

    At fps the frame on show i / fps seconds after the first is taken (a video of 30 at 8 frames per second: 0, 3, 7, 11,
    15, ...); `stride` counts in those. The start is chosen among all for which the clip lies inside the video.
    """

    frames: int = 16
    fps: float | None = None
    stride: int = 1
    offset: Offset = Central()
    short: Short = RefuseShort()

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1 or (self.fps is not None and not 0 < self.fps < 1000):
            raise ValueError(
                f"a clip of {self.frames} frames, every {self.stride}-th, at {self.fps} per second cannot be"
            )

    def indices(self, frames: int, *, fps: float | None = None, key: str = "") -> np.ndarray:
        """int64 (self.frames,): the frames of a video of `frames` at `fps` (needed where the rule has its own)."""
        _check(frames, key)
        if self.fps is None:
            steps = np.arange(self.frames) * self.stride
        else:
            if not fps or fps <= 0:
                raise ValueError(f"the frame rate of {key or 'the video'} is {fps}: a rule of {self.fps} fps needs it")
            ratio = _exact(fps) / _exact(self.fps)
            steps = np.array([int(i * self.stride * ratio) for i in range(self.frames)])
        starts = frames - int(steps[-1])
        if starts < 1:
            return self.short(steps, frames, key)
        return steps + self.offset(starts, key)


@dataclass(frozen=True, kw_only=True)
class UniformFrames:
    """`frames` spread over the whole video: the middles of as many equal parts, or with `ends` from first to last.

    Of 10 frames 4: 1, 3, 6, 8 (the middles 1.25, 3.75, 6.25, 8.75 rounded down); with ends 0, 3, 6, 9. A video with fewer
    frames gives some twice.
    """

    frames: int = 16
    ends: bool = False

    def indices(self, frames: int, *, fps: float | None = None, key: str = "") -> np.ndarray:
        _check(frames, key)
        if self.ends:
            return np.linspace(0, frames - 1, self.frames).round().astype(np.int64)
        return ((2 * np.arange(self.frames) + 1) * frames) // (2 * self.frames)


@dataclass(frozen=True, kw_only=True)
class AllFrames:
    """Every frame: CLIPSIM as first published."""

    def indices(self, frames: int, *, fps: float | None = None, key: str = "") -> np.ndarray:
        _check(frames, key)
        return np.arange(frames)


class FrameRule(Protocol):
    """Any of the above."""

    def indices(self, frames: int, *, fps: float | None = None, key: str = "") -> np.ndarray: ...


def _check(frames: int, key: str) -> None:
    if frames < 1:
        raise ValueError(f"{key or 'the video'} has no frames")


def _exact(fps: float) -> Fraction:
    """29.97002997 -> 30000/1001: rates are fractions of small numbers, and floats of them round across a frame."""
    return Fraction(fps).limit_denominator(1001)
