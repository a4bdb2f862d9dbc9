"""What storing a clip does to it: scores of samples read back from files are scores of the file format too.

    Mp4(crf=12)      H.264 yuv420p as `data.media.write_media` writes it
    Jpeg(quality=75) each frame; 75 is what Pillow takes where `q=95` was meant (StyleGAN-V's and FETV's scripts)

Applied to real and generated clips alike before the detector, so that neither side has an advantage.
"""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from videopoet.data.media import Media, read_media, write_media


class RoundTrip(Protocol):
    """uint8 (t, h, w, 3) -> the same after storage."""

    def __call__(self, video: np.ndarray, *, fps: float = 8.0) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class NoRoundTrip:
    def __call__(self, video: np.ndarray, *, fps: float = 8.0) -> np.ndarray:
        return video


@dataclass(frozen=True, kw_only=True)
class Mp4:
    """H.264 in an mp4 file; `crf` 0 (near lossless but for 4:2:0 colour) to 51. Every frame comes back once."""

    crf: int = 12

    def __call__(self, video: np.ndarray, *, fps: float = 8.0) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            write_media(path, Media(video=video, fps=fps), self.crf)
            back = read_media(path).video
        if len(back) != len(video):
            raise ValueError(f"{len(video)} frames became {len(back)} in an mp4 file at {fps:g} frames per second")
        return np.ascontiguousarray(back[:, : video.shape[1], : video.shape[2]])  # odd sizes were padded


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """Each frame as a JPEG file, Pillow's default chroma subsampling."""

    quality: int = 75

    def __call__(self, video: np.ndarray, *, fps: float = 8.0) -> np.ndarray:
        return np.stack([self._picture(frame) for frame in video])

    def _picture(self, frame: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=self.quality)
        return np.asarray(Image.open(file).convert("RGB"))
