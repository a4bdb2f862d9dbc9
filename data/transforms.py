"""Between files and tensors: geometry (resize and crop) and number ranges (uint8, int16 <-> float in [-1, 1]).

torch is imported where it is used: processes that only decode start seconds sooner without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ResizeCrop:
    """Scale the picture until it just covers `height` x `width`, then cut the centre.

    `ResizeCrop(height=64, width=64)` on 1920x1080 scales to 114x64 and drops 25 columns on either side. Scaling is
    bicubic with a support that grows when shrinking (swscale), so it does not alias.
    """

    height: int  # pixels
    width: int  # pixels

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Size (height, width) to scale a `height` x `width` picture to before the crop."""
        scale = max(self.height / height, self.width / width)
        return max(self.height, round(height * scale)), max(self.width, round(width * scale))

    def crop(self, picture: np.ndarray) -> np.ndarray:
        """Centre of an array `... h w c`."""
        top = (picture.shape[-3] - self.height) // 2
        left = (picture.shape[-2] - self.width) // 2
        return picture[..., top : top + self.height, left : left + self.width, :]

    def __call__(self, video: np.ndarray) -> np.ndarray:
        """uint8 `t h w 3` of any size -> uint8 `t height width 3`."""
        height, width = self.scaled(*video.shape[1:3])
        if (height, width) == video.shape[1:3]:
            return np.ascontiguousarray(self.crop(video))
        how = {"width": width, "height": height, "interpolation": Interpolation.BICUBIC, "threads": 1}
        frames = (VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in video)
        scaled = (frame.reformat(**how) for frame in frames)
        return np.stack([self.crop(frame.to_ndarray()) for frame in scaled])


def video_to_float(video: np.ndarray | Tensor) -> Tensor:
    """uint8 `... t h w c` -> float32 `... c t h w` in [-1, 1]: 0 -> -1, 255 -> 1."""
    import torch

    video = torch.as_tensor(video)
    return (video.movedim(-1, -4).to(torch.float32) / 127.5 - 1).contiguous()


def video_to_uint8(video: Tensor) -> np.ndarray:
    """float `... c t h w` in [-1, 1] -> uint8 `... t h w c`, rounded and clamped; the inverse of `video_to_float`."""
    import torch

    levels = ((video.detach().to("cpu", torch.float32) + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).movedim(-4, -1).contiguous().numpy()


def audio_to_int16(audio: np.ndarray) -> np.ndarray:
    """float in [-1, 1] -> int16 in [-32767, 32767], rounded and clamped."""
    return np.clip(np.rint(np.asarray(audio, dtype=np.float32) * 32767), -32767, 32767).astype(np.int16)


def audio_to_float(audio: np.ndarray | Tensor) -> Tensor:
    """int16 -> float32 in [-1, 1]; the inverse of `audio_to_int16`."""
    import torch

    return torch.as_tensor(audio).to(torch.float32) / 32767
