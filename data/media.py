"""Media files <-> arrays: mp4 with sound is written; anything PyAV or Pillow can open is read."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from videopoet.data.channels import MIX_DOWN, Channels
from videopoet.data.decoding import Picture, Source, open_source
from videopoet.data.files import whole_or_nothing
from videopoet.data.timeline import FrameGrid, SoundTrack
from videopoet.data.transforms import ResizeCrop

SOUND_WAIT = 10.0  # seconds the pictures may run ahead before a chunk is given without waiting for its sound
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # Hz


@dataclass(frozen=True, kw_only=True)
class Media:
    """Pictures and the sound of the same span; what a file holds, or what will be written to one."""

    video: np.ndarray | None  # uint8 t h w c, RGB
    fps: float
    audio: np.ndarray | None = None  # float32 channels s, in [-1, 1]
    sample_rate: int = 16000  # Hz


def read_media(
    path: str | os.PathLike,
    *,
    fps: float | None = None,
    sample_rate: int | None = 16000,
    channels: Channels = MIX_DOWN,
    resize: ResizeCrop | None = None,
    max_seconds: float | None = None,
) -> Media:
    """The whole file at a constant frame rate, upright, with the sound of the same span.

    Frame i is the picture on show i / fps seconds after the first one, whatever the file's own frame times.
    `fps=None` and `sample_rate=None` keep the file's own rates. Sound has round(t / fps * sample_rate) samples, silence
    where the track is shorter; `audio` is None where there is no track. Several channels are mixed down to one, or kept
    with `channels=EachChannel()`; louder samples than full scale are clipped. Decoding stops after `max_seconds`.

    Raises ValueError, one line, if the file cannot be read or holds no picture.
    """
    chunks = stream_media(
        path, fps=fps, sample_rate=sample_rate, channels=channels, resize=resize, max_seconds=max_seconds
    )
    return next(chunks)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """First picture of an image or video file as uint8 `h w c`; ValueError if it cannot be read."""
    chunks = stream_media(path, fps=1.0, chunk_frames=1, audio=False, max_seconds=0.5)
    return next(chunks).video[0]


def read_audio(path: str | os.PathLike, *, sample_rate: int | None = 16000, channels: Channels = MIX_DOWN) -> Media:
    """Sound of any file, with or without pictures, as `Media(video=None)`; ValueError if it has no audio track."""
    sound = SoundTrack(sample_rate=sample_rate, channels=channels)
    with open_source(path, video=False) as source, _naming(path):
        for frame in source.items:
            sound.push(frame)
        sound.finish()
    if not sound.samples:
        raise ValueError(f"{path}: has no audio track")
    return Media(
        video=None, fps=0.0, audio=sound.read(sound.first_second, sound.samples), sample_rate=sound.sample_rate
    )


def stream_audio(
    path: str | os.PathLike, *, seconds: float, sample_rate: int = 16000, start: float = 0.0, end: float | None = None
) -> Iterator[np.ndarray]:
    """`read_audio`, mixed down, in consecutive chunks of `seconds`, float32 (s,), decoded as they are asked for.

    Of the sound from second `start` to second `end` of the file. The last chunk may be shorter. Memory holds a chunk,
    never the file. A file that turns out damaged half way raises after the chunks before the damage.
    """
    sound, length = SoundTrack(sample_rate=sample_rate, channels=MIX_DOWN), round(seconds * sample_rate)
    most = None if end is None else round((end - start) * sample_rate)  # samples
    given = 0

    def chunk(samples: int) -> np.ndarray:
        return sound.read(begin + given / sample_rate, samples)[0]

    def ready() -> int:  # samples that are decoded and not yet given
        decoded = sound.samples - round((begin - sound.first_second) * sample_rate)
        return (decoded if most is None else min(decoded, most)) - given

    with open_source(path, video=False, start=start) as source, _naming(path):
        for frame in source.items:
            sound.push(frame)
            if sound.first_second is None:
                continue
            begin = sound.first_second if source.start is None else source.start
            while ready() >= length:
                yield chunk(length)
                given += length
            if most is not None and given + ready() >= most:
                break
        else:
            sound.finish()
    if not sound.samples:
        raise ValueError(f"{path}: has no audio track")
    begin = sound.first_second if source.start is None else source.start
    while (samples := min(length, ready())) > 0:
        yield chunk(samples)
        given += samples


@contextmanager
def _naming(path: str | os.PathLike) -> Iterator[None]:
    """Puts the file before what is wrong with its contents; `open_source` does so for what FFmpeg says."""
    try:
        yield
    except FFmpegError:  # some are ValueErrors
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def stream_media(
    path: str | os.PathLike,
    *,
    fps: float | None = None,
    sample_rate: int | None = 16000,
    channels: Channels = MIX_DOWN,
    audio: bool = True,
    resize: ResizeCrop | None = None,
    chunk_frames: int | None = None,
    start: float = 0.0,
    max_seconds: float | None = None,
) -> Iterator[Media]:
    """`read_media` in consecutive chunks of `chunk_frames` frames, decoded as they are asked for.

    They begin `start` seconds after the file's beginning, with the picture then on show. The last chunk may be shorter.
    Memory holds a chunk and what the file interleaves around it, never the file. A file that turns out damaged half way
    raises after the chunks before the damage.
    """
    if fps is not None and not 0 < fps < 1000:
        raise ValueError(f"fps must lie between 0 and 1000, not {fps}")
    with open_source(path, audio=audio, start=start) as source:
        grid = FrameGrid(fps=fps, frame_rate=source.frame_rate, resize=resize, pixel_aspect=source.pixel_aspect)
        sound = SoundTrack(sample_rate=sample_rate, channels=channels)
        with _naming(path):
            yield from _chunks(source, grid, sound, chunk_frames, max_seconds)


def _chunks(
    source: Source, grid: FrameGrid, sound: SoundTrack, chunk_frames: int | None, max_seconds: float | None
) -> Iterator[Media]:
    frames: list[np.ndarray] = []
    given = 0  # frames in the chunks given so far
    sounding = source.has_audio

    def heard(number: int) -> bool:  # whether the sound of the first `number` frames is there, or worth no more waiting
        end = grid.first_second + number / grid.fps
        return not sounding or sound.covers(end) or grid.count - number > SOUND_WAIT * grid.fps

    def chunk(number: int) -> Media:
        span = round(number / grid.fps * (sound.sample_rate or 0))
        audio = sound.read(grid.first_second + given / grid.fps, span) if sound.samples else None
        if audio is None and sounding and sound.sample_rate:
            audio = np.zeros((1, span), dtype=np.float32)
        return Media(video=np.stack(frames[:number]), fps=grid.fps, audio=audio, sample_rate=sound.sample_rate or 16000)

    for item in source.items:
        if not isinstance(item, Picture):
            sound.push(item)
        elif max_seconds is None or not grid.fps or grid.count < max_seconds * grid.fps:
            frames += grid.push(item)
        while chunk_frames and len(frames) >= chunk_frames and heard(given + chunk_frames):
            yield chunk(chunk_frames)
            del frames[:chunk_frames]
            given += chunk_frames
        if max_seconds is not None and grid.fps and grid.count >= max_seconds * grid.fps and heard(grid.count):
            break
    else:
        sound.finish()
        frames += grid.finish()
    if max_seconds is not None and grid.fps:
        del frames[max(0, max(1, round(max_seconds * grid.fps)) - given) :]
    if grid.count == 0:
        raise ValueError("holds no frame that decodes" + (f" after {source.start:g} s" if source.start else ""))
    while frames:
        number = min(chunk_frames or len(frames), len(frames))
        yield chunk(number)
        del frames[:number]
        given += number


def write_media(path: str | os.PathLike, media: Media, crf: int = 12) -> None:
    """Write an mp4 any browser plays: H.264 yuv420p and AAC, index first; a file appears whole or not at all.

    Odd sizes are padded to even by repeating the last row or column. `crf` is x264's quality: 0 lossless .. 51.
    """
    write_chunks(path, [media], crf)


def write_chunks(path: str | os.PathLike, chunks: Iterable[Media], crf: int = 12) -> None:
    """`write_media` for consecutive chunks of one video, each written as it comes and then let go.

    All are of the first one's size and rates, with sound if it has sound. However a video is cut, the file is the same,
    if every chunk's sound is of whole frames. Raises ValueError where they differ or there are none.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; create it first")
    writer: _Writer | None = None
    try:
        with whole_or_nothing(path) as temporary:
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
                for chunk in chunks:
                    _check(path, chunk)
                    writer = writer or _Writer(container, chunk, crf)
                    if _kind(chunk) != writer.kind:
                        raise ValueError(f"{path}: a chunk is {_kind(chunk)}, the first was {writer.kind}")
                    for packet in writer.packets(chunk):
                        container.mux(packet)
                if writer is None:
                    raise ValueError(f"{path}: nothing to write, no picture")
                for packet in writer.rest():
                    container.mux(packet)
    except (FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def _check(path: Path, media: Media) -> None:
    video, audio = media.video, media.audio
    if video is None and audio is None:
        raise ValueError(f"{path}: nothing to write, neither video nor audio")
    if video is not None and (video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape):
        raise ValueError(f"{path}: video must be uint8 t h w 3, not {video.dtype} {video.shape}")
    if video is not None and not media.fps > 0:
        raise ValueError(f"{path}: fps must be positive, not {media.fps}")
    if audio is not None and (audio.ndim != 2 or audio.shape[0] not in (1, 2) or audio.dtype.kind != "f"):
        raise ValueError(f"{path}: audio must be float (1 or 2, samples), not {audio.dtype} {audio.shape}")


def _kind(media: Media) -> str:
    """What all chunks of a file have in common, in words."""
    video = "" if media.video is None else f"{media.video.shape[2]} x {media.video.shape[1]} at {media.fps:g} fps"
    audio = "" if media.audio is None else f"{media.audio.shape[0]} channels at {media.sample_rate} Hz"
    return " with ".join(part for part in (video, audio) if part)


class _Writer:
    """The streams of an mp4 and how much of each is written; all are added before the first packet, as mp4 wants."""

    def __init__(self, container: av.container.OutputContainer, first: Media, crf: int):
        self.kind, self.frames, self.samples = _kind(first), 0, 0
        self.reformatter, self.video, self.audio = VideoReformatter(), None, None
        if first.video is not None:
            self.video = _video_stream(container, first.fps, first.video.shape[1:3], crf)
        if first.audio is not None and first.audio.shape[1]:
            rate = first.sample_rate if first.sample_rate in AAC_RATES else 48000
            self.audio = container.add_stream("aac", rate=rate, layout=("mono", "stereo")[first.audio.shape[0] - 1])
            self.audio.bit_rate = 96000 * first.audio.shape[0]

    def packets(self, media: Media) -> Iterator[av.Packet]:
        """A chunk, frame by frame and the sound of each after it."""
        num_frames = 0 if self.video is None else len(media.video)
        block = media.sample_rate if not num_frames else max(1, round(media.sample_rate / media.fps))
        num_blocks = 0 if self.audio is None else -(-media.audio.shape[1] // block)
        for index in range(max(num_frames, num_blocks)):
            if index < num_frames:
                frame = _frame(media.video[index], self.video, self.reformatter)
                frame.pts, self.frames = self.frames, self.frames + 1
                yield from self.video.encode(frame)
            if index < num_blocks:
                samples = media.audio[:, index * block : (index + 1) * block]
                yield from self.audio.encode(self._sound(samples, media.sample_rate))

    def _sound(self, samples: np.ndarray, sample_rate: int) -> av.AudioFrame:
        samples = np.ascontiguousarray(samples, dtype=np.float32).clip(-1, 1)
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self.audio.layout.name)
        sound.sample_rate = sample_rate
        sound.pts, sound.time_base = self.samples, Fraction(1, sample_rate)
        self.samples += samples.shape[1]
        return sound

    def rest(self) -> Iterator[av.Packet]:
        """What the encoders still hold."""
        for stream in (self.video, self.audio):
            if stream is not None:
                yield from stream.encode(None)


def _video_stream(
    container: av.container.OutputContainer, fps: float, size: tuple[int, int], crf: int
) -> av.VideoStream:
    rate = Fraction(fps).limit_denominator(1001)
    # x264's macroblock tree gives the same pictures other bits from run to run (seen with 64 x 64 pixels, one thread).
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    video = container.add_stream("libx264", rate=rate, options=options)
    video.height, video.width = (-(-side // 2) * 2 for side in size)
    video.pix_fmt = "yuv420p"
    video.codec_context.thread_count = 1 if video.height * video.width <= 640 * 480 else 0
    # Said in the file, so that every player undoes the same matrix.
    video.codec_context.colorspace = Colorspace.ITU601
    video.codec_context.color_range = ColorRange.MPEG
    video.codec_context.color_primaries = video.codec_context.color_trc = 6  # SMPTE 170M
    return video


def _frame(picture: np.ndarray, stream: av.VideoStream, reformatter: VideoReformatter) -> av.VideoFrame:
    padding = ((0, stream.height - picture.shape[0]), (0, stream.width - picture.shape[1]), (0, 0))
    even = np.pad(picture, padding, mode="edge") if any(map(any, padding)) else np.ascontiguousarray(picture)
    frame = av.VideoFrame.from_ndarray(even, format="rgb24")
    yuv = reformatter.reformat(
        frame, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, threads=1
    )
    yuv.time_base = 1 / stream.codec_context.framerate
    return yuv
