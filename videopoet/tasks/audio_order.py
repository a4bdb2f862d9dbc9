"""In which order the language model writes the codes of a sound, t audio frames x k residual levels, one place each.

Places of 4 frames x 3 levels, as `order.draw(4, 3)` prints them:

    LevelMajor()              FrameMajor()              Delayed(delay=1)
    level 0 |  0  1  2  3     level 0 |  0  3  6  9     level 0 |  0  1  3  6
    level 1 |  4  5  6  7     level 1 |  1  4  7 10     level 1 |  2  4  7  9
    level 2 |  8  9 10 11     level 2 |  2  5  8 11     level 2 |  5  8 10 11

Every order is a permutation: the same ids, t * k of them, and the same positions (time, level, 0) in another sequence.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class AudioOrder(ABC):
    """`rank` says which of two codes is written first; all else follows from it."""

    @abstractmethod
    def rank(self, frame: Tensor, level: Tensor, frames: int, levels: int) -> Tensor:
        """int64 (t, k): a number for each code, none twice; the smaller one is written first."""

    def places(self, frames: int, levels: int) -> Tensor:
        """int64 (t, k): the place of each code in the sequence, 0 to t * k - 1."""
        frame, level = torch.meshgrid(torch.arange(frames), torch.arange(levels), indexing="ij")
        by_rank = self.rank(frame, level, frames, levels).flatten().argsort()
        return by_rank.argsort().view(frames, levels)  # the inverse of a permutation sorts it

    def write(self, grid: Tensor) -> Tensor:
        """(..., t, k) -> (..., t * k) in the order of writing."""
        first_to_last = self.places(*grid.shape[-2:]).flatten().argsort()
        return grid.flatten(-2)[..., first_to_last.to(grid.device)]

    def read(self, written: Tensor, levels: int) -> Tensor:
        """Inverse of `write`: (..., t * k) -> (..., t, k). Raises ValueError where k does not divide the length."""
        if written.shape[-1] % levels:
            raise ValueError(f"{written.shape[-1]} audio tokens do not divide into {levels} levels: some are missing")
        return written[..., self.places(written.shape[-1] // levels, levels).to(written.device)]

    def draw(self, frames: int, levels: int) -> str:
        """A picture of the places, a line per level and a column per frame."""
        width = len(str(frames * levels - 1)) + 1
        rows = [[f"{place:{width}}" for place in row] for row in self.places(frames, levels).T.tolist()]
        return "\n".join([f"{self}", *(f"level {level} |{''.join(row)}" for level, row in enumerate(rows))])


@dataclass(frozen=True, kw_only=True)
class LevelMajor(AudioOrder):
    """The whole clip level by level, coarse to fine: a rough sketch of all of it first (VideoPoet, §3.1)."""

    def rank(self, frame: Tensor, level: Tensor, frames: int, levels: int) -> Tensor:
        return level * frames + frame


@dataclass(frozen=True, kw_only=True)
class FrameMajor(AudioOrder):
    """All levels of a frame, then the next frame: what is written so far can be decoded and heard."""

    def rank(self, frame: Tensor, level: Tensor, frames: int, levels: int) -> Tensor:
        return frame * levels + level


@dataclass(frozen=True, kw_only=True)
class Delayed(AudioOrder):
    """Step by step, level k lagging `delay` * k frames behind level 0, so that a code knows the coarser codes ahead.

    Step s holds level 0 of frame s, level 1 of frame s - delay, level 2 of frame s - 2 * delay ... (MusicGen, §2.2).
    MusicGen draws the levels of a step at once and fills the two triangles where a level has no frame yet, or no more,
    with a special id. Here every code has a place of its own, so the triangles are left out: nothing stands there that
    would have to be read. Delay 0 is `FrameMajor`; a delay of the whole clip is `LevelMajor`.
    """

    delay: int = 1  # frames per level

    def __post_init__(self):
        if self.delay < 0:
            raise ValueError(f"delay is {self.delay} frames per level: a finer level cannot come first, give 0 or more")

    def rank(self, frame: Tensor, level: Tensor, frames: int, levels: int) -> Tensor:
        return (frame + self.delay * level) * levels + level
