"""From what a file holds to a regular timeline: pictures on a grid of 1 / fps seconds, sound as one run of samples."""

import math

import numpy as np
from av import AudioFrame, AudioResampler, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from videopoet.data.channels import MIX_DOWN, Channels
from videopoet.data.decoding import Picture
from videopoet.data.transforms import ResizeCrop

LONGEST_PICTURE = 3600.0  # seconds; a longer hold is a broken clock, and would fill memory with repeats
SOUND_JITTER = 0.02  # seconds; audio times this close to the running count are rounding of the container's clock


class FrameGrid:
    """Picks, for every grid time i / fps after the first picture, the picture then on show.

    A file at 12 fps on a grid of 8 gives pictures 0, 1, 3, 4, 6 ...: the last one that started at or before each time.
    A picture that starts up to a quarter of a grid step late (10 ms at most) still counts: containers round times.
    """

    def __init__(self, *, fps: float | None, frame_rate: float | None, resize: ResizeCrop | None, pixel_aspect: float):
        self.fps = fps or frame_rate
        self.first_second: float | None = None
        self.count = 0  # frames given so far
        self._resize = resize
        self._aspect = pixel_aspect
        self._held: Picture | None = None
        self._step = 0.0  # seconds the last picture but one was on show
        self._shape: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def push(self, picture: Picture) -> list[np.ndarray]:
        """Frames (uint8 h w 3) that are settled now that `picture` has come: those before its time."""
        frames: list[np.ndarray] = []
        if self._held is None:
            self.first_second = picture.second
        else:
            step = picture.second - self._held.second
            if step > LONGEST_PICTURE:
                raise ValueError(f"frame times jump by {step:.0f} s at {self._held.second:.1f} s; re-encode the file")
            if step > 0:
                self._step = step
                self.fps = self.fps or 1 / step
                frames = self._until(picture.second)
        self._held = picture
        return frames

    def finish(self) -> list[np.ndarray]:
        """Frames during which the last picture was on show; at least one if there was any picture."""
        if self._held is None:
            return []
        self.fps = self.fps or 1 / (self._held.duration or 1.0)
        on_show = self._held.duration or self._step or 1 / self.fps
        return self._until(self._held.second + min(on_show, LONGEST_PICTURE)) or ([] if self.count else self._repeat(1))

    def _until(self, second: float) -> list[np.ndarray]:
        slack = min(0.25 / self.fps, 0.01)
        end = math.ceil((second - self.first_second - slack) * self.fps)
        return self._repeat(max(0, end - self.count))

    def _repeat(self, count: int) -> list[np.ndarray]:
        if count == 0:
            return []
        self.count += count
        return [self._pixels(self._held.frame)] * count

    def _pixels(self, frame: VideoFrame) -> np.ndarray:
        turns = round(frame.rotation / 90) % 4  # quarter turns, counter-clockwise
        # (height, width) as shown: upright and with square pixels where a size is asked for.
        height, width = frame.height, frame.width
        if self._resize is not None:
            height, width = (height, width * self._aspect)
            height, width = (width, height) if turns % 2 else (height, width)
            height, width = self._resize.scaled(height, width)
            height, width = (width, height) if turns % 2 else (height, width)
        else:
            self._shape = height, width = self._shape or (height, width)
        scaled = self._reformatter.reformat(
            # One thread: more are started for every picture, which costs more than scaling it.
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        pixels = np.rot90(scaled.to_ndarray(), turns)
        return np.ascontiguousarray(pixels if self._resize is None else self._resize.crop(pixels))


class SoundTrack:
    """Decoded audio placed on the file's clock and resampled; gaps are silent.

    Raises ValueError where samples are not finite, as a file of floating-point samples may hold.
    """

    def __init__(self, *, sample_rate: int | None, channels: Channels):
        self.sample_rate = sample_rate  # Hz; the file's own once the first frame has come
        self.first_second: float | None = None
        self._take = channels
        self._blocks: list[np.ndarray] = []  # each channels s, end to end
        self._channels = 1
        self._dropped = 0  # samples before the first block that have been read and let go
        self._length = 0  # samples since first_second
        self._resampler: AudioResampler | None = None
        self._layout = None  # (rate, layout, format) the resampler was made for

    def push(self, frame: AudioFrame) -> None:
        """Add one decoded frame."""
        layout = (frame.sample_rate, frame.layout.name, frame.format.name)
        if layout != self._layout:
            self.finish()
            self.sample_rate = self.sample_rate or frame.sample_rate
            self._resampler = AudioResampler(format="fltp", layout=frame.layout, rate=self.sample_rate)
            self._layout = layout
        for resampled in self._resampler.resample(frame):
            self._append(resampled)

    def finish(self) -> None:
        """Add what the resampler still holds."""
        if self._resampler is not None:
            for resampled in self._resampler.resample(None):
                self._append(resampled)
            self._resampler = None

    def covers(self, second: float) -> bool:
        """Whether the sound up to `second` on the file's clock has been decoded."""
        return self.first_second is not None and self.first_second + self._length / self.sample_rate >= second

    def read(self, second: float, samples: int) -> np.ndarray:
        """float32 `channels samples` from `second` on, silent where there is no sound; earlier sound is let go."""
        start = round((second - self.first_second) * self.sample_rate)
        stop = start + samples
        while self._blocks and self._dropped + self._blocks[0].shape[1] <= start:
            self._dropped += self._blocks.pop(0).shape[1]
        audio = np.zeros((self._channels, samples), dtype=np.float32)
        at = self._dropped
        for block in self._blocks:
            first, last = max(at, start), min(at + block.shape[1], stop)
            if first < last:
                audio[:, first - start : last - start] = block[:, first - at : last - at]
            at += block.shape[1]
            if at >= stop:
                break
        return np.clip(audio, -1, 1, out=audio)

    @property
    def samples(self) -> int:
        """Samples since `first_second`."""
        return self._length

    def _append(self, frame: AudioFrame) -> None:
        block = np.atleast_2d(frame.to_ndarray())
        if not np.isfinite(block).all():
            second = self._length / self.sample_rate
            raise ValueError(f"sound holds NaN or infinite samples after {second:.2f} s; re-encode the file")
        block = self._take(block, [channel.name for channel in frame.layout.channels])
        if self.first_second is None:
            self.first_second = frame.time or 0.0
        elif frame.time is not None:
            gap = round((frame.time - self.first_second) * self.sample_rate) - self._length
            if SOUND_JITTER * self.sample_rate < gap < LONGEST_PICTURE * self.sample_rate:
                self._add(np.zeros((block.shape[0], gap), dtype=np.float32))
        self._add(block)

    def _add(self, block: np.ndarray) -> None:
        if self._length == 0:
            self._channels = block.shape[0]
        elif block.shape[0] != self._channels:
            block = np.repeat(MIX_DOWN(block, []), self._channels, axis=0)
        self._blocks.append(block)
        self._length += block.shape[1]
