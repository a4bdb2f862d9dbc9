"""Small media files of every awkward kind, written with PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered(count: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Grey frames whose brightness is 20 + 12 i, so that a decoded frame says which one it was."""
    levels = 20 + 12 * np.arange(count)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).astype(np.uint8)


def numbers(video: np.ndarray) -> list[int]:
    """Which of the `numbered` frames a video shows."""
    return np.rint((video.mean(axis=(1, 2, 3)) - 20) / 12).astype(int).tolist()


def tone(seconds: float, sample_rate: int = 16000, onset: float = 0.0, channels: int = 1) -> np.ndarray:
    """float32 `channels s`: silence, then 440 Hz of amplitude 0.5 from `onset` on."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * (time - onset)) * (time >= onset)
    return np.tile(wave.astype(np.float32), (channels, 1))


def write(
    path: Path,
    frames: np.ndarray | None,
    times: list[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 8,
    audio: np.ndarray | None = None,
    sample_rate: int = 16000,
    layout: str = "mono",
    audio_codec: str = "aac",
    audio_start: float = 0.0,
    rotation: int = 0,
) -> Path:
    """A file with these frames at these times (seconds) and this sound (float32 channels s)."""
    clock = Fraction(1, fps) if times is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        video = sound = None
        if frames is not None:
            video = container.add_stream(codec, rate=fps)
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = clock
            if rotation:
                video.set_display_rotation(rotation)
        if audio is not None:
            sound = container.add_stream(audio_codec, rate=sample_rate, layout=layout)
        if video is not None:
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
                    format=pix_fmt
                )
                frame.pts = index if times is None else round(times[index] * 1000)
                frame.time_base = clock
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if sound is not None:
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio), format="fltp", layout=layout)
            block.sample_rate, block.time_base = sample_rate, Fraction(1, sample_rate)
            block.pts = round(audio_start * sample_rate)
            container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    return path
