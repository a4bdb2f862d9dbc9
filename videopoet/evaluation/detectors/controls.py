"""Controls: features without a network that see one thing and are blind to another, to tell what a distance is made of.

`PixelStatistics` knows colours and where they are, and nothing of the order of frames; `FrameDifferences` knows how much
changes where, and little of what a frame shows. Both are surrogates that need nothing.
"""

import torch
from torch import Tensor

from videopoet.evaluation.detectors.base import VideoDetector


def in_cells(values: Tensor) -> Tensor:
    """(b, t, h, w, c), at least 3 x 3 pixels -> the mean over time and each of 3 x 3 cells, float64 (b, 9 c)."""
    rows = [part for row in values.tensor_split(3, 2) for part in row.tensor_split(3, 3)]
    return torch.cat([cell.double().sum((1, 2, 3)) / cell[0, ..., 0].numel() for cell in rows], 1)


class Control(VideoDetector):
    """Means and roots of something's squares in 3 x 3 cells, for each colour: 54 numbers."""

    surrogate = True
    output = "3 x 3 cells"
    dim = 54

    def __init__(self):
        super().__init__()
        self.weights = {}

    def preprocessing(self) -> dict:
        return {}

    def pair(self, values: Tensor) -> Tensor:
        """Sums of integers are exact in float64 whatever their order."""
        if min(values.shape[2:4]) < 3:
            raise ValueError(f"{self.name} needs 3 x 3 pixels, the clips have {values.shape[2]} x {values.shape[3]}")
        return torch.cat([in_cells(values), in_cells(values.square()).sqrt()], 1)


class PixelStatistics(Control):
    """Of the pixels, in [0, 1]."""

    name = "PixelStatistics"

    def features(self, clips: Tensor) -> Tensor:
        return self.pair(clips.double()) / 255


class FrameDifferences(Control):
    """Of the differences between neighbouring frames, without sign, in [0, 1]."""

    name = "FrameDifferences"
    least_frames = 2

    def features(self, clips: Tensor) -> Tensor:
        return self.pair(clips.double().diff(dim=1).abs()) / 255
