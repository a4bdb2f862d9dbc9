"""Where one shot ends and the next begins, so that no clip holds a cut."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from videopoet.data.media import Media

LEVELS = 8  # of each colour in a histogram
GRID = 16  # rows and columns that frames are shrunk to before they are compared


class ShotDetector(ABC):
    """A frozen dataclass of plain values that finds cuts between frames at the clips' rate and size.

    A network (TransNet-like) loads its weights when it is first called, in the process that calls it.
    """

    @property
    def context(self) -> int:
        """How many frames on either side an answer may depend on."""
        return 1

    @abstractmethod
    def __call__(self, video: np.ndarray) -> np.ndarray:
        """uint8 (t, h, w, 3) -> bool (t,): whether a frame is the first of a new shot. The first frame's answer counts
        for nothing."""


@dataclass(frozen=True, kw_only=True)
class FrameDifference(ShotDetector):
    """A cut is where both what colours there are and where they are change much from one frame to the next.

    least: the product of two changes. Colours: the share of pixels whose colour has gone, by histograms of 8 x 8 x 8
    colours; it stays small where the camera moves. Places: the mean difference, of 255, of frames shrunk to 16 x 16; it
    stays small where something small flashes or appears. The seven cuts in eight short natural videos at 8 frames per
    second lie between 15.6 and 112, the greatest change that is none, a car that passes close by, at 11.3. Fades and
    wipes, which go on over several frames, are found at times only.
    """

    least: float = 13.5

    def __call__(self, video: np.ndarray) -> np.ndarray:
        histograms, small = [_histogram(frame) for frame in video], [_shrunk(frame) for frame in video]
        cuts = np.zeros(len(video), dtype=bool)
        for i in range(1, len(video)):
            colours = np.abs(histograms[i] - histograms[i - 1]).sum() / 2
            places = np.abs(small[i] - small[i - 1]).mean()
            cuts[i] = colours * places >= self.least
        return cuts


def _histogram(frame: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> share of the pixels in each of 8 x 8 x 8 colours."""
    level = (frame // (256 // LEVELS)).astype(np.int64)
    colour = (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]
    return np.bincount(colour.ravel(), minlength=LEVELS**3) / colour.size


def _shrunk(frame: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> float32 (16, 16, 3), or as many rows and columns as there are: means of blocks."""
    rows, columns = (min(GRID, side) for side in frame.shape[:2])
    height, width = frame.shape[0] // rows, frame.shape[1] // columns
    blocks = frame[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive frames of one shot. `video` is None where a whole shot was too short: it had so many `frames`."""

    start: int  # frame of the file, at the clips' rate
    frames: int
    video: np.ndarray | None = None  # uint8 (t, h, w, 3)
    audio: np.ndarray | None = None  # float32 (s,)


def between_cuts(chunks: Iterable[Media], detector: ShotDetector, frames: int) -> Iterator[Span]:
    """Spans of `frames` frames that follow each other within each shot; what is left at the end of a shot is left out.

    Memory holds a clip, a chunk and the detector's context.
    """
    held = _Held()
    cuts: list[int] = []  # first frames of the shots to come
    shot = at = decided = 0  # first frame of this shot, of the next clip, and of those that are not yet judged
    for media, last in _with_last(chunks):
        held.push(media)
        until = held.end if last else max(decided, held.end - detector.context)
        if until > decided:
            first = max(held.first, decided - detector.context)
            found = first + np.flatnonzero(detector(held.video(first, held.end)))
            cuts += [int(frame) for frame in found if max(1, decided) <= frame < until]
            decided = until
        while at + frames <= (end := cuts[0] if cuts else decided) or cuts or last:
            if at + frames <= end:
                yield held.span(at, frames)
                at += frames
                continue
            if at == shot and end > shot:
                yield Span(start=shot, frames=end - shot)
            if not cuts:
                return
            shot = at = cuts.pop(0)
        held.drop(min(at, decided - detector.context))


def _with_last(chunks: Iterable[Media]) -> Iterator[tuple[Media, bool]]:
    """Each item and whether it is the last."""
    chunks = iter(chunks)
    held = next(chunks, None)
    while held is not None:
        following = next(chunks, None)
        yield held, following is None
        held = following


class _Held:
    """The frames and the sound of the chunks that came last, by their places in the file."""

    def __init__(self) -> None:
        self.first = 0  # frame
        self._frames: list[np.ndarray] = []
        self._audio: np.ndarray | None = None  # float32 (s,) from `_heard` on
        self._heard = 0  # sample
        self._samples = 0.0  # per frame

    @property
    def end(self) -> int:
        """The frame after the last."""
        return self.first + len(self._frames)

    def push(self, media: Media) -> None:
        self._samples = media.sample_rate / media.fps
        if media.audio is not None:
            audio = np.zeros(0, dtype=np.float32) if self._audio is None else self._audio
            gap = (
                round(self.end * self._samples) - self._heard - len(audio)
            )  # a sample, where chunks are no whole number
            new = np.pad(media.audio[0], (max(gap, 0), 0), mode="edge")[max(-gap, 0) :]
            self._audio = np.concatenate([audio, new])
        self._frames += list(media.video)

    def video(self, first: int, end: int) -> np.ndarray:
        return np.stack(self._frames[first - self.first : end - self.first])

    def span(self, start: int, frames: int) -> Span:
        audio = self._audio
        if audio is not None:
            begin, length = round(start * self._samples) - self._heard, round(frames * self._samples)
            audio = audio[begin : begin + length]
            audio = np.pad(audio, (0, length - len(audio)), mode="edge")
        return Span(start=start, frames=frames, video=self.video(start, start + frames), audio=audio)

    def drop(self, frame: int) -> None:
        """Lets go what lies before a frame."""
        if frame > self.first:
            del self._frames[: frame - self.first]
            self.first = frame
            if self._audio is not None:
                self._audio = self._audio[round(frame * self._samples) - self._heard :]
                self._heard = round(frame * self._samples)
