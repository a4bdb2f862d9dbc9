"""From a video file to the clip that is real, and from a clip to what a detector sees, as values."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from videopoet.data.media import Media, stream_media
from videopoet.evaluation.clip_rules import AllFrames, FrameRule
from videopoet.evaluation.resize import Resize, RoundTo8Bits
from videopoet.evaluation.round_trip import NoRoundTrip, RoundTrip


@dataclass(frozen=True, kw_only=True)
class Source:
    """The real clip of a video file.

    frames: which of them, at the file's own rate or another. resize: to which size; None keeps the file's. fps: what the
    clip is said to have from there on (0 keeps it). sound: with it, at `sample_rate` Hz, cut to the span of the frames.
    """

    frames: FrameRule = AllFrames()
    resize: Resize | None = None
    fps: float = 0.0
    sound: bool = False
    sample_rate: int = 16000

    def read(self, path: Path, key: str) -> Media:
        """ValueError, naming the file, where it cannot be read or is too short for the rule."""
        media = next(stream_media(path, audio=self.sound, sample_rate=self.sample_rate))
        chosen = self.frames.indices(len(media.video), fps=media.fps, key=key)
        rate = (getattr(self.frames, "fps", None) or media.fps) / getattr(self.frames, "stride", 1)
        audio = media.audio
        if audio is not None:
            start, span = (round(s * media.sample_rate) for s in (chosen[0] / media.fps, len(chosen) / rate))
            audio = np.pad(audio[:, start : start + span], ((0, 0), (0, max(0, start + span - audio.shape[1]))))
        video = media.video[chosen]
        if self.resize is not None:
            video = RoundTo8Bits()(self.resize(video)).numpy().astype(np.uint8)
        return replace(media, video=np.ascontiguousarray(video), audio=audio, fps=self.fps or rate)


@dataclass(frozen=True, kw_only=True)
class View:
    """What of a clip a detector sees: `frames` of it, resized, and as a file would give them back."""

    frames: FrameRule = AllFrames()
    resize: Resize | None = None
    storage: RoundTrip = NoRoundTrip()

    def __call__(self, clip: Media, key: str) -> np.ndarray:
        """uint8 or float32 in [0, 255], (t, h, w, 3)."""
        video = clip.video[self.frames.indices(len(clip.video), fps=clip.fps, key=key)]
        if self.resize is not None:
            video = self.resize(video).numpy()
        if not isinstance(self.storage, NoRoundTrip):
            video = self.storage(np.clip(np.rint(video), 0, 255).astype(np.uint8), fps=clip.fps)
        return np.ascontiguousarray(video)
