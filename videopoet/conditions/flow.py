"""Optical flow: the built-in world's truth, OpenCV's DIS, and block matching that needs nothing else."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from videopoet.conditions.shot import NotKnown, Shot
from videopoet.conditions.world import world_truth

SIDE = 32  # pixels that block matching works on at most


class Flow(ABC):
    @abstractmethod
    def __call__(self, shot: Shot) -> np.ndarray:
        """Motion x, y in pixels from each frame to the next, float (t - 1, h, w, 2), of at least two frames."""


@dataclass(frozen=True, kw_only=True)
class WorldFlow(Flow):
    """The true flow of clips of the built-in world, and `otherwise` that of others; NotKnown where that is None."""

    otherwise: Flow | None = None

    def __call__(self, shot: Shot) -> np.ndarray:
        truth = world_truth(shot)
        if truth is not None:
            return truth.flow
        if self.otherwise is None:
            raise NotKnown("this clip is not of the built-in world and has no true flow: name an estimator")
        return self.otherwise(shot)


@dataclass(frozen=True, kw_only=True)
class DISFlow(Flow):
    """OpenCV's dense inverse search, medium preset. Raises ValueError where OpenCV is not installed."""

    def __call__(self, shot: Shot) -> np.ndarray:
        try:
            import cv2
        except ImportError:
            raise ValueError(
                "DISFlow needs OpenCV: pip install 'videopoet-open[flow]', or take BlockMatching"
            ) from None
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in shot.video]
        return np.stack([search.calc(a, b, None) for a, b in pairwise(grey)])


@dataclass(frozen=True, kw_only=True)
class BlockMatching(Flow):
    """For every pixel the whole-pixel step, `reach` at most, after which its `window` looks most alike.

    A step costs `rest` levels per pixel of its length, so that plain areas stay where they are. Pictures are shrunk to
    at most 32 pixels a side first.
    """

    reach: int = 4  # pixels of the shrunk picture
    window: int = 9  # pixels, odd
    rest: float = 0.5  # levels of 255 per pixel

    def __call__(self, shot: Shot) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        t, h, w, _ = shot.video.shape
        shrink = max(1, -(-max(h, w) // SIDE))
        video = torch.as_tensor(shot.video).permute(0, 3, 1, 2).float()
        small = F.interpolate(video, size=(max(1, h // shrink), max(1, w // shrink)), mode="area")
        rows, columns = small.shape[2:]
        after = F.pad(small[1:], (self.reach,) * 4, mode="replicate")
        steps = range(-self.reach, self.reach + 1)
        best = torch.full((t - 1, 1, rows, columns), torch.inf)
        flow = torch.zeros(t - 1, 2, rows, columns)
        for y, x in sorted(((y, x) for y in steps for x in steps), key=lambda step: step[0] ** 2 + step[1] ** 2):
            there = after[:, :, y + self.reach : y + self.reach + rows, x + self.reach : x + self.reach + columns]
            unlike = (small[:-1] - there).abs().mean(1, keepdim=True)
            cost = F.avg_pool2d(unlike, self.window, 1, self.window // 2, count_include_pad=False)
            cost = cost + self.rest * float(np.hypot(x, y))
            better = cost < best
            best = torch.where(better, cost, best)
            flow = torch.where(better, torch.tensor([x, y], dtype=torch.float32)[None, :, None, None], flow)
        return (F.interpolate(flow, size=(h, w)) * shrink).permute(0, 2, 3, 1).numpy()
