"""From one media file, or a span of it, to clips; what cannot be used is named with its reason."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from videopoet.data.captions import read_sidecars
from videopoet.data.decoding import read_facts
from videopoet.data.filters import Filters
from videopoet.data.inputs import Input
from videopoet.data.media import Media, stream_audio, stream_media
from videopoet.data.rejections import Rejection
from videopoet.data.schema import Clip
from videopoet.data.shots import ShotDetector, between_cuts
from videopoet.data.transforms import ResizeCrop, audio_to_int16

MEDIA_SUFFIXES = tuple(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .webp .wmv".split()
)
IMAGE_SUFFIXES = tuple(".bmp .jpeg .jpg .png .tif .tiff".split())  # taken where a clip is one frame
SOUND_SUFFIXES = tuple(".aac .aif .aiff .au .caf .flac .g722 .m4a .mp3 .oga .ogg .opus .wav .wma".split())
SHORTEST_SOUND = 0.05  # seconds
SILENCE = 1e-4  # standard deviation of the samples, -80 dB of full scale


class Piece(NamedTuple):
    """What may become a clip."""

    second: float  # of its file
    video: np.ndarray | None  # uint8 t h w 3
    audio: np.ndarray | None  # float32 s


class Refused(NamedTuple):
    """What does not: `kind` is counted, `reason` told; `second` where it is not the whole input."""

    kind: str
    reason: str
    second: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """Cuts one file into consecutive, non-overlapping clips of `frames` frames at `fps`, `size` x `size` pixels.

    With `shots`, no clip holds what that finds to be a cut: clips begin anew with every shot.
    """

    frames: int
    fps: float
    size: int  # pixels
    sample_rate: int  # Hz
    clips_per_file: int | None = None
    shots: ShotDetector | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Names of files that are looked for in folders."""
        return MEDIA_SUFFIXES + IMAGE_SUFFIXES * (self.frames == 1)

    @property
    def geometry(self) -> dict[str, float]:
        """What the manifest says of every clip."""
        return {"fps": self.fps, "frames": self.frames, "height": self.size, "width": self.size}

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frames % 4 != 1:
            below = max(1, (self.frames - 1) // 4 * 4 + 1)
            nearest = f"{below} and {below + 4}" if self.frames > 1 else "1 and 5"
            raise ValueError(f"frames must be 1 + 4k, not {self.frames}; the nearest are {nearest}")
        if not (self.fps > 0 and self.size > 0 and self.sample_rate > 0):
            raise ValueError(
                f"fps, size and sample rate must be positive, not {self.fps}, {self.size}, {self.sample_rate}"
            )

    def pieces(self, path: Path, entry: Input) -> Iterator[Piece | Refused]:
        """Of what the input holds, in order of time. Raises ValueError where the file cannot be read further."""
        chunks = stream_media(
            path,
            fps=self.fps,
            sample_rate=self.sample_rate,
            resize=ResizeCrop(height=self.size, width=self.size),
            chunk_frames=self.frames,
            start=entry.start,
            max_seconds=None if entry.end is None else entry.end - entry.start,
        )
        for start, frames, media in self._spans(chunks):
            second = round(entry.start + start / self.fps, 6)
            if media is not None:
                yield Piece(second, media.video, None if media.audio is None else media.audio[0])
            elif start or self.shots is not None:
                yield Refused("short shot", f"a shot of {frames} of {self.frames} frames at {self.fps:g} fps", second)
            else:
                yield Refused("too short", f"too short: {frames} of {self.frames} frames at {self.fps:g} fps")

    def _spans(self, chunks: Iterator[Media]) -> Iterator[tuple[int, int, Media | None]]:
        """First frame, number of frames, and the clip, or None where there are too few frames at first."""
        if self.shots is None:
            for number, media in enumerate(chunks):
                frames = len(media.video)
                if frames == self.frames or not number:
                    yield number * self.frames, frames, media if frames == self.frames else None
            return
        for span in between_cuts(chunks, self.shots, self.frames):
            audio = None if span.audio is None else span.audio[None]
            media = None if span.video is None else Media(video=span.video, fps=self.fps, audio=audio)
            yield span.start, span.frames, media


@dataclass(frozen=True, kw_only=True)
class SoundCutter:
    """Cuts the sound of one file, mixed to mono, into consecutive clips of `seconds` without pictures.

    The end of a file is filled up with silence where it is half a clip or all there is. Clips that are silent throughout,
    or constant, are passed over. Sound beyond full scale is clipped there, as everywhere in this project.
    """

    seconds: float
    sample_rate: int  # Hz
    clips_per_file: int | None = None
    suffixes: ClassVar[tuple[str, ...]] = SOUND_SUFFIXES + MEDIA_SUFFIXES

    def __post_init__(self) -> None:
        if not (self.seconds >= SHORTEST_SOUND and self.sample_rate > 0):
            raise ValueError(
                f"clips must last at least {SHORTEST_SOUND:g} s at a positive sample rate, not {self.seconds:g} s at "
                f"{self.sample_rate} Hz"
            )

    @property
    def geometry(self) -> dict[str, float]:
        """What the manifest says of every clip: one frame of `seconds` without pixels."""
        return {"fps": 1 / self.seconds, "frames": 1, "height": 0, "width": 0}

    def pieces(self, path: Path, entry: Input) -> Iterator[Piece | Refused]:
        """Of what the input holds, in order of time. Raises ValueError where the file cannot be read further."""
        length, heard, number = round(self.seconds * self.sample_rate), 0, 0  # samples, samples, clips
        how = {"seconds": self.seconds, "sample_rate": self.sample_rate, "start": entry.start, "end": entry.end}
        for audio in stream_audio(path, **how):
            second, heard = heard / self.sample_rate, heard + len(audio)
            whole = 2 * len(audio) >= length or not second
            if audio.std() > SILENCE and whole and heard >= SHORTEST_SOUND * self.sample_rate:
                yield Piece(round(entry.start + second, 6), None, np.pad(audio, (0, length - len(audio))))
                number += 1
        seconds = heard / self.sample_rate
        if seconds < SHORTEST_SOUND:
            yield Refused("too short", f"too short: {seconds:.3f} of {SHORTEST_SOUND:g} s")
        elif not number:
            yield Refused("silent", f"silent: {seconds:.1f} s below -80 dB but for a constant")


@dataclass(frozen=True, kw_only=True)
class Taking:
    """What becomes of one input: its captions read, its facts judged, its clips cut and judged one by one."""

    cutter: Cutter | SoundCutter
    filters: Filters = field(default_factory=Filters)

    def __call__(self, folder: Path, entry: Input, key: str) -> Iterator[Clip | Rejection]:
        """Clips of an input of that key, and a `Rejection` of each that was not taken, or of the whole input."""
        number = 0
        for found in self._found(folder, entry):
            if isinstance(found, Refused):
                yield Rejection(file=entry.file, kind=found.kind, reason=found.reason, second=found.second)
                continue
            yield replace(found, key=f"{key}_{number:04d}")
            number += 1
            if number == self.cutter.clips_per_file:
                return

    def _found(self, folder: Path, entry: Input) -> Iterator[Clip | Refused]:
        path, second = folder / entry.file, None if entry.whole else entry.start
        if entry.bytes is None:
            yield Refused("missing", "listed but not there", second)
            return
        try:
            caption = read_sidecars(path) + entry.caption
        except ValueError as error:
            yield Refused("captions", str(error), second)
            return
        caption, refusal = self.filters.of_caption(caption)
        number = 0
        try:
            refusal = refusal or self._judge_facts(path, entry)
            if refusal is not None:
                yield Refused(*refusal, second)
                return
            for piece in self.cutter.pieces(path, entry):
                if isinstance(piece, Piece):
                    piece = self._judged(_clip(piece, entry, caption.texts, caption.extra))
                    number += isinstance(piece, Clip)
                yield piece
        except ValueError as error:
            yield _failure(path, error, number, second)

    def _judge_facts(self, path: Path, entry: Input) -> tuple[str, str] | None:
        if not self.filters.reads_facts:
            return None
        facts = read_facts(path)
        if facts.seconds is not None:
            facts = replace(facts, seconds=max(0.0, min(facts.seconds, entry.end or facts.seconds) - entry.start))
        return self.filters.of_facts(facts)

    def _judged(self, clip: Clip) -> Clip | Refused:
        refusal = self.filters.of_clip(clip, self.cutter.sample_rate)
        return clip if refusal is None else Refused(*refusal, clip.source["second"])


def _clip(piece: Piece, entry: Input, captions: tuple[str, ...], extra: dict[str, Any]) -> Clip:
    return Clip(
        key="",
        video=piece.video,
        audio=None if piece.audio is None else audio_to_int16(piece.audio),
        captions=captions,
        source=extra | {"file": entry.file, "second": piece.second},
    )


def _failure(path: Path, error: ValueError, clips: int, second: float | None) -> Refused:
    """What to report of a file that broke after so many clips."""
    cause = str(error).removeprefix(f"{path}: ")
    reason = f"{cause}, after {clips} clips" if clips else cause
    return Refused("damaged" if clips else "unreadable", reason, second)
